-- Key-compaction dictionaries of agents (reference sections 2 and 7). Redis holds the current one
-- only, and may lose it; older ones are kept because messages may still be on their way.

-- One for all agents, so that the numbers grow also where an agent is removed and registers again:
-- Redis goes by them.
CREATE SEQUENCE dictionary_serials;

CREATE TABLE dictionary_metadata (
    agent_uuid uuid PRIMARY KEY REFERENCES agents (uuid) ON DELETE CASCADE,
    tenant_id text NOT NULL REFERENCES tenants (id),
    -- Grows with every change; that of the current row of dictionary_versions.
    serial bigint NOT NULL DEFAULT 0,
    -- The last dictionary that came as a whole: the broker sends it again and again.
    full_digest bytea,
    changed_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);

CREATE INDEX dictionary_metadata_changed ON dictionary_metadata (changed_at);
CREATE INDEX dictionary_metadata_tenant ON dictionary_metadata (tenant_id);

CREATE TABLE dictionary_versions (
    agent_uuid uuid NOT NULL REFERENCES dictionary_metadata (agent_uuid) ON DELETE CASCADE,
    -- Of everything in it: an agent that was reset uses the numbers of its versions again.
    digest bytea NOT NULL,
    serial bigint NOT NULL,
    version bigint NOT NULL,
    hash text COLLATE "C" NOT NULL,
    fields jsonb NOT NULL,
    enums jsonb NOT NULL,
    metrics jsonb NOT NULL,
    devices jsonb NOT NULL,
    learned_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_uuid, digest)
);
