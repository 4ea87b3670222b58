-- Rollups whose readings are removed: they are answered from what is kept, marked or not.

-- Days of readings: where they are, and how many rows came in since the statistics began.
CREATE FUNCTION readings_days()
RETURNS TABLE (day timestamptz, place regclass, inserted bigint, is_compressed boolean)
LANGUAGE sql STABLE AS $$
SELECT to_date(right(relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC', pg_class.oid::regclass,
       pg_stat_get_tuples_inserted(pg_class.oid), false
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'readings'::regclass AND relname ~ '^readings_[0-9]{8}$'
$$;

CREATE INDEX rollup_daily_age ON rollup_daily USING brin (bucket);

-- Larger buckets, of `step`, made of those of a level.
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

-- Metrics of an agent that have rows on the day of a time: one look into the index for each, however
-- many rows there are.
DROP FUNCTION readings_metrics;
CREATE FUNCTION readings_metrics(agent uuid, at timestamptz) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- As a constant in the statement, so that other partitions are left out when it is planned.
    day timestamptz := date_bin('1 day', at, 'epoch');
    metrics text[] := '{}';
    found text := '';
BEGIN
    LOOP
        EXECUTE format(
            'SELECT metric_name FROM readings WHERE agent_uuid = $1 AND metric_name > $2
             AND time >= %L AND time < %L ORDER BY metric_name LIMIT 1',
            day, day + interval '1 day')
        INTO found USING agent, found;
        EXIT WHEN found IS NULL;
        metrics := metrics || found;
    END LOOP;
    RETURN metrics;
END
$$;

CREATE OR REPLACE FUNCTION rollup_buckets(
    level text, agents uuid[], metrics text[], since timestamptz, until timestamptz
) RETURNS SETOF rollup_1m
LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- What is made anew where anything in it is marked.
    part interval := CASE level WHEN 'daily' THEN interval '1 day' ELSE interval '1 hour' END;
    marked_agents uuid[];
    marked_hours timestamptz[];
    frozen boolean := any_frozen(agents, metrics, since);
BEGIN
    SELECT array_agg(agent_uuid), array_agg(hour) INTO marked_agents, marked_hours
    FROM (
        SELECT DISTINCT agent_uuid, date_bin(part, hour, 'epoch') AS hour FROM rollup_marks
        WHERE agent_uuid = ANY (agents)
          AND hour >= date_bin(part, since, 'epoch') AND hour < until
    ) AS marked;
    RETURN QUERY EXECUTE format($query$
        SELECT * FROM %I AS kept
        WHERE agent_uuid = ANY ($1) AND metric_name = ANY ($2)
          AND bucket >= %L AND bucket < %L
          AND ($3 IS NULL OR NOT EXISTS (
              SELECT FROM unnest($3, $4) AS marked (agent_uuid, hour)
              WHERE marked.agent_uuid = kept.agent_uuid
                AND marked.hour = date_bin($5, kept.bucket, 'epoch')
          ) OR ($6 AND is_frozen(kept.agent_uuid, kept.metric_name, kept.bucket)))
        $query$, 'rollup_' || level, since, until)
    USING agents, metrics, marked_agents, marked_hours, part, frozen;
    IF marked_hours IS NULL THEN
        RETURN;
    ELSIF level = 'daily' THEN
        RETURN QUERY
        SELECT days.*
        FROM unnest(marked_agents, marked_hours) AS marked (agent_uuid, hour),
             rollup_merged('1h', part, ARRAY[marked.agent_uuid], metrics, marked.hour,
                           marked.hour + part) AS days
        WHERE NOT (frozen AND is_frozen(days.agent_uuid, days.metric_name, days.bucket));
    ELSE
        RETURN QUERY
        SELECT * FROM rollup_raw(
            CASE level WHEN '1m' THEN interval '1 minute' ELSE interval '1 hour' END,
            marked_agents, marked_hours, metrics
        ) AS made
        WHERE made.bucket >= since AND made.bucket < until
          AND NOT (frozen AND is_frozen(made.agent_uuid, made.metric_name, made.bucket));
    END IF;
END
$$;

DROP FUNCTION rollup_days;

CREATE OR REPLACE VIEW rollup_all_1m AS
SELECT * FROM rollup_1m AS kept
WHERE NOT EXISTS (
    SELECT FROM rollup_marks AS m
    WHERE m.agent_uuid = kept.agent_uuid AND m.hour = date_bin('1 hour', kept.bucket, 'epoch')
)
UNION ALL
SELECT made.*
FROM (SELECT DISTINCT agent_uuid, hour FROM rollup_marks) AS m
CROSS JOIN LATERAL rollup_raw(
    '1 minute', ARRAY[m.agent_uuid], ARRAY[m.hour], readings_metrics(m.agent_uuid, m.hour)
) AS made
WHERE NOT is_frozen(made.agent_uuid, made.metric_name, made.bucket)
UNION ALL
SELECT kept.*
FROM (SELECT DISTINCT agent_uuid, hour FROM rollup_marks) AS m
JOIN rollup_1m AS kept ON kept.agent_uuid = m.agent_uuid
    AND kept.bucket >= m.hour AND kept.bucket < m.hour + interval '1 hour'
WHERE is_frozen(kept.agent_uuid, kept.metric_name, kept.bucket);

CREATE OR REPLACE VIEW rollup_all_1h AS
SELECT * FROM rollup_1h AS kept
WHERE NOT EXISTS (
    SELECT FROM rollup_marks AS m
    WHERE m.agent_uuid = kept.agent_uuid AND m.hour = date_bin('1 hour', kept.bucket, 'epoch')
)
UNION ALL
SELECT made.*
FROM (SELECT DISTINCT agent_uuid, hour FROM rollup_marks) AS m
CROSS JOIN LATERAL rollup_raw(
    '1 hour', ARRAY[m.agent_uuid], ARRAY[m.hour], readings_metrics(m.agent_uuid, m.hour)
) AS made
WHERE NOT is_frozen(made.agent_uuid, made.metric_name, made.bucket)
UNION ALL
SELECT kept.*
FROM (SELECT DISTINCT agent_uuid, hour FROM rollup_marks) AS m
JOIN rollup_1h AS kept ON kept.agent_uuid = m.agent_uuid AND kept.bucket = m.hour
WHERE is_frozen(kept.agent_uuid, kept.metric_name, kept.bucket);

CREATE OR REPLACE VIEW rollup_all_daily AS
SELECT * FROM rollup_daily AS kept
WHERE NOT EXISTS (
    SELECT FROM rollup_marks AS m
    WHERE m.agent_uuid = kept.agent_uuid
      AND m.hour >= kept.bucket AND m.hour < kept.bucket + interval '1 day'
)
UNION ALL
SELECT made.*
FROM (
    SELECT DISTINCT agent_uuid, date_bin('1 day', hour, 'epoch') AS day FROM rollup_marks
) AS m
CROSS JOIN LATERAL rollup_merged(
    '1h', '1 day', ARRAY[m.agent_uuid], readings_metrics(m.agent_uuid, m.day),
    m.day, m.day + interval '1 day'
) AS made
WHERE NOT is_frozen(made.agent_uuid, made.metric_name, made.bucket)
UNION ALL
SELECT kept.*
FROM (
    SELECT DISTINCT agent_uuid, date_bin('1 day', hour, 'epoch') AS day FROM rollup_marks
) AS m
JOIN rollup_daily AS kept ON kept.agent_uuid = m.agent_uuid AND kept.bucket = m.day
WHERE is_frozen(kept.agent_uuid, kept.metric_name, kept.bucket);

-- Make the buckets of one closed hour of an agent, and take its marks away: first, so that whatever is
-- added meanwhile is either seen here or has a mark that stays. By one caller at a time. What is
-- frozen is left alone, and so is a bucket of more readings than there are: their day was dropped.
CREATE OR REPLACE FUNCTION rollup_refresh(agent uuid, at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    this_day timestamptz := date_bin('1 day', at, 'epoch');
    next_day timestamptz := this_day + interval '1 day';
    metrics text[];
    merged CONSTANT text := 'rollup_merged($1, $2, ARRAY[$3], $4, $5, $6)';
BEGIN
    DELETE FROM rollup_marks WHERE agent_uuid = agent AND hour = at;
    metrics := ARRAY(
        SELECT metric FROM unnest(readings_metrics(agent, at)) AS metric
        WHERE NOT is_frozen(agent, metric, at)
    );
    IF metrics = '{}' THEN
        RETURN;
    END IF;
    PERFORM rollup_make_month('rollup_1m', at), rollup_make_month('rollup_1h', at);
    EXECUTE rollup_keep('rollup_1m', 'rollup_raw($1, ARRAY[$2], ARRAY[$3], $4)')
    USING interval '1 minute', agent, at, metrics;
    EXECUTE rollup_keep('rollup_1h', merged)
    USING '1m'::text, interval '1 hour', agent, metrics, at, at + interval '1 hour';
    -- The last marked hour of a day finishes it.
    IF NOT EXISTS (
        SELECT FROM rollup_marks WHERE agent_uuid = agent AND hour >= this_day AND hour < next_day
    ) THEN
        EXECUTE rollup_keep('rollup_daily', merged)
        USING '1h'::text, interval '1 day', agent, metrics, this_day, next_day;
    END IF;
END
$$;

-- How many readings agents have stored, by metric and day: from days that are over, and hours of the
-- last two.
CREATE FUNCTION readings_stored(agents uuid[])
RETURNS TABLE (metric_name text, day date, readings bigint)
LANGUAGE sql STABLE AS $$
WITH bound AS (SELECT date_bin('1 day', now(), 'epoch') - interval '1 day' AS recent)
SELECT b.metric_name, (b.bucket AT TIME ZONE 'UTC')::date, sum(b.sample_count)::bigint
FROM (
    SELECT agent_uuid, d.metric_name, bucket, sample_count FROM rollup_daily AS d, bound
    WHERE agent_uuid = ANY (agents) AND bucket < recent
    UNION ALL
    SELECT agent_uuid, h.metric_name, bucket, sample_count FROM rollup_1h AS h, bound
    WHERE agent_uuid = ANY (agents) AND bucket >= recent
) AS b
LEFT JOIN retention_floors AS f USING (agent_uuid, metric_name)
WHERE bucket >= coalesce(f.kept_since, '-infinity')
  AND bucket >= (SELECT kept_since FROM retention_levels WHERE level = 'raw')
GROUP BY 1, 2
$$;
