-- Rules on telemetry and presence, the alerts that they raise, and who is told.

CREATE TABLE alert_rules (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    name text NOT NULL,
    description text NOT NULL,
    -- Pattern with * and ?, and the same for LIKE; NULL is the agent as a whole.
    metric text,
    metric_like text,
    -- Which agents; NULL is all of the tenant.
    agents uuid[],
    fleet_uuid uuid,
    -- As the operator gave it; what the queries need of it follows.
    condition jsonb NOT NULL,
    kind text NOT NULL CHECK (kind IN ('threshold', 'rate', 'absence')),
    operator text NOT NULL CHECK (operator IN ('>', '>=', '<', '<=', 'outside')),
    low double precision,
    high double precision,
    per_s double precision,
    window_s double precision,
    for_s double precision NOT NULL,
    clear_for_s double precision NOT NULL,
    max_age_s double precision NOT NULL,
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    labels jsonb NOT NULL,
    enabled boolean NOT NULL,
    interval_s double precision NOT NULL CHECK (interval_s > 0),
    next_at timestamptz NOT NULL DEFAULT now(),
    evaluated_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    modified_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name),
    CHECK (kind = 'absence' OR metric IS NOT NULL)
) WITH (fillfactor = 70);

CREATE INDEX alert_rules_tenant_id ON alert_rules (tenant_id, id);
CREATE INDEX alert_rules_due ON alert_rules (next_at) WHERE enabled;

-- Whether a value is where a rule does not want it.
CREATE FUNCTION alert_breaches(
    value double precision, operator text, low double precision, high double precision
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE operator
        WHEN '>' THEN value > high
        WHEN '>=' THEN value >= high
        WHEN '<' THEN value < low
        WHEN '<=' THEN value <= low
        ELSE value < low OR value > high
    END
$$;

-- All that is remembered of a series: what is not resolved is what a rule knows about it.
CREATE TABLE alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    rule_id bigint REFERENCES alert_rules (id) ON DELETE SET NULL,
    rule_name text NOT NULL,
    kind text NOT NULL,
    agent_uuid uuid NOT NULL,
    device_name text COLLATE "C" NOT NULL,
    metric_name text COLLATE "C" NOT NULL,
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    labels jsonb NOT NULL,
    message text NOT NULL,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'acknowledged', 'resolved')),
    -- What was seen when it was opened, and at last.
    opened_value double precision,
    value double precision,
    opened_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    -- Since when it has been clear, and will be resolved if it stays so.
    cleared_since timestamptz,
    flapping boolean NOT NULL,
    acknowledged_at timestamptz,
    acknowledged_by text,
    resolved_at timestamptz,
    resolution text
) WITH (fillfactor = 80);

-- One open alert for each series of a rule, whoever evaluates it.
CREATE UNIQUE INDEX alerts_unresolved ON alerts (rule_id, agent_uuid, device_name, metric_name)
    WHERE status <> 'resolved';
CREATE INDEX alerts_series ON alerts (rule_id, agent_uuid, device_name, metric_name, opened_at);
CREATE INDEX alerts_tenant_id ON alerts (tenant_id, id);
CREATE INDEX alerts_tenant_unresolved ON alerts (tenant_id, id) WHERE status <> 'resolved';
CREATE INDEX alerts_agent_uuid ON alerts (tenant_id, agent_uuid, id);
CREATE INDEX alerts_resolved_at ON alerts (resolved_at) WHERE status = 'resolved';

-- Whom to tell. No secret is stored: it is computed of the salt and a key of the deployment.
CREATE TABLE alert_webhooks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    name text NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL,
    severities text[] NOT NULL,
    enabled boolean NOT NULL,
    salt bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    modified_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name)
);

-- What is to be told, and what came of it.
CREATE TABLE alert_deliveries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    webhook_id bigint NOT NULL REFERENCES alert_webhooks (id) ON DELETE CASCADE,
    event text NOT NULL,
    payload jsonb NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'dead')),
    attempts integer NOT NULL DEFAULT 0,
    -- When it is tried, again if whoever tries it dies.
    next_at timestamptz NOT NULL DEFAULT now(),
    response_status integer,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
) WITH (fillfactor = 80);

CREATE INDEX alert_deliveries_due ON alert_deliveries (next_at) WHERE status = 'pending';
CREATE INDEX alert_deliveries_webhook_id ON alert_deliveries (webhook_id, id);
CREATE INDEX alert_deliveries_finished_at ON alert_deliveries (finished_at)
    WHERE status <> 'pending';
