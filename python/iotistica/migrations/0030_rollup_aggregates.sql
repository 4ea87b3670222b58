-- Aggregates that rollups are made of on both profiles. A state is {count, sum, sum of squared
-- deviations}, which PostgreSQL itself adds up by Youngs and Cramer: buckets merge into larger ones
-- without the cancellation that a sum of squares suffers from.

CREATE AGGREGATE moments(double precision) (
    SFUNC = float8_accum, STYPE = double precision[], INITCOND = '{0,0,0}',
    COMBINEFUNC = float8_combine, PARALLEL = SAFE
);

CREATE AGGREGATE merge_moments(double precision[]) (
    SFUNC = float8_combine, STYPE = double precision[], INITCOND = '{0,0,0}',
    COMBINEFUNC = float8_combine, PARALLEL = SAFE
);
