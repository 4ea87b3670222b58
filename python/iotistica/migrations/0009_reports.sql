-- What agents report about themselves, when they were heard, and what their containers say
-- (reference sections 1.4 and 7).

-- No index on what changes with every report, and room on the pages, so that updates stay on
-- their page (HOT).
ALTER TABLE agents
    ADD COLUMN IF NOT EXISTS is_online boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS last_seen_at timestamptz,
    ADD COLUMN IF NOT EXISTS last_connectivity_event timestamptz,
    ADD COLUMN IF NOT EXISTS ip_address text,
    ADD COLUMN IF NOT EXISTS mac_address text,
    ADD COLUMN IF NOT EXISTS os_version text,
    ADD COLUMN IF NOT EXISTS architecture text,
    ADD COLUMN IF NOT EXISTS agent_version text,
    ADD COLUMN IF NOT EXISTS cpu_usage double precision,
    ADD COLUMN IF NOT EXISTS cpu_temp double precision,
    ADD COLUMN IF NOT EXISTS memory_usage double precision,
    ADD COLUMN IF NOT EXISTS memory_total double precision,
    ADD COLUMN IF NOT EXISTS storage_usage double precision,
    ADD COLUMN IF NOT EXISTS storage_total double precision,
    ADD COLUMN IF NOT EXISTS uptime double precision,
    ADD COLUMN IF NOT EXISTS network_interfaces jsonb,
    SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE agent_current_state (
    agent_uuid uuid PRIMARY KEY REFERENCES agents (uuid) ON DELETE CASCADE,
    apps jsonb,
    config jsonb,
    -- Every other field of the reports.
    system_info jsonb NOT NULL DEFAULT '{}',
    version bigint,
    reported_at timestamptz NOT NULL,
    -- When each field was reported, epoch milliseconds, also of fields that were removed: so reports
    -- may come twice and in any order, and the result is the same.
    stamps jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT agent_current_state_is_bounded
        CHECK (pg_column_size(system_info) + pg_column_size(stamps) <= 4194304)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- Each field of the younger report. A field that has a stamp and no value was removed.
CREATE FUNCTION agent_state_merge(old agent_current_state, new agent_current_state)
RETURNS agent_current_state
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    fresh text[];
    merged agent_current_state := old;
BEGIN
    SELECT coalesce(array_agg(key), '{}') INTO fresh
    FROM jsonb_each_text(new.stamps)
    WHERE value::bigint >= coalesce((old.stamps ->> key)::bigint, 0);
    IF 'apps' = ANY (fresh) THEN merged.apps := new.apps; END IF;
    IF 'config' = ANY (fresh) THEN merged.config := new.config; END IF;
    IF 'version' = ANY (fresh) THEN merged.version := new.version; END IF;
    SELECT (old.system_info - fresh) || coalesce(jsonb_object_agg(key, value), '{}')
    INTO merged.system_info
    FROM jsonb_each(new.system_info) WHERE key = ANY (fresh);
    SELECT old.stamps || coalesce(jsonb_object_agg(key, value), '{}') INTO merged.stamps
    FROM jsonb_each(new.stamps) WHERE key = ANY (fresh);
    merged.reported_at := greatest(old.reported_at, new.reported_at);
    RETURN merged;
END
$$;

CREATE FUNCTION json_number(value jsonb) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN jsonb_typeof(value) = 'number' THEN value::double precision END
$$;

-- What happened to agents: they came and went, started and stopped, and what they sent as events.
CREATE TABLE agent_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    agent_uuid uuid NOT NULL REFERENCES agents (uuid) ON DELETE CASCADE,
    -- presence, agent or events
    source text NOT NULL,
    -- online, offline; below agent/ or events/ the rest of the topic
    type text NOT NULL,
    time timestamptz NOT NULL,
    data jsonb NOT NULL DEFAULT '{}',
    -- Of a message that can be told from one that is merely the same: it counts once.
    digest bytea,
    UNIQUE (agent_uuid, digest)
);

CREATE INDEX agent_events_time ON agent_events (agent_uuid, time DESC);
CREATE INDEX agent_events_tenant ON agent_events (tenant_id, id DESC);
CREATE INDEX agent_events_age ON agent_events USING brin (time);

-- One row: since when somebody watches agents come, without a gap.
CREATE TABLE presence_watch (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    since timestamptz NOT NULL,
    checked_at timestamptz NOT NULL
);

CREATE TABLE agent_updates (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_uuid uuid NOT NULL REFERENCES agents (uuid) ON DELETE CASCADE,
    status text NOT NULL DEFAULT 'pending'
        CONSTRAINT agent_updates_status_is_known CHECK (status IN (
            'pending', 'acknowledged', 'scheduled', 'in_progress', 'succeeded', 'failed',
            'rejected', 'timed_out')),
    current_version text,
    target_version text,
    deployment_type text,
    scheduled_time timestamptz,
    requested_by text NOT NULL DEFAULT '',
    error text,
    exit_code integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    timeout_at timestamptz
);

CREATE INDEX agent_updates_agent ON agent_updates (agent_uuid, id DESC);
CREATE INDEX agent_updates_timeout ON agent_updates (timeout_at)
    WHERE status IN ('pending', 'acknowledged', 'scheduled', 'in_progress');

-- Lines of containers, by day. No reference to agents: it would cost every line, and lines of
-- agents that are gone leave with their day.
CREATE TABLE agent_logs (
    agent_uuid uuid NOT NULL,
    time timestamptz NOT NULL,
    -- Tells lines of the same time apart, so that a line that comes twice is stored once.
    digest bigint NOT NULL,
    service_name text COLLATE "C" NOT NULL,
    level text COLLATE "C" NOT NULL,
    message text NOT NULL,
    is_stderr boolean NOT NULL DEFAULT false,
    is_system boolean NOT NULL DEFAULT false,
    meta jsonb,
    PRIMARY KEY (agent_uuid, time, digest)
) PARTITION BY RANGE (time);

-- As readings_make_days.
CREATE FUNCTION agent_logs_make_days(days integer[]) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    day date;
    partition text;
    made integer := 0;
BEGIN
    FOR day IN SELECT date '1970-01-01' + d FROM unnest(days) AS d ORDER BY d LOOP
        partition := 'agent_logs_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        LOCK TABLE agent_logs IN SHARE UPDATE EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE agent_logs INCLUDING ALL)', partition);
        EXECUTE format('ALTER TABLE agent_logs ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       partition,
                       day::timestamp AT TIME ZONE 'UTC',
                       (day + 1)::timestamp AT TIME ZONE 'UTC');
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

-- Remove the partitions of days before this one (since 1970-01-01, UTC); how many.
CREATE FUNCTION agent_logs_drop_days(first_kept integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    partition text;
    dropped integer := 0;
BEGIN
    FOR partition IN
        SELECT inhrelid::regclass::text FROM pg_inherits
        WHERE inhparent = 'agent_logs'::regclass
          AND inhrelid::regclass::text
              < 'agent_logs_' || to_char(date '1970-01-01' + first_kept, 'YYYYMMDD')
    LOOP
        EXECUTE format('DROP TABLE %s', partition);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

-- Which services of an agent have logs, so that listing them scans no lines.
CREATE TABLE agent_log_services (
    agent_uuid uuid NOT NULL REFERENCES agents (uuid) ON DELETE CASCADE,
    service_name text COLLATE "C" NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (agent_uuid, service_name)
) WITH (fillfactor = 70);

-- What agents dropped before they could send it, as they say.
CREATE TABLE agent_log_drops (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_uuid uuid NOT NULL REFERENCES agents (uuid) ON DELETE CASCADE,
    reported_at timestamptz NOT NULL,
    summary jsonb NOT NULL,
    digest bytea NOT NULL,
    UNIQUE (agent_uuid, digest)
);
