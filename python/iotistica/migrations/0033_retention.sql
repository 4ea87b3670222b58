-- Retention by tenant and metric (docs/retention.md). Whole days (UTC) of series are removed. What a
-- day's rollups said is then kept in `rollup_*` for good, and nothing that comes later changes it: it
-- is frozen.

-- What a tenant keeps shorter than the platform does. Of the rules that fit a metric one counts:
-- `retention_rule`.
CREATE TABLE retention_rules (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    -- `*` is any text, `?` any character, everything else itself.
    pattern text COLLATE "C" NOT NULL,
    keep_days integer NOT NULL CHECK (keep_days > 0),
    remove_rollups boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, pattern)
);

-- Readings before it are removed, and their buckets frozen. Where no row was ever removed there is none.
CREATE TABLE retention_floors (
    agent_uuid uuid NOT NULL REFERENCES agents (uuid) ON DELETE CASCADE,
    metric_name text COLLATE "C" NOT NULL,
    kept_since timestamptz NOT NULL,
    PRIMARY KEY (agent_uuid, metric_name)
);

-- What the platform dropped, in whole partitions or chunks, by level. It only grows, whatever the
-- settings say later.
CREATE TABLE retention_levels (
    level text PRIMARY KEY,
    kept_since timestamptz NOT NULL DEFAULT '-infinity',
    -- Start of the oldest partition that was there when somebody looked last.
    oldest timestamptz
);
INSERT INTO retention_levels (level) VALUES ('raw'), ('1m'), ('1h');

-- Days on which a tenant's rules are carried out, and in what state they were then: another state is
-- a reason to look again.
CREATE TABLE retention_sweeps (
    tenant_id text NOT NULL REFERENCES tenants (id),
    day date NOT NULL,
    state text NOT NULL,
    PRIMARY KEY (tenant_id, day)
);

-- How many readings a tenant may have stored; NULL is the default of the settings.
ALTER TABLE tenants ADD COLUMN quota_stored_readings bigint
    CONSTRAINT tenants_quota_stored_is_positive CHECK (quota_stored_readings > 0);

-- What tenants with such a quota have, as counted last.
CREATE TABLE tenant_storage (
    tenant_id text PRIMARY KEY REFERENCES tenants (id),
    readings bigint NOT NULL,
    oldest date,
    most bigint NOT NULL,
    -- The quota leaves nothing that is older.
    quota_since date,
    counted_at timestamptz NOT NULL DEFAULT now()
);

-- For LIKE, as `iotistica.alerting.rule.as_like` writes it.
CREATE FUNCTION retention_like(pattern text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT translate(regexp_replace(pattern, '([\\%_])', '\\\1', 'g'), '*?', '%_')
$$;

-- The rule that counts for a metric: the most characters that are no wildcards, then the fewest `*`,
-- then the longest time; NULL where none fits. `iotistica.retention.governing` says the same.
CREATE FUNCTION retention_rule(tenant text, metric text) RETURNS retention_rules
LANGUAGE sql STABLE AS $$
SELECT r FROM retention_rules AS r
WHERE r.tenant_id = tenant AND metric LIKE retention_like(r.pattern)
ORDER BY char_length(translate(r.pattern, '*?', '')) DESC,
         char_length(r.pattern) - char_length(replace(r.pattern, '*', '')),
         r.keep_days DESC, r.pattern
LIMIT 1
$$;

-- Whether buckets of a series at a time stay what they are.
CREATE FUNCTION is_frozen(agent uuid, metric text, at timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
SELECT EXISTS (
    SELECT FROM retention_floors AS f
    WHERE f.agent_uuid = agent AND f.metric_name = metric AND f.kept_since > at
)
$$;

-- Whether that is so for anything of these series since a time.
CREATE FUNCTION any_frozen(agents uuid[], metrics text[], since timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
SELECT EXISTS (
    SELECT FROM retention_floors AS f
    WHERE f.agent_uuid = ANY (agents) AND (metrics IS NULL OR f.metric_name = ANY (metrics))
      AND f.kept_since > since
)
$$;

-- Levels that do not hold everything since a time, of these series; 'raw' are readings.
CREATE FUNCTION levels_cut(agents uuid[], metrics text[], since timestamptz) RETURNS text[]
LANGUAGE sql STABLE AS $$
SELECT ARRAY(
    SELECT level FROM retention_levels
    WHERE kept_since > since OR level = 'raw' AND any_frozen(agents, metrics, since)
)
$$;

-- Note what was dropped of a level that is kept for so many days: its oldest partition is gone.
CREATE FUNCTION retention_note(what text, days integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    bound CONSTANT timestamptz := date_bin('1 day', now(), 'epoch') - make_interval(days => days);
    found CONSTANT timestamptz := retention_oldest(what);
BEGIN
    UPDATE retention_levels AS l SET
        oldest = found,
        kept_since = CASE WHEN l.oldest < coalesce(found, 'infinity')
                          THEN greatest(kept_since, least(found, bound)) ELSE kept_since END
    WHERE level = what;
END
$$;

-- The statement that puts buckets of a source into a rollup. A bucket that is there is the same, or lacks
-- what came late; where it has more, readings of it were dropped.
CREATE FUNCTION rollup_keep(rollup text, source text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
SELECT format($query$
    INSERT INTO %I AS kept SELECT * FROM %s
    ON CONFLICT (agent_uuid, metric_name, bucket, device_name, protocol, unit) DO UPDATE SET
        (min_value, max_value, first_value, last_value, sample_count, max_anomaly_score,
         good_count, value_count, value_sum, value_m2, first_time, last_time) =
        (excluded.min_value, excluded.max_value, excluded.first_value, excluded.last_value,
         excluded.sample_count, excluded.max_anomaly_score, excluded.good_count,
         excluded.value_count, excluded.value_sum, excluded.value_m2, excluded.first_time,
         excluded.last_time)
    WHERE excluded.sample_count >= kept.sample_count
    $query$, rollup, source)
$$;

-- Freeze a day of series that are not frozen yet: make their buckets once more, of all readings
-- there are, or remove them with all that are older.
CREATE FUNCTION retention_freeze(agent uuid, metrics text[], day timestamptz, keeps_rollups boolean)
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    until CONSTANT timestamptz := day + interval '1 day';
    fresh CONSTANT text[] := ARRAY(
        SELECT metric FROM unnest(metrics) AS metric WHERE NOT is_frozen(agent, metric, day)
    );
    level text;
    merged CONSTANT text := 'rollup_merged($1, $2, ARRAY[$3], $4, $5, $6)';
BEGIN
    IF keeps_rollups AND fresh = '{}' THEN
        RETURN;
    END IF;
    INSERT INTO retention_floors AS kept SELECT agent, metric, until FROM unnest(metrics) AS metric
    ON CONFLICT (agent_uuid, metric_name) DO UPDATE SET kept_since = excluded.kept_since
    WHERE kept.kept_since < excluded.kept_since;
    IF NOT keeps_rollups THEN
        FOREACH level IN ARRAY ARRAY['1m', '1h', 'daily'] LOOP
            EXECUTE format(
                'DELETE FROM %I WHERE agent_uuid = $1 AND metric_name = ANY ($2) AND bucket < %L',
                'rollup_' || level, until)
            USING agent, metrics;
        END LOOP;
        RETURN;
    END IF;
    PERFORM rollup_make_month('rollup_1m', day), rollup_make_month('rollup_1h', day);
    EXECUTE rollup_keep('rollup_1m', $query$
        (SELECT bucket, agent_uuid, metric_name, coalesce(device_name, ''), protocol,
                coalesce(unit, ''), min_value, max_value, first_value, last_value, sample_count,
                max_anomaly_score, good_count, value_count, value_sum, value_m2, first_time, last_time
         FROM readings_steps($3, $4, $5, $6, $2, $5)) AS made$query$)
    USING NULL::text, interval '1 minute', agent, fresh, day, until;
    EXECUTE rollup_keep('rollup_1h', merged)
    USING '1m'::text, interval '1 hour', agent, fresh, day, until;
    EXECUTE rollup_keep('rollup_daily', merged)
    USING '1h'::text, interval '1 day', agent, fresh, day, until;
END
$$;

-- Remove some readings of a day of series, at most `most`; how many, and whether all are gone. It looks
-- at the partition or chunk alone, so that no other day is planned, or locked, and always through the
-- key, so that a step costs what it removes.
CREATE FUNCTION retention_remove(
    agent uuid, metrics text[], day timestamptz, keeps_rollups boolean, most integer,
    OUT removed integer, OUT is_done boolean
)
LANGUAGE plpgsql SET enable_seqscan TO off SET enable_bitmapscan TO off AS $$
DECLARE
    place regclass;
    compressed boolean;
    has_any boolean;
BEGIN
    removed := 0;
    is_done := true;
    SELECT d.place, d.is_compressed INTO place, compressed
    FROM readings_days() AS d WHERE d.day = retention_remove.day;
    IF place IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format(
        'SELECT EXISTS (SELECT FROM unnest($2) AS m (metric) WHERE EXISTS (
             SELECT FROM %s WHERE agent_uuid = $1 AND metric_name = m.metric OFFSET 0))', place)
    INTO has_any USING agent, metrics;
    IF NOT has_any THEN
        IF NOT keeps_rollups THEN
            PERFORM retention_freeze(agent, metrics, day, false);
        END IF;
        RETURN;
    END IF;
    PERFORM retention_freeze(agent, metrics, day, keeps_rollups);
    IF compressed THEN
        -- Whole batches, which are not unpacked: it takes the time of a few rows.
        EXECUTE format(
            'SELECT count(*) FROM %s WHERE agent_uuid = $1 AND metric_name = ANY ($2)', place)
        INTO removed USING agent, metrics;
        EXECUTE format(
            'DELETE FROM %s WHERE agent_uuid = %L AND metric_name = ANY (%L)', place, agent, metrics);
        RETURN;
    END IF;
    EXECUTE format(
        'DELETE FROM %1$s WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM %1$s WHERE agent_uuid = $1 AND metric_name = ANY ($2)
             LIMIT $3))', place)
    USING agent, metrics, most;
    GET DIAGNOSTICS removed = ROW_COUNT;
    is_done := removed < most;
END
$$;

-- The month of a rollup that is the oldest and wholly before a time; dropped, and its name, or NULL.
CREATE FUNCTION rollup_drop_month(parent regclass, before timestamptz) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    named text := (SELECT relname FROM pg_class WHERE oid = parent);
    oldest text;
BEGIN
    SELECT relname INTO oldest FROM pg_inherits JOIN pg_class ON oid = inhrelid
    WHERE inhparent = parent AND relname ~ ('^' || named || '_[0-9]{6}$')
      AND relname < named || '_' || to_char(before AT TIME ZONE 'UTC', 'YYYYMM')
    ORDER BY relname LIMIT 1;
    IF oldest IS NOT NULL THEN
        EXECUTE format('DROP TABLE %I', oldest);
    END IF;
    RETURN oldest;
END
$$;
