-- Start of the oldest partition of a level; NULL where there is none.
CREATE FUNCTION retention_oldest(level text) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
SELECT CASE level
    WHEN 'raw' THEN (SELECT min(day) FROM readings_days())
    ELSE (
        SELECT min(to_date(right(relname, 6), 'YYYYMM')::timestamp AT TIME ZONE 'UTC')
        FROM pg_inherits JOIN pg_class ON oid = inhrelid
        WHERE inhparent = to_regclass('rollup_' || level) AND relname ~ '_[0-9]{6}$'
    )
END
$$;

-- There are no policies; see the other profile.
CREATE FUNCTION retention_policies(raw_days integer, m1_days integer, h1_days integer, d1_days integer)
RETURNS integer
LANGUAGE sql AS $$ SELECT 0 $$;
