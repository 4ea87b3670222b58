-- What agents should be (reference sections 5.3 and 7), and everything that it ever was.

-- `apps` and `config` are what operators see and edit. `served_*` is what the agent gets: made when
-- somebody writes, so that a poll copies bytes. They differ while `needs_deployment`.
CREATE TABLE agent_target_state (
    agent_uuid uuid PRIMARY KEY REFERENCES agents (uuid) ON DELETE CASCADE,
    apps jsonb NOT NULL DEFAULT '{}',
    config jsonb NOT NULL DEFAULT '{}',
    -- Grows with every change, also where the state is deleted and made again.
    version integer NOT NULL CHECK (version > 0),
    etag text NOT NULL,
    needs_deployment boolean NOT NULL DEFAULT false,
    -- False after a deletion: the tenant's default holds again.
    is_own boolean NOT NULL DEFAULT true,
    served_version integer,
    served_etag text,
    served_body bytea,
    -- What the body says, without the signature that serving adds.
    served_apps jsonb,
    served_config jsonb,
    last_deployed_at timestamptz,
    deployed_by text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- By which processes that remember ETags find what changed (store/target_feed.py).
    changed_by_transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT agent_target_state_serves_whole_answers
        CHECK (num_nulls(served_version, served_etag, served_body, served_apps, served_config)
               IN (0, 5))
);

CREATE INDEX agent_target_state_changed ON agent_target_state (changed_by_transaction);

CREATE TABLE agent_target_state_history (
    agent_uuid uuid NOT NULL REFERENCES agents (uuid) ON DELETE CASCADE,
    version integer NOT NULL,
    apps jsonb NOT NULL,
    config jsonb NOT NULL,
    etag text NOT NULL,
    -- Whether agents were served it at once.
    deployed boolean NOT NULL,
    action text NOT NULL,
    reason text NOT NULL DEFAULT '',
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_uuid, version)
);

-- What agents get that have no target state of their own. The body is the same for all of them but
-- for the UUID in front.
CREATE TABLE tenant_target_state (
    tenant_id text PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    apps jsonb NOT NULL DEFAULT '{}',
    config jsonb NOT NULL DEFAULT '{}',
    version integer NOT NULL CHECK (version > 0),
    etag text NOT NULL,
    served_tail bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    updated_by text NOT NULL,
    changed_by_transaction xid8 NOT NULL DEFAULT pg_current_xact_id()
);

CREATE INDEX tenant_target_state_changed ON tenant_target_state (changed_by_transaction);
