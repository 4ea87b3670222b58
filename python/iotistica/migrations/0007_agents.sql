-- Fleets and agents, how agents come in, and what they may do at the broker (reference section 7).

CREATE TABLE fleets (
    fleet_uuid uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id text NOT NULL REFERENCES tenants (id),
    fleet_name text NOT NULL,
    fleet_type text NOT NULL DEFAULT 'physical',
    description text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    modified_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, fleet_name),
    -- What others refer to, so that the database keeps a fleet within its tenant.
    UNIQUE (tenant_id, fleet_uuid)
);

CREATE TABLE provisioning_keys (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id text NOT NULL REFERENCES tenants (id),
    fleet_uuid uuid NOT NULL,
    key_hash text NOT NULL,
    -- The digest alone, for the look-up.
    key_hash_fast text NOT NULL UNIQUE,
    description text NOT NULL DEFAULT '',
    max_agents integer NOT NULL CHECK (max_agents BETWEEN 1 AND 10000),
    agents_provisioned integer NOT NULL DEFAULT 0,
    is_active boolean NOT NULL DEFAULT true,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    last_used_at timestamptz,
    revoked_at timestamptz,
    revoked_reason text,
    CONSTRAINT provisioning_keys_are_not_overused CHECK (agents_provisioned <= max_agents),
    FOREIGN KEY (tenant_id, fleet_uuid) REFERENCES fleets (tenant_id, fleet_uuid) ON DELETE CASCADE
);

CREATE INDEX provisioning_keys_fleet ON provisioning_keys (tenant_id, fleet_uuid);

-- Every registration that was tried. The tenant is unknown where the key is.
CREATE TABLE provisioning_attempts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text REFERENCES tenants (id),
    provisioning_key_id uuid REFERENCES provisioning_keys (id) ON DELETE SET NULL,
    agent_uuid uuid,
    ip_address text NOT NULL,
    user_agent text NOT NULL,
    success boolean NOT NULL,
    error_message text,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX provisioning_attempts_failures ON provisioning_attempts (ip_address, created_at)
    WHERE NOT success;
CREATE INDEX provisioning_attempts_created_at ON provisioning_attempts (created_at);

ALTER TABLE agents
    ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN type text NOT NULL DEFAULT 'standalone',
    ADD COLUMN status text NOT NULL DEFAULT 'unknown',
    ADD COLUMN is_online boolean NOT NULL DEFAULT false,
    ADD COLUMN is_active boolean NOT NULL DEFAULT true,
    ADD COLUMN last_connectivity_event timestamptz,
    ADD COLUMN ip_address text,
    ADD COLUMN mac_address text,
    ADD COLUMN os_version text,
    ADD COLUMN architecture text,
    ADD COLUMN agent_version text,
    ADD COLUMN cpu_usage double precision,
    ADD COLUMN cpu_temp double precision,
    ADD COLUMN memory_usage double precision,
    ADD COLUMN memory_total double precision,
    ADD COLUMN storage_usage double precision,
    ADD COLUMN storage_total double precision,
    ADD COLUMN uptime double precision,
    ADD COLUMN network_interfaces jsonb,
    ADD COLUMN location jsonb,
    ADD COLUMN fleet_uuid uuid,
    ADD COLUMN provisioning_state text NOT NULL DEFAULT 'created'
        CONSTRAINT agents_provisioning_state_is_known
            CHECK (provisioning_state IN ('created', 'registered', 'provisioned')),
    ADD COLUMN provisioned_at timestamptz,
    ADD COLUMN provisioned_by_key_id uuid REFERENCES provisioning_keys (id) ON DELETE SET NULL,
    ADD COLUMN device_api_key_hash text UNIQUE,
    ADD COLUMN api_key_issued_at timestamptz,
    ADD COLUMN api_key_last_rotated_at timestamptz,
    ADD COLUMN device_public_key text,
    ADD COLUMN pop_verified boolean NOT NULL DEFAULT false,
    ADD COLUMN pop_verified_at timestamptz,
    ADD COLUMN last_challenge text,
    ADD COLUMN last_challenge_expires_at timestamptz,
    ADD COLUMN last_challenge_used_at timestamptz,
    ADD COLUMN last_auth_method text,
    ADD COLUMN mqtt_username text,
    ADD COLUMN modified_at timestamptz NOT NULL DEFAULT now(),
    ADD FOREIGN KEY (tenant_id, fleet_uuid) REFERENCES fleets (tenant_id, fleet_uuid),
    -- What the tables below refer to.
    ADD UNIQUE (tenant_id, uuid);

-- In place of the index on the tenant alone: pages of a listing are ranges of it.
CREATE UNIQUE INDEX agents_id ON agents (tenant_id, id);
DROP INDEX agents_tenant_id;
CREATE INDEX agents_fleet ON agents (tenant_id, fleet_uuid, id);
CREATE INDEX agents_name ON agents (tenant_id, lower(name) text_pattern_ops);
CREATE INDEX agents_version ON agents (tenant_id, agent_version);
CREATE INDEX agents_online ON agents (tenant_id, id) WHERE is_online;

-- Former keys of agents, each good until its grace period ends.
CREATE TABLE agent_key_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_uuid uuid NOT NULL REFERENCES agents (uuid) ON DELETE CASCADE,
    key_hash text NOT NULL UNIQUE,
    issued_at timestamptz NOT NULL,
    rotated_at timestamptz NOT NULL DEFAULT now(),
    valid_until timestamptz NOT NULL,
    reason text NOT NULL,
    ip_address text NOT NULL
);

CREATE INDEX agent_key_history_agent ON agent_key_history (agent_uuid, id);

-- Agents that are gone, for processes that remember agents.
CREATE TABLE agent_departures (
    tenant_id text NOT NULL REFERENCES tenants (id),
    agent_uuid uuid NOT NULL,
    departed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, agent_uuid)
);

CREATE INDEX agent_departures_departed_at ON agent_departures (departed_at);

CREATE TABLE agent_tags (
    tenant_id text NOT NULL,
    agent_uuid uuid NOT NULL,
    key text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_uuid, key),
    FOREIGN KEY (tenant_id, agent_uuid) REFERENCES agents (tenant_id, uuid) ON DELETE CASCADE
);

CREATE INDEX agent_tags_value ON agent_tags (tenant_id, key, value, agent_uuid);

-- Which tags a tenant means to use; where values are named, others are refused.
CREATE TABLE tag_definitions (
    tenant_id text NOT NULL REFERENCES tenants (id),
    key text COLLATE "C" NOT NULL,
    description text NOT NULL DEFAULT '',
    allowed_values text[],
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key)
);

-- Saved filters: who is in a group is decided whenever somebody asks.
CREATE TABLE groups (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id text NOT NULL REFERENCES tenants (id),
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    filter jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    modified_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name)
);

-- Users of the broker. A password that we made is derived from `password_salt` and a secret outside
-- the database, so the broker can be told again at any time and no password is stored.
CREATE TABLE mqtt_users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username text NOT NULL UNIQUE,
    tenant_id text NOT NULL REFERENCES tenants (id),
    agent_uuid uuid,
    password_hash text NOT NULL,
    password_salt bytea,
    is_superuser boolean NOT NULL DEFAULT false,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- Grows with every change that the broker must learn of; `told` is what it knows.
    revision bigint NOT NULL DEFAULT 1,
    told bigint NOT NULL DEFAULT 0,
    -- The row stays until the broker knows that the user is gone.
    deleted boolean NOT NULL DEFAULT false
);

CREATE INDEX mqtt_users_tenant_id ON mqtt_users (tenant_id, id);
CREATE INDEX mqtt_users_agent ON mqtt_users (agent_uuid) WHERE agent_uuid IS NOT NULL;
CREATE INDEX mqtt_users_untold ON mqtt_users (id) WHERE revision <> told;

CREATE TABLE mqtt_acls (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username text NOT NULL REFERENCES mqtt_users (username) ON DELETE CASCADE,
    clientid text,
    topic text NOT NULL,
    access smallint NOT NULL CHECK (access BETWEEN 1 AND 7),
    priority integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (username, topic)
);

-- The leading numbers of a version, comparable: `v1.10.2-rc1` is {1,10,2}, later than {1,9}.
CREATE FUNCTION version_numbers(version text) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT string_to_array(substring(version FROM '^v?(\d{1,9}(?:\.\d{1,9})*)'), '.')::integer[]
$$;
