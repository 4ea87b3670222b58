-- The one large table, as a hypertable. It has no index but its primary key: every further one
-- costs each inserted row, and all queries name the agent and the metric, or use readings_latest.

CREATE TABLE readings (
    time timestamptz NOT NULL,
    agent_uuid uuid NOT NULL,
    metric_name text COLLATE "C" NOT NULL,
    value double precision,
    quality text DEFAULT 'good',
    unit text,
    protocol text NOT NULL,
    extra jsonb DEFAULT '{}',
    anomaly_score double precision,
    anomaly_threshold double precision,
    PRIMARY KEY (agent_uuid, metric_name, time)
);

SELECT create_hypertable(
    'readings', 'time', chunk_time_interval => INTERVAL '1 day', create_default_indexes => false
);

ALTER TABLE readings SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'agent_uuid, metric_name',
    timescaledb.compress_orderby = 'time DESC'
);

SELECT add_compression_policy('readings', INTERVAL '7 days');
SELECT add_retention_policy('readings', INTERVAL '730 days');
