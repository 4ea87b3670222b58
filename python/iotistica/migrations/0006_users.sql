-- Who may operate a tenant, by what they prove it, and what they changed.

-- Roles of a tenant beside the built-in ones.
CREATE TABLE roles (
    tenant_id text NOT NULL REFERENCES tenants (id),
    name text NOT NULL
        CONSTRAINT roles_name_is_plain CHECK (name ~ '^[a-z][a-z0-9_-]{0,31}$')
        CONSTRAINT roles_name_is_not_built_in
            CHECK (name NOT IN ('owner', 'admin', 'manager', 'operator', 'viewer')),
    description text NOT NULL DEFAULT '',
    permissions text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name)
);

CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    username text NOT NULL,
    email text NOT NULL,
    full_name text NOT NULL DEFAULT '',
    role text NOT NULL,
    -- The database itself keeps a role from vanishing under its users.
    custom_role text GENERATED ALWAYS AS (
        CASE WHEN role IN ('owner', 'admin', 'manager', 'operator', 'viewer') THEN NULL ELSE role END
    ) STORED,
    password_hash text NOT NULL,
    must_change_password boolean NOT NULL DEFAULT false,
    is_active boolean NOT NULL DEFAULT true,
    -- Access tokens that were issued earlier are void.
    tokens_valid_from timestamptz NOT NULL DEFAULT now(),
    last_login_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, custom_role) REFERENCES roles (tenant_id, name)
);

-- The same name may be used in two tenants: a tenant never learns of another's users.
CREATE UNIQUE INDEX users_username ON users (lower(username), tenant_id);
CREATE UNIQUE INDEX users_email ON users (lower(email), tenant_id);
CREATE INDEX users_tenant_id ON users (tenant_id, id);
CREATE INDEX users_custom_role ON users (tenant_id, custom_role) WHERE custom_role IS NOT NULL;

-- One row for each login. Its tokens are its id, a generation and a MAC, so none is stored.
CREATE TABLE refresh_tokens (
    id uuid PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    generation integer NOT NULL DEFAULT 1,
    ip_address text NOT NULL DEFAULT '',
    user_agent text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    rotated_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    revoked_reason text
);

CREATE INDEX refresh_tokens_user_id ON refresh_tokens (user_id) WHERE revoked_at IS NULL;
CREATE INDEX refresh_tokens_expires_at ON refresh_tokens (expires_at);

-- Keys of services; only their HMAC is stored.
CREATE TABLE api_keys (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    key_hash bytea NOT NULL UNIQUE,
    -- The beginning of the key, so that people can tell keys apart.
    key_prefix text NOT NULL,
    permissions text[] NOT NULL,
    created_by bigint REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);

CREATE UNIQUE INDEX api_keys_name ON api_keys (tenant_id, name) WHERE revoked_at IS NULL;
CREATE INDEX api_keys_tenant_id ON api_keys (tenant_id, id);

-- Who was asked to join a tenant; only the hash of the invitation is stored.
CREATE TABLE invites (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    email text NOT NULL,
    role text NOT NULL,
    custom_role text GENERATED ALWAYS AS (
        CASE WHEN role IN ('owner', 'admin', 'manager', 'operator', 'viewer') THEN NULL ELSE role END
    ) STORED,
    token_hash bytea NOT NULL UNIQUE,
    invited_by bigint REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    accepted_at timestamptz,
    revoked_at timestamptz,
    FOREIGN KEY (tenant_id, custom_role) REFERENCES roles (tenant_id, name) ON DELETE CASCADE
);

CREATE INDEX invites_tenant_id ON invites (tenant_id, id);

-- The journal of changes: rows are only ever added.
CREATE TABLE audit_logs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    event_type text NOT NULL,
    severity text NOT NULL DEFAULT 'info',
    actor_type text NOT NULL
        CONSTRAINT audit_logs_actor_is_known
            CHECK (actor_type IN ('user', 'service', 'agent', 'system')),
    actor_id text NOT NULL,
    actor_name text NOT NULL,
    -- What was changed, as kind and id: `user/7`.
    subject text NOT NULL,
    agent_uuid uuid,
    before jsonb,
    after jsonb,
    ip_address text NOT NULL,
    user_agent text NOT NULL,
    request_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX audit_logs_tenant_id ON audit_logs (tenant_id, id);
CREATE INDEX audit_logs_subject ON audit_logs (tenant_id, subject, id);
CREATE INDEX audit_logs_actor_id ON audit_logs (tenant_id, actor_id, id);
CREATE INDEX audit_logs_event_type ON audit_logs (tenant_id, event_type, id);
