-- Rollups of the names, columns and answers that they have with TimescaleDB.
--
-- Of every hour of an agent either its buckets are in `rollup_*`, or it has a row in `rollup_marks`
-- and is answered from `readings`: never both, so answers are right at any time, whatever arrives
-- late. Ingestion marks an hour in the transaction that adds rows to it; `rollup_refresh` makes the
-- buckets of marked hours and takes the marks away (store/rollups.py).

CREATE TABLE rollup_marks (
    hour timestamptz NOT NULL,
    agent_uuid uuid NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX rollup_marks_agent ON rollup_marks (agent_uuid, hour);
CREATE INDEX rollup_marks_hour ON rollup_marks (hour);

-- Hours before it are closed: whoever adds to one of them marks it, always. Of others a process
-- marks each once, and remembers that.
CREATE TABLE rollup_state (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    closed_before timestamptz NOT NULL DEFAULT 'epoch'
);
INSERT INTO rollup_state DEFAULT VALUES;

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

CREATE VIEW rollup_all_1m AS
SELECT * FROM rollup_1m AS kept
WHERE NOT EXISTS (
    SELECT FROM rollup_marks AS m
    WHERE m.agent_uuid = kept.agent_uuid AND m.hour = date_bin('1 hour', kept.bucket, 'epoch')
)
UNION ALL
SELECT date_bin(interval '1 minute', r.time, 'epoch') AS bucket, r.agent_uuid, r.metric_name,
       coalesce(r.extra ->> 'device_name', '') COLLATE "C" AS device_name,
       r.protocol COLLATE "C" AS protocol,
       coalesce(r.unit, '') COLLATE "C" AS unit,
       min(r.value) AS min_value, max(r.value) AS max_value,
       (min(ARRAY[date_part('epoch', r.time), r.value])
           FILTER (WHERE r.value IS NOT NULL))[2] AS first_value,
       (max(ARRAY[date_part('epoch', r.time), r.value])
           FILTER (WHERE r.value IS NOT NULL))[2] AS last_value,
       count(*) AS sample_count, max(r.anomaly_score) AS max_anomaly_score,
       count(*) FILTER (WHERE r.quality = 'good') AS good_count,
       count(measurable(r.value)) AS value_count, (moments(measurable(r.value)))[2] AS value_sum,
       (moments(measurable(r.value)))[3] AS value_m2,
       min(r.time) FILTER (WHERE r.value IS NOT NULL) AS first_time,
       max(r.time) FILTER (WHERE r.value IS NOT NULL) AS last_time
FROM (SELECT DISTINCT agent_uuid, hour FROM rollup_marks) AS m
JOIN readings AS r
    ON r.agent_uuid = m.agent_uuid AND r.time >= m.hour AND r.time < m.hour + interval '1 hour'
GROUP BY 1, 2, 3, 4, 5, 6;

CREATE VIEW rollup_all_1h AS
SELECT * FROM rollup_1h AS kept
WHERE NOT EXISTS (
    SELECT FROM rollup_marks AS m
    WHERE m.agent_uuid = kept.agent_uuid AND m.hour = date_bin('1 hour', kept.bucket, 'epoch')
)
UNION ALL
SELECT date_bin(interval '1 hour', r.time, 'epoch') AS bucket, r.agent_uuid, r.metric_name,
       coalesce(r.extra ->> 'device_name', '') COLLATE "C" AS device_name,
       r.protocol COLLATE "C" AS protocol,
       coalesce(r.unit, '') COLLATE "C" AS unit,
       min(r.value) AS min_value, max(r.value) AS max_value,
       (min(ARRAY[date_part('epoch', r.time), r.value])
           FILTER (WHERE r.value IS NOT NULL))[2] AS first_value,
       (max(ARRAY[date_part('epoch', r.time), r.value])
           FILTER (WHERE r.value IS NOT NULL))[2] AS last_value,
       count(*) AS sample_count, max(r.anomaly_score) AS max_anomaly_score,
       count(*) FILTER (WHERE r.quality = 'good') AS good_count,
       count(measurable(r.value)) AS value_count, (moments(measurable(r.value)))[2] AS value_sum,
       (moments(measurable(r.value)))[3] AS value_m2,
       min(r.time) FILTER (WHERE r.value IS NOT NULL) AS first_time,
       max(r.time) FILTER (WHERE r.value IS NOT NULL) AS last_time
FROM (SELECT DISTINCT agent_uuid, hour FROM rollup_marks) AS m
JOIN readings AS r
    ON r.agent_uuid = m.agent_uuid AND r.time >= m.hour AND r.time < m.hour + interval '1 hour'
GROUP BY 1, 2, 3, 4, 5, 6;

CREATE VIEW rollup_all_daily AS
SELECT * FROM rollup_daily AS kept
WHERE NOT EXISTS (
    SELECT FROM rollup_marks AS m
    WHERE m.agent_uuid = kept.agent_uuid
      AND m.hour >= kept.bucket AND m.hour < kept.bucket + interval '1 day'
)
UNION ALL
SELECT date_bin('1 day', h.bucket, 'epoch') AS bucket, h.agent_uuid, h.metric_name, h.device_name,
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
FROM (
    SELECT DISTINCT agent_uuid, date_bin('1 day', hour, 'epoch') AS day FROM rollup_marks
) AS m
JOIN rollup_all_1h AS h
    ON h.agent_uuid = m.agent_uuid
   AND h.bucket >= m.day AND h.bucket < m.day + interval '1 day'
GROUP BY 1, 2, 3, 4, 5, 6;

-- For people and their tools; the columns of both profiles.
CREATE VIEW readings_1m AS
SELECT bucket, agent_uuid, metric_name, nullif(device_name, '') AS device_name, protocol,
       nullif(unit, '') AS unit, value_sum / nullif(value_count, 0) AS avg_value, min_value,
       max_value, first_value, last_value,
       CASE WHEN value_count > 1 THEN sqrt(value_m2 / (value_count - 1)) END AS stddev_value,
       sample_count, good_count::double precision / sample_count AS quality_ratio,
       max_anomaly_score, good_count, value_count, value_sum, value_m2, first_time, last_time
FROM rollup_all_1m;

CREATE VIEW readings_1h AS
SELECT bucket, agent_uuid, metric_name, nullif(device_name, '') AS device_name, protocol,
       nullif(unit, '') AS unit, value_sum / nullif(value_count, 0) AS avg_value, min_value,
       max_value, first_value, last_value,
       CASE WHEN value_count > 1 THEN sqrt(value_m2 / (value_count - 1)) END AS stddev_value,
       sample_count, good_count::double precision / sample_count AS quality_ratio,
       max_anomaly_score, good_count, value_count, value_sum, value_m2, first_time, last_time
FROM rollup_all_1h;

CREATE VIEW readings_daily AS
SELECT bucket, agent_uuid, metric_name, nullif(device_name, '') AS device_name, protocol,
       nullif(unit, '') AS unit, value_sum / nullif(value_count, 0) AS avg_value, min_value,
       max_value, first_value, last_value,
       CASE WHEN value_count > 1 THEN sqrt(value_m2 / (value_count - 1)) END AS stddev_value,
       sample_count, good_count::double precision / sample_count AS quality_ratio,
       max_anomaly_score, good_count, value_count, value_sum, value_m2, first_time, last_time
FROM rollup_all_daily;

-- The reference has this name for it, too.
CREATE VIEW readings_hourly AS SELECT * FROM readings_1h;

-- The same for the API, whose questions are large: bounds are constants, so that partitions outside of
-- them are left out when it is planned, and marks are looked up once.

-- From `readings`: hours of agents, which are pairs. Only `metrics`.
CREATE FUNCTION rollup_raw(
    step interval, agents uuid[], hours timestamptz[], metrics text[]
) RETURNS SETOF rollup_1m
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE format($query$
        SELECT date_bin($1, r.time, 'epoch') AS bucket, r.agent_uuid, r.metric_name,
               coalesce(r.extra ->> 'device_name', '') COLLATE "C" AS device_name,
               r.protocol COLLATE "C" AS protocol,
               coalesce(r.unit, '') COLLATE "C" AS unit,
               min(r.value) AS min_value, max(r.value) AS max_value,
               (min(ARRAY[date_part('epoch', r.time), r.value])
                   FILTER (WHERE r.value IS NOT NULL))[2] AS first_value,
               (max(ARRAY[date_part('epoch', r.time), r.value])
                   FILTER (WHERE r.value IS NOT NULL))[2] AS last_value,
               count(*) AS sample_count, max(r.anomaly_score) AS max_anomaly_score,
               count(*) FILTER (WHERE r.quality = 'good') AS good_count,
               count(measurable(r.value)) AS value_count, (moments(measurable(r.value)))[2] AS value_sum,
               (moments(measurable(r.value)))[3] AS value_m2,
               min(r.time) FILTER (WHERE r.value IS NOT NULL) AS first_time,
               max(r.time) FILTER (WHERE r.value IS NOT NULL) AS last_time
        FROM unnest($2, $3) AS part (agent_uuid, hour)
        JOIN readings AS r ON r.agent_uuid = part.agent_uuid
            AND r.time >= part.hour AND r.time < part.hour + interval '1 hour'
        WHERE r.metric_name = ANY ($4) AND r.time >= %L AND r.time < %L
        GROUP BY 1, 2, 3, 4, 5, 6
        $query$, (SELECT min(hour) FROM unnest(hours) AS hour),
                 (SELECT max(hour) + interval '1 hour' FROM unnest(hours) AS hour))
    USING step, agents, hours, metrics;
END
$$;

-- Buckets of '1m', '1h' or 'daily' within [since, until), which lie on bounds of buckets.
CREATE FUNCTION rollup_buckets(
    level text, agents uuid[], metrics text[], since timestamptz, until timestamptz
) RETURNS SETOF rollup_1m
LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- What is made anew where anything in it is marked.
    part interval := CASE level WHEN 'daily' THEN interval '1 day' ELSE interval '1 hour' END;
    marked_agents uuid[];
    marked_hours timestamptz[];
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
          ))
        $query$, 'rollup_' || level, since, until)
    USING agents, metrics, marked_agents, marked_hours, part;
    IF marked_hours IS NULL THEN
        RETURN;
    ELSIF level = 'daily' THEN
        RETURN QUERY
        SELECT days.*
        FROM unnest(marked_agents, marked_hours) AS marked (agent_uuid, hour),
             rollup_days(ARRAY[marked.agent_uuid], metrics, marked.hour,
                         marked.hour + interval '1 day') AS days;
    ELSE
        RETURN QUERY
        SELECT * FROM rollup_raw(
            CASE level WHEN '1m' THEN interval '1 minute' ELSE interval '1 hour' END,
            marked_agents, marked_hours, metrics
        ) AS made WHERE made.bucket >= since AND made.bucket < until;
    END IF;
END
$$;

-- Days, made of hours.
CREATE FUNCTION rollup_days(
    agents uuid[], metrics text[], since timestamptz, until timestamptz
) RETURNS SETOF rollup_1m
LANGUAGE sql STABLE AS $$
SELECT date_bin('1 day', h.bucket, 'epoch') AS bucket, h.agent_uuid, h.metric_name, h.device_name,
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
FROM rollup_buckets('1h', agents, metrics, since, until) AS h
GROUP BY 1, 2, 3, 4, 5, 6
$$;

-- Metrics of an agent that have rows within [since, until), best whole partitions: one look into the
-- index for each, however many rows there are.
CREATE FUNCTION readings_metrics(agent uuid, since timestamptz, until timestamptz)
RETURNS SETOF text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found text;
BEGIN
    LOOP
        EXECUTE format(
            'SELECT metric_name FROM readings WHERE agent_uuid = $1 AND metric_name > $2
             AND time >= %L AND time < %L ORDER BY metric_name LIMIT 1', since, until)
        INTO found USING agent, coalesce(found, '');
        EXIT WHEN found IS NULL;
        RETURN NEXT found;
    END LOOP;
END
$$;

-- Buckets of '1m', '1h' or 'daily' within [since, until), which lie on bounds of buckets. The same on
-- both profiles.
CREATE FUNCTION readings_buckets(
    level text, agents uuid[], metrics text[], since timestamptz, until timestamptz
) RETURNS SETOF readings_1m
LANGUAGE sql STABLE AS $$
SELECT bucket, agent_uuid, metric_name, nullif(device_name, '') AS device_name, protocol,
       nullif(unit, '') AS unit, value_sum / nullif(value_count, 0) AS avg_value, min_value,
       max_value, first_value, last_value,
       CASE WHEN value_count > 1 THEN sqrt(value_m2 / (value_count - 1)) END AS stddev_value,
       sample_count, good_count::double precision / sample_count AS quality_ratio,
       max_anomaly_score, good_count, value_count, value_sum, value_m2, first_time, last_time
FROM rollup_buckets(level, agents, metrics, since, until)
$$;

-- Ingestion calls it in each transaction that adds rows: hours before the answer are closed. The lock
-- tells `rollup_*` who may still go by an earlier answer.
CREATE FUNCTION rollup_enter() RETURNS timestamptz
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(x'726f6c6c'::integer);
    -- A statement of its own, and so a snapshot of its own, taken after the lock.
    RETURN (SELECT closed_before FROM rollup_state);
END
$$;

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

-- Make the buckets of one closed hour of an agent, and take its marks away: first, so that whatever is
-- added meanwhile is either seen here or has a mark that stays. By one caller at a time. Rows of
-- `readings` never change, so a bucket that was there is there again.
CREATE FUNCTION rollup_refresh(agent uuid, at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    this_day timestamptz := date_bin('1 day', at, 'epoch');
    next_day timestamptz := this_day + interval '1 day';
    metrics text[];
BEGIN
    DELETE FROM rollup_marks WHERE agent_uuid = agent AND hour = at;
    metrics := ARRAY(SELECT readings_metrics(agent, this_day, next_day));
    PERFORM rollup_make_month('rollup_1m', at), rollup_make_month('rollup_1h', at);
    INSERT INTO rollup_1m
    SELECT * FROM rollup_raw(interval '1 minute', ARRAY[agent], ARRAY[at], metrics)
    ON CONFLICT (agent_uuid, metric_name, bucket, device_name, protocol, unit) DO UPDATE SET
        (min_value, max_value, first_value, last_value, sample_count, max_anomaly_score,
         good_count, value_count, value_sum, value_m2, first_time, last_time) =
        (excluded.min_value, excluded.max_value, excluded.first_value, excluded.last_value,
         excluded.sample_count, excluded.max_anomaly_score, excluded.good_count, excluded.value_count,
         excluded.value_sum, excluded.value_m2, excluded.first_time, excluded.last_time);
    INSERT INTO rollup_1h
    SELECT date_bin('1 hour', h.bucket, 'epoch') AS bucket, h.agent_uuid, h.metric_name, h.device_name,
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
    FROM rollup_1m AS h
    WHERE h.agent_uuid = agent AND h.metric_name = ANY (metrics)
      AND h.bucket >= at AND h.bucket < at + interval '1 hour'
    GROUP BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (agent_uuid, metric_name, bucket, device_name, protocol, unit) DO UPDATE SET
        (min_value, max_value, first_value, last_value, sample_count, max_anomaly_score,
         good_count, value_count, value_sum, value_m2, first_time, last_time) =
        (excluded.min_value, excluded.max_value, excluded.first_value, excluded.last_value,
         excluded.sample_count, excluded.max_anomaly_score, excluded.good_count, excluded.value_count,
         excluded.value_sum, excluded.value_m2, excluded.first_time, excluded.last_time);
    -- The last marked hour of a day finishes it.
    IF NOT EXISTS (
        SELECT FROM rollup_marks WHERE agent_uuid = agent AND hour >= this_day AND hour < next_day
    ) THEN
        INSERT INTO rollup_daily
        SELECT * FROM rollup_days(ARRAY[agent], metrics, this_day, next_day)
    ON CONFLICT (agent_uuid, metric_name, bucket, device_name, protocol, unit) DO UPDATE SET
            (min_value, max_value, first_value, last_value, sample_count, max_anomaly_score,
             good_count, value_count, value_sum, value_m2, first_time, last_time) =
            (excluded.min_value, excluded.max_value, excluded.first_value, excluded.last_value,
             excluded.sample_count, excluded.max_anomaly_score, excluded.good_count, excluded.value_count,
             excluded.value_sum, excluded.value_m2, excluded.first_time, excluded.last_time);
    END IF;
END
$$;
