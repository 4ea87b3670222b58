-- Questions about series, for both profiles. Bounds are written into the statements as constants, so
-- that partitions and chunks outside of them are left out when they are planned: a plan that could
-- take any bounds would consider, and lock, every day there is.

-- The newest readings of metrics of an agent within [since, until), newest first; after the row of
-- `past_time` and `past_metric` where these are given. Without `since` it looks at a day before the
-- newest, then at eight, and so on, until it has found enough.
CREATE FUNCTION readings_newest(
    agent uuid, metrics text[], protocols text[], since timestamptz, until timestamptz,
    past_time timestamptz, past_metric text, most integer
) RETURNS SETOF readings
LANGUAGE plpgsql STABLE AS $$
DECLARE
    newest timestamptz;
    width interval := interval '1 day';
    first timestamptz;
    found integer;
    question CONSTANT text := $query$
        SELECT reading.* FROM unnest($2) AS series (metric_name) CROSS JOIN LATERAL (
            SELECT * FROM readings AS r
            WHERE r.agent_uuid = $1 AND r.metric_name = series.metric_name
              AND r.time >= %1$L AND r.time < %2$L
              AND ($3 IS NULL OR r.protocol = ANY ($3))
              AND ($4 IS NULL OR r.time < $4 OR (r.time = $4 AND r.metric_name > $5))
            ORDER BY r.time DESC LIMIT $6
        ) AS reading
        ORDER BY reading.time DESC, reading.metric_name LIMIT $6
    $query$;
BEGIN
    IF since IS NULL THEN
        SELECT max(l.time) INTO newest FROM readings_latest AS l
        WHERE l.agent_uuid = agent AND l.metric_name = ANY (metrics);
        first := least(until, newest) - width;
        LOOP
            EXIT WHEN first IS NULL OR width > interval '1000 days';
            EXECUTE format('SELECT count(*) FROM (' || question || ') AS found', first, until)
            INTO found USING agent, metrics, protocols, past_time, past_metric, most;
            EXIT WHEN found >= most;
            width := width * 8;
            first := least(until, newest) - width;
        END LOOP;
        IF first IS NULL OR width > interval '1000 days' THEN
            first := '-infinity';
        END IF;
    ELSE
        first := since;
    END IF;
    RETURN QUERY EXECUTE format(question, first, until)
    USING agent, metrics, protocols, past_time, past_metric, most;
END
$$;

-- Steps of `step`, which is less than a minute, made from `readings`.
CREATE FUNCTION readings_steps(
    agent uuid, metrics text[], since timestamptz, until timestamptz, step interval,
    origin timestamptz
) RETURNS SETOF readings_1m
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE format($query$
        SELECT date_bin($3, time, $4), agent_uuid, metric_name, extra ->> 'device_name', protocol,
               unit,
               (moments(measurable(value)))[2] / nullif((moments(measurable(value)))[1], 0),
               min(value), max(value),
               (min(ARRAY[date_part('epoch', time), value]) FILTER (WHERE value IS NOT NULL))[2],
               (max(ARRAY[date_part('epoch', time), value]) FILTER (WHERE value IS NOT NULL))[2],
               float8_stddev_samp(moments(measurable(value))), count(*),
               count(*) FILTER (WHERE quality = 'good')::double precision / count(*),
               max(anomaly_score), count(*) FILTER (WHERE quality = 'good'), count(measurable(value)),
               (moments(measurable(value)))[2], (moments(measurable(value)))[3],
               min(time) FILTER (WHERE value IS NOT NULL),
               max(time) FILTER (WHERE value IS NOT NULL)
        FROM readings
        WHERE agent_uuid = $1 AND metric_name = ANY ($2) AND time >= %L AND time < %L
        GROUP BY 1, 2, 3, 4, 5, 6
        $query$, since, until)
    USING agent, metrics, step, origin;
END
$$;
