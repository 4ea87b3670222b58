-- A refresh makes buckets of a time anew for all series, and an aggregate has no buckets where
-- there are no readings any more. So what retention freezes is kept beside the aggregates, in the
-- tables that plain PostgreSQL has for all rollups.

CREATE TABLE rollup_1m (
    bucket timestamptz NOT NULL,
    agent_uuid uuid NOT NULL,
    metric_name text COLLATE "C" NOT NULL,
    -- Empty where there is none, as are units: both are of the key.
    device_name text COLLATE "C" NOT NULL,
    protocol text COLLATE "C" NOT NULL,
    unit text COLLATE "C" NOT NULL,
    min_value double precision,
    max_value double precision,
    first_value double precision,
    last_value double precision,
    sample_count bigint NOT NULL,
    max_anomaly_score double precision,
    good_count bigint NOT NULL,
    value_count bigint NOT NULL,
    value_sum double precision NOT NULL,
    -- Sum of squared deviations from the average.
    value_m2 double precision NOT NULL,
    first_time timestamptz,
    last_time timestamptz,
    PRIMARY KEY (agent_uuid, metric_name, bucket, device_name, protocol, unit)
) PARTITION BY RANGE (bucket);

CREATE TABLE rollup_1h (LIKE rollup_1m INCLUDING ALL) PARTITION BY RANGE (bucket);
CREATE TABLE rollup_daily (LIKE rollup_1m INCLUDING ALL);

-- The partition of a month. ATTACH keeps nobody out, CREATE … PARTITION OF would stop all readers.
CREATE FUNCTION rollup_make_month(parent text, at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    month timestamp := date_trunc('month', at AT TIME ZONE 'UTC');
    partition text := parent || '_' || to_char(month, 'YYYYMM');
BEGIN
    IF to_regclass(partition) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       parent, partition, month AT TIME ZONE 'UTC',
                       (month + interval '1 month') AT TIME ZONE 'UTC');
    END IF;
END
$$;

CREATE INDEX rollup_daily_age ON rollup_daily USING brin (bucket);

-- Days of readings: where they are, and how many rows came in since the statistics began.
CREATE FUNCTION readings_days()
RETURNS TABLE (day timestamptz, place regclass, inserted bigint, is_compressed boolean)
LANGUAGE sql STABLE AS $$
SELECT range_start, format('%I.%I', chunk_schema, chunk_name)::regclass,
       pg_stat_get_tuples_inserted(format('%I.%I', chunk_schema, chunk_name)::regclass::oid),
       is_compressed
FROM timescaledb_information.chunks WHERE hypertable_name = 'readings'
$$;

-- Frozen buckets within [since, until).
CREATE FUNCTION rollup_buckets(
    level text, agents uuid[], metrics text[], since timestamptz, until timestamptz
) RETURNS SETOF rollup_1m
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT * FROM %I WHERE agent_uuid = ANY ($1) AND ($2 IS NULL OR metric_name = ANY ($2))
         AND bucket >= %L AND bucket < %L', 'rollup_' || level, since, until)
    USING agents, metrics;
END
$$;

CREATE FUNCTION rollup_merged(
    level text, step interval, agents uuid[], metrics text[], since timestamptz, until timestamptz
) RETURNS SETOF rollup_1m
LANGUAGE sql STABLE AS $$
SELECT date_bin(step, h.bucket, 'epoch') AS bucket, h.agent_uuid, h.metric_name, h.device_name,
       h.protocol, h.unit, min(h.min_value) AS min_value, max(h.max_value) AS max_value,
       (min(ARRAY[date_part('epoch', h.first_time), h.first_value])
           FILTER (WHERE h.first_time IS NOT NULL))[2] AS first_value,
       (max(ARRAY[date_part('epoch', h.last_time), h.last_value])
           FILTER (WHERE h.first_time IS NOT NULL))[2] AS last_value,
       sum(h.sample_count)::bigint AS sample_count,
       max(h.max_anomaly_score) AS max_anomaly_score, sum(h.good_count)::bigint AS good_count,
       sum(h.value_count)::bigint AS value_count,
       (merge_moments(ARRAY[h.value_count, h.value_sum, h.value_m2]::double precision[]))[2]
           AS value_sum,
       (merge_moments(ARRAY[h.value_count, h.value_sum, h.value_m2]::double precision[]))[3]
           AS value_m2,
       min(h.first_time) AS first_time, max(h.last_time) AS last_time
FROM rollup_buckets(level, agents, metrics, since, until) AS h
GROUP BY 1, 2, 3, 4, 5, 6
$$;

CREATE OR REPLACE FUNCTION readings_buckets(
    level text, agents uuid[], metrics text[], since timestamptz, until timestamptz
) RETURNS SETOF readings_1m
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    frozen boolean := any_frozen(agents, metrics, since);
BEGIN
    -- Bounds as constants, so that chunks outside of them are left out when it is planned.
    RETURN QUERY EXECUTE format(
        'SELECT * FROM %I AS made
         WHERE agent_uuid = ANY ($1) AND ($2 IS NULL OR metric_name = ANY ($2))
         AND bucket >= %L AND bucket < %L
         AND (NOT $3 OR NOT EXISTS (
             SELECT FROM retention_floors AS f
             WHERE f.agent_uuid = made.agent_uuid AND f.metric_name = made.metric_name
               AND f.kept_since > made.bucket))', 'readings_' || level, since, until)
    USING agents, metrics, frozen;
    IF frozen THEN
        RETURN QUERY
        SELECT bucket, agent_uuid, metric_name, nullif(device_name, ''), protocol,
               nullif(unit, ''), value_sum / nullif(value_count, 0), min_value, max_value,
               first_value, last_value,
               CASE WHEN value_count > 1 THEN sqrt(value_m2 / (value_count - 1)) END, sample_count,
               good_count::double precision / sample_count, max_anomaly_score, good_count,
               value_count, value_sum, value_m2, first_time, last_time
        FROM rollup_buckets(level, agents, metrics, since, until);
    END IF;
END
$$;

-- How many readings agents have stored, by metric and day.
CREATE FUNCTION readings_stored(agents uuid[])
RETURNS TABLE (metric_name text, day date, readings bigint)
LANGUAGE sql STABLE AS $$
SELECT b.metric_name, (b.bucket AT TIME ZONE 'UTC')::date, sum(b.sample_count)::bigint
FROM readings_daily AS b
LEFT JOIN retention_floors AS f USING (agent_uuid, metric_name)
WHERE agent_uuid = ANY (agents) AND bucket >= coalesce(f.kept_since, '-infinity')
  AND bucket >= (SELECT kept_since FROM retention_levels WHERE level = 'raw')
GROUP BY 1, 2
$$;
