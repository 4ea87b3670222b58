-- Agents by the version of their software: patterns by the text, ranges by the numbers.

-- At most eight numbers: an agent may report any text, and what is indexed must stay short.
CREATE OR REPLACE FUNCTION version_numbers(version text) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT string_to_array(substring(version FROM '^v?(\d{1,9}(?:\.\d{1,9}){0,7})'), '.')::integer[]
$$;

DROP INDEX agents_version;
CREATE INDEX agents_version ON agents (tenant_id, left(agent_version, 255) text_pattern_ops);
CREATE INDEX agents_version_numbers ON agents (tenant_id, version_numbers(agent_version));
