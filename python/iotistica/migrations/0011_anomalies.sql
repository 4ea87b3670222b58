-- What agents find strange: events, the incidents that they add up to, and alerts about those
-- (reference sections 1.4 and 7).

-- No agent is referred to: what happened stays when an agent goes.
CREATE TABLE anomaly_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    msg_id text COLLATE "C",
    agent_uuid uuid NOT NULL,
    device_name text NOT NULL,
    device_uuid text,
    device_type text NOT NULL,
    device_state text,
    metric text COLLATE "C" NOT NULL,
    endpoint_uuid uuid,
    timestamp_ms bigint NOT NULL,
    window_start_ms bigint,
    window_end_ms bigint,
    observed_value double precision,
    baseline jsonb,
    anomaly_score double precision,
    confidence double precision,
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    severity_reason text,
    triggered_by text[] NOT NULL,
    suppressed boolean NOT NULL,
    expected_range double precision[],
    deviation double precision,
    fingerprint text COLLATE "C" NOT NULL,
    cooldown_sec double precision,
    first_seen_ms bigint,
    consecutive_count bigint,
    event_count bigint,
    -- NULL where it was suppressed and nothing was under way.
    incident_id bigint,
    received_at timestamptz NOT NULL DEFAULT now()
);

-- An event that comes again is known by either.
CREATE UNIQUE INDEX anomaly_events_occurrence
    ON anomaly_events (agent_uuid, fingerprint, timestamp_ms, metric);
CREATE UNIQUE INDEX anomaly_events_msg_id ON anomaly_events (agent_uuid, msg_id)
    WHERE msg_id IS NOT NULL;
CREATE INDEX anomaly_events_tenant_id ON anomaly_events (tenant_id, timestamp_ms);
CREATE INDEX anomaly_events_agent_uuid ON anomaly_events (agent_uuid, timestamp_ms);
CREATE INDEX anomaly_events_incident_id ON anomaly_events (incident_id, timestamp_ms)
    WHERE incident_id IS NOT NULL;
-- For retention.
CREATE INDEX anomaly_events_received_at ON anomaly_events USING brin (received_at);

-- Two of one fingerprint are opened an hour apart at least; who writes holds a lock on it.
CREATE TABLE anomaly_incidents (
    incident_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    fingerprint text COLLATE "C" NOT NULL,
    metric text COLLATE "C" NOT NULL,
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    status text NOT NULL CHECK (status IN ('open', 'active', 'resolved')),
    affected_devices text[] NOT NULL,
    affected_agents uuid[] NOT NULL,
    opened_at timestamptz NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    max_anomaly_score double precision,
    max_confidence double precision,
    event_count bigint NOT NULL,
    -- Highest severity that there is an alert for, since it was opened or came back.
    alerted text CHECK (alerted IN ('warning', 'critical')),
    acknowledged_at timestamptz,
    acknowledged_by text,
    resolved_at timestamptz,
    resolved_by text,
    resolution_notes text,
    feedback text CHECK (feedback IN ('true_positive', 'false_positive', 'unsure')),
    feedback_notes text,
    feedback_at timestamptz,
    feedback_by text,
    UNIQUE (tenant_id, fingerprint, opened_at)
);

CREATE INDEX anomaly_incidents_tenant_id ON anomaly_incidents (tenant_id, incident_id);
CREATE INDEX anomaly_incidents_unresolved ON anomaly_incidents (tenant_id, incident_id)
    WHERE status <> 'resolved';
CREATE INDEX anomaly_incidents_affected_agents ON anomaly_incidents USING gin (affected_agents);
CREATE INDEX anomaly_incidents_last_seen ON anomaly_incidents (last_seen);

CREATE TABLE anomaly_alerts (
    alert_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    incident_id bigint NOT NULL REFERENCES anomaly_incidents (incident_id) ON DELETE CASCADE,
    agent_uuid uuid NOT NULL,
    device_name text NOT NULL,
    metric text NOT NULL,
    fingerprint text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('warning', 'critical')),
    -- What the incident was before; NULL where it is new.
    previous_severity text,
    message text NOT NULL,
    observed_value double precision,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'acknowledged', 'resolved')),
    created_at timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    acknowledged_by text,
    resolved_at timestamptz
);

CREATE INDEX anomaly_alerts_tenant_id ON anomaly_alerts (tenant_id, alert_id);
CREATE INDEX anomaly_alerts_incident_id ON anomaly_alerts (incident_id);
CREATE INDEX anomaly_alerts_agent_uuid ON anomaly_alerts (agent_uuid, alert_id);
