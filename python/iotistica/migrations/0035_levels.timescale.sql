-- Start of the oldest chunk of a level; NULL where there is none.
CREATE FUNCTION retention_oldest(level text) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
SELECT min(c.range_start)
FROM timescaledb_information.chunks AS c
LEFT JOIN timescaledb_information.continuous_aggregates AS a
    ON a.materialization_hypertable_name = c.hypertable_name
WHERE CASE level WHEN 'raw' THEN c.hypertable_name = 'readings' ELSE a.view_name = 'readings_' || level END
$$;

-- Days that a policy is about: what older chunks it drops, or how far back it refreshes. NULL where
-- there is no such policy.
CREATE FUNCTION retention_policy(kind text, relation text)
RETURNS TABLE (job_id integer, days integer)
LANGUAGE sql STABLE AS $$
SELECT j.job_id,
       (extract(epoch FROM (j.config ->> CASE kind WHEN 'retention' THEN 'drop_after'
                                                   ELSE 'start_offset' END)::interval)
        / 86400)::integer
FROM timescaledb_information.jobs AS j
LEFT JOIN timescaledb_information.continuous_aggregates AS a
    ON a.materialization_hypertable_name = j.hypertable_name
WHERE j.proc_name = CASE kind WHEN 'retention' THEN 'policy_retention'
                              ELSE 'policy_refresh_continuous_aggregate' END
  AND relation IN (j.hypertable_name, a.view_name)
$$;

-- Make policies say what the settings say; how many did not. A refresh never reaches back to where
-- the level below was dropped: it would make buckets of nothing, and so remove them.
CREATE FUNCTION retention_policies(raw_days integer, m1_days integer, h1_days integer, d1_days integer)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    one record;
    job integer;
    is_days integer;
    changed integer := 0;
    raw_back integer := raw_days;
    m1_back integer := m1_days;
    h1_back integer := h1_days;
BEGIN
    SELECT least(raw_days, m1_days, days_since(max(kept_since) FILTER (WHERE level = 'raw'))),
           least(m1_days, days_since(max(kept_since) FILTER (WHERE level = '1m'))),
           least(h1_days, days_since(max(kept_since) FILTER (WHERE level = '1h')))
    INTO raw_back, m1_back, h1_back FROM retention_levels;
    FOR one IN
        SELECT * FROM (VALUES
            ('refresh', 'readings_1m', greatest(raw_back, 1)),
            ('refresh', 'readings_1h', greatest(m1_back, 1)),
            ('refresh', 'readings_daily', greatest(h1_back, 3)),
            ('retention', 'readings', raw_days),
            ('retention', 'readings_1m', m1_days),
            ('retention', 'readings_1h', h1_days),
            ('retention', 'readings_daily', d1_days)
        ) AS wanted (kind, relation, days)
    LOOP
        SELECT p.job_id, p.days INTO job, is_days FROM retention_policy(one.kind, one.relation) AS p;
        CONTINUE WHEN is_days = one.days;
        changed := changed + 1;
        IF job IS NULL AND one.kind = 'retention' THEN
            PERFORM add_retention_policy(one.relation, make_interval(days => one.days));
        ELSIF job IS NOT NULL THEN
            PERFORM alter_job(j.job_id, config => jsonb_set(
                j.config,
                ARRAY[CASE one.kind WHEN 'retention' THEN 'drop_after' ELSE 'start_offset' END],
                to_jsonb(one.days || ' days')))
            FROM timescaledb_information.jobs AS j WHERE j.job_id = job;
        END IF;
    END LOOP;
    RETURN changed;
END
$$;

CREATE FUNCTION days_since(at timestamptz) RETURNS integer
LANGUAGE sql STABLE AS $$
SELECT CASE WHEN at > '-infinity' THEN floor(extract(epoch FROM now() - at) / 86400)::integer END
$$;
