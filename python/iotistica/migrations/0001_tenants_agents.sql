-- Who may write: an agent belongs to exactly one tenant.

-- A tenant's id is one level of a topic. Eight base64url characters would read as the short form of
-- another id there, and hex digits are known by their lower case (reference section 1.1).
CREATE TABLE tenants (
    id text PRIMARY KEY
        CONSTRAINT tenants_id_is_one_topic_level CHECK (id ~ '^[A-Za-z0-9._-]+$')
        CONSTRAINT tenants_id_is_no_short_form CHECK (id !~ '^[A-Za-z0-9_-]{8}$')
        CONSTRAINT tenants_id_is_lower_case_hex CHECK (id !~ '^[0-9A-Fa-f]{12}$' OR id = lower(id)),
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE agents (
    uuid uuid PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX agents_tenant_id ON agents (tenant_id);
