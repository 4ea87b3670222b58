-- Aggregates that rollups are made of on both profiles. A state is {count, sum, sum of squared
-- deviations}, which PostgreSQL itself adds up by Youngs and Cramer: buckets merge into larger ones
-- without the cancellation that a sum of squares suffers from.

-- A value that averages can be made of. Devices send the largest number there is for no value: its
-- square would overflow, and one such reading would keep the rollups of its hour from being made.
CREATE FUNCTION measurable(value double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT CASE WHEN abs(value) < 1e140 THEN value END $$;

CREATE AGGREGATE moments(double precision) (
    SFUNC = float8_accum, STYPE = double precision[], INITCOND = '{0,0,0}',
    COMBINEFUNC = float8_combine, PARALLEL = SAFE
);

CREATE AGGREGATE merge_moments(double precision[]) (
    SFUNC = float8_combine, STYPE = double precision[], INITCOND = '{0,0,0}',
    COMBINEFUNC = float8_combine, PARALLEL = SAFE
);
