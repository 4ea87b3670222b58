-- Rules for the agents that have tags, or are in a group now.

ALTER TABLE alert_rules
    -- Keys with their values, all of which an agent must have; a null is any value.
    ADD COLUMN tags jsonb,
    -- A group that is gone would mean every agent, so a group with rules stays.
    ADD COLUMN group_id uuid REFERENCES groups (id);

CREATE INDEX alert_rules_group_id ON alert_rules (group_id) WHERE group_id IS NOT NULL;
