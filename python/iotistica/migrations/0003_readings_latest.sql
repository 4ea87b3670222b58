-- Newest row of each series, kept by ingestion, so that "now" never scans readings. No column
-- that changes is indexed and pages keep room, so that updates stay on their page (HOT).

CREATE TABLE readings_latest (
    agent_uuid uuid NOT NULL,
    device_name text COLLATE "C" NOT NULL,
    metric_name text COLLATE "C" NOT NULL,
    value double precision,
    quality text,
    unit text,
    protocol text NOT NULL,
    time timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_uuid, device_name, metric_name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
