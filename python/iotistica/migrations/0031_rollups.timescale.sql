-- Rollups as continuous aggregates, each made of the one below it. They aggregate in real time: what
-- is newer than the last refresh is read from below. A refresh looks only at what has changed, so
-- its window may reach back as far as the retention does, and late data reaches every level.

CREATE MATERIALIZED VIEW readings_1m
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket(INTERVAL '1 minute', time) AS bucket,
       agent_uuid,
       metric_name,
       extra ->> 'device_name' AS device_name,
       protocol,
       unit,
       (moments(measurable(value)))[2] / nullif((moments(measurable(value)))[1], 0) AS avg_value,
       min(value) AS min_value,
       max(value) AS max_value,
       first(value, time) FILTER (WHERE value IS NOT NULL) AS first_value,
       last(value, time) FILTER (WHERE value IS NOT NULL) AS last_value,
       float8_stddev_samp(moments(measurable(value))) AS stddev_value,
       count(*) AS sample_count,
       count(*) FILTER (WHERE quality = 'good')::double precision / count(*) AS quality_ratio,
       max(anomaly_score) AS max_anomaly_score,
       count(*) FILTER (WHERE quality = 'good') AS good_count,
       count(measurable(value)) AS value_count,
       (moments(measurable(value)))[2] AS value_sum,
       (moments(measurable(value)))[3] AS value_m2,
       min(time) FILTER (WHERE value IS NOT NULL) AS first_time,
       max(time) FILTER (WHERE value IS NOT NULL) AS last_time
FROM readings
GROUP BY 1, 2, 3, 4, 5, 6
WITH NO DATA;

CREATE MATERIALIZED VIEW readings_1h
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket(INTERVAL '1 hour', bucket) AS bucket,
       agent_uuid,
       metric_name,
       device_name,
       protocol,
       unit,
       (merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[]))[2]
           / nullif((merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[]))[1], 0)
           AS avg_value,
       min(min_value) AS min_value,
       max(max_value) AS max_value,
       first(first_value, first_time) FILTER (WHERE first_time IS NOT NULL) AS first_value,
       last(last_value, last_time) FILTER (WHERE first_time IS NOT NULL) AS last_value,
       float8_stddev_samp(merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[]))
           AS stddev_value,
       sum(sample_count)::bigint AS sample_count,
       sum(good_count)::double precision / sum(sample_count)::double precision AS quality_ratio,
       max(max_anomaly_score) AS max_anomaly_score,
       sum(good_count)::bigint AS good_count,
       sum(value_count)::bigint AS value_count,
       (merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[]))[2]
           AS value_sum,
       (merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[]))[3]
           AS value_m2,
       min(first_time) AS first_time,
       max(last_time) AS last_time
FROM readings_1m
GROUP BY 1, 2, 3, 4, 5, 6
WITH NO DATA;

CREATE MATERIALIZED VIEW readings_daily
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket(INTERVAL '1 day', bucket) AS bucket,
       agent_uuid,
       metric_name,
       device_name,
       protocol,
       unit,
       (merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[]))[2]
           / nullif((merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[]))[1], 0)
           AS avg_value,
       min(min_value) AS min_value,
       max(max_value) AS max_value,
       first(first_value, first_time) FILTER (WHERE first_time IS NOT NULL) AS first_value,
       last(last_value, last_time) FILTER (WHERE first_time IS NOT NULL) AS last_value,
       float8_stddev_samp(merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[]))
           AS stddev_value,
       sum(sample_count)::bigint AS sample_count,
       sum(good_count)::double precision / sum(sample_count)::double precision AS quality_ratio,
       max(max_anomaly_score) AS max_anomaly_score,
       sum(good_count)::bigint AS good_count,
       sum(value_count)::bigint AS value_count,
       (merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[]))[2]
           AS value_sum,
       (merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[]))[3]
           AS value_m2,
       min(first_time) AS first_time,
       max(last_time) AS last_time
FROM readings_1h
GROUP BY 1, 2, 3, 4, 5, 6
WITH NO DATA;

-- The reference has this name for it, too.
CREATE VIEW readings_hourly AS SELECT * FROM readings_1h;

SELECT add_continuous_aggregate_policy('readings_1m', start_offset => INTERVAL '730 days',
    end_offset => INTERVAL '1 minute', schedule_interval => INTERVAL '1 minute',
    buckets_per_batch => 60);
SELECT add_continuous_aggregate_policy('readings_1h', start_offset => INTERVAL '730 days',
    end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '10 minutes',
    buckets_per_batch => 24);
SELECT add_continuous_aggregate_policy('readings_daily', start_offset => INTERVAL '730 days',
    end_offset => INTERVAL '1 day', schedule_interval => INTERVAL '1 hour');

-- Buckets of '1m', '1h' or 'daily' within [since, until), which lie on bounds of buckets; of all
-- metrics where none are named. The same on both profiles.
CREATE FUNCTION readings_buckets(
    level text, agents uuid[], metrics text[], since timestamptz, until timestamptz
) RETURNS SETOF readings_1m
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    -- Bounds as constants, so that chunks outside of them are left out when it is planned.
    RETURN QUERY EXECUTE format(
        'SELECT * FROM %I WHERE agent_uuid = ANY ($1) AND ($2 IS NULL OR metric_name = ANY ($2))
         AND bucket >= %L AND bucket < %L', 'readings_' || level, since, until)
    USING agents, metrics;
END
$$;
