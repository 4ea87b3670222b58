-- The one large table, by native partitions of one UTC day. It has no index but its primary key:
-- every further one costs each inserted row, and all queries name the agent and the metric, or
-- use readings_latest.

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
) PARTITION BY RANGE (time);

-- Make the partitions of the given days (since 1970-01-01, UTC) that are missing; how many.
-- The lock, which ATTACH takes as well, keeps other makers out and nobody else: writers and readers
-- go on, while CREATE … PARTITION OF would stop them all.
CREATE FUNCTION readings_make_days(days integer[]) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    day date;
    partition text;
    made integer := 0;
BEGIN
    FOR day IN SELECT date '1970-01-01' + d FROM unnest(days) AS d ORDER BY d LOOP
        partition := 'readings_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        LOCK TABLE readings IN SHARE UPDATE EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE readings INCLUDING ALL)', partition);
        EXECUTE format('ALTER TABLE readings ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       partition,
                       day::timestamp AT TIME ZONE 'UTC',
                       (day + 1)::timestamp AT TIME ZONE 'UTC');
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
