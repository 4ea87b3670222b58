-- What the rest of the control path needs: events by time, scripts of jobs, users whom an identity
-- provider knows, and how the health of endpoints went.

-- Events of agents and entries of the journal are read as one, by time.
CREATE INDEX agent_events_tenant_time ON agent_events (tenant_id, time DESC, id DESC);
DROP INDEX agent_events_tenant;
CREATE INDEX audit_logs_time ON audit_logs (tenant_id, created_at DESC, id DESC);
CREATE INDEX audit_logs_agent ON audit_logs (agent_uuid, created_at DESC)
    WHERE agent_uuid IS NOT NULL;
CREATE INDEX audit_logs_request ON audit_logs (tenant_id, request_id) WHERE request_id <> '';

CREATE TABLE job_handlers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    script_type text NOT NULL,
    script_content text NOT NULL,
    default_args jsonb NOT NULL DEFAULT '[]',
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name)
);

-- The subject of an identity provider's tokens.
ALTER TABLE users ADD COLUMN auth0_sub text;
CREATE UNIQUE INDEX users_auth0_sub ON users (auth0_sub, tenant_id) WHERE auth0_sub IS NOT NULL;

-- What agents said of the health of their endpoints, whenever that changed.
CREATE TABLE endpoint_health (
    agent_uuid uuid NOT NULL REFERENCES agents (uuid) ON DELETE CASCADE,
    name text COLLATE "C" NOT NULL,
    time timestamptz NOT NULL,
    status text,
    connected boolean,
    last_error text,
    last_poll text,
    error_count double precision,
    PRIMARY KEY (agent_uuid, name, time)
);

CREATE INDEX endpoint_health_age ON endpoint_health USING brin (time);

-- What is kept of a report on health, whichever way agents spell it.
CREATE FUNCTION endpoint_standing(health jsonb)
RETURNS TABLE (status text, connected boolean, last_error text, last_poll text,
               error_count double precision)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT left(CASE WHEN jsonb_typeof(health) = 'object' THEN health ->> 'status'
                     ELSE health #>> '{}' END, 100),
           CASE WHEN jsonb_typeof(health -> 'connected') = 'boolean'
                THEN (health -> 'connected')::boolean END,
           left(coalesce(health ->> 'lastError', health ->> 'last_error', health ->> 'error'), 500),
           left(coalesce(health ->> 'lastPoll', health ->> 'last_poll'), 100),
           json_number(coalesce(health -> 'errorCount', health -> 'error_count'))
$$;

-- Whether a report says something new: not the time of a poll, nor how often something failed.
CREATE FUNCTION endpoint_differs(health jsonb, before jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN jsonb_typeof(health) = 'object' AND jsonb_typeof(before) = 'object' THEN
            health -> 'status' IS DISTINCT FROM before -> 'status'
            OR health -> 'connected' IS DISTINCT FROM before -> 'connected'
            OR coalesce(health ->> 'lastError', health ->> 'last_error', health ->> 'error')
               IS DISTINCT FROM
               coalesce(before ->> 'lastError', before ->> 'last_error', before ->> 'error')
        ELSE health IS DISTINCT FROM before
    END
$$;
