-- Users of the broker that operators make. A password that somebody chose is sealed: only the
-- deployment's secret, which is outside the database, opens it, so the broker can be told again.
ALTER TABLE mqtt_users
    ALTER COLUMN password_hash DROP NOT NULL,
    ADD COLUMN password_sealed bytea,
    ADD CONSTRAINT mqtt_users_have_a_password
        CHECK (num_nonnulls(password_hash, password_salt, password_sealed) > 0);

-- Pages of those that are not agents, however many agents a tenant has.
CREATE INDEX mqtt_users_of_operators ON mqtt_users (tenant_id, id)
    WHERE agent_uuid IS NULL AND NOT deleted;
