-- Rules for the agents that have tags, or are in a group now.

ALTER TABLE alert_rules
    -- Keys with their values, all of which an agent must have; a null is any value.
    ADD COLUMN tags jsonb,
    -- A group that is gone would mean every agent, so a group with rules stays.
    ADD COLUMN group_id uuid REFERENCES groups (id);

CREATE INDEX alert_rules_group_id ON alert_rules (group_id) WHERE group_id IS NOT NULL;

-- So that old entries of the journal are found without reading all of it.
CREATE INDEX audit_logs_created_at ON audit_logs USING brin (created_at);

-- One way of making and removing the days of a table, whose comments are those of 0002. What there
-- was for each table calls it: processes of the last version may still run.
CREATE FUNCTION make_days(parent regclass, days integer[]) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    named text := (SELECT relname FROM pg_class WHERE oid = parent);
    day date;
    partition text;
    made integer := 0;
BEGIN
    FOR day IN SELECT date '1970-01-01' + d FROM unnest(days) AS d ORDER BY d LOOP
        partition := named || '_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', parent);
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING ALL)', partition, parent);
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       parent,
                       partition,
                       day::timestamp AT TIME ZONE 'UTC',
                       (day + 1)::timestamp AT TIME ZONE 'UTC');
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

-- Remove the oldest day of a table before this one (since 1970-01-01, UTC); its name, or NULL where
-- there is none. A table that is not one by days, such as a hypertable, has none.
CREATE FUNCTION drop_day(parent regclass, first_kept integer) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    named text := (SELECT relname FROM pg_class WHERE oid = parent AND relkind = 'p');
    oldest regclass;
BEGIN
    SELECT inhrelid::regclass INTO oldest
    FROM pg_inherits JOIN pg_class ON oid = inhrelid
    WHERE inhparent = parent AND relname ~ ('^' || named || '_[0-9]{8}$')
      AND relname < named || '_' || to_char(date '1970-01-01' + first_kept, 'YYYYMMDD')
    ORDER BY relname LIMIT 1;
    IF oldest IS NOT NULL THEN
        EXECUTE format('DROP TABLE %s', oldest);
    END IF;
    RETURN oldest::text;
END
$$;

CREATE OR REPLACE FUNCTION agent_logs_make_days(days integer[]) RETURNS integer
LANGUAGE sql AS $$ SELECT make_days('agent_logs', days) $$;

DO $do$
BEGIN
    -- Where readings are a hypertable there is no such function, which tells the profile.
    IF to_regproc('readings_make_days') IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION readings_make_days(days integer[]) RETURNS integer
        LANGUAGE sql AS $$ SELECT make_days('readings', days) $$;
    END IF;
END
$do$;

DROP FUNCTION agent_logs_drop_days(integer);
