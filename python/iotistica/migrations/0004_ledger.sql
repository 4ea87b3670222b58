-- The loss ledger where it survives the loss of Redis' data (docs/loss-ledger.md).

-- One for each tenant; whose row it holds, that process alone takes the snapshots.
CREATE TABLE ledgers (
    tenant_id text PRIMARY KEY,
    epoch text NOT NULL DEFAULT '',
    began_at timestamptz NOT NULL DEFAULT now(),
    snapshot_at timestamptz NOT NULL DEFAULT now(),
    accepted_per_s double precision NOT NULL DEFAULT 0,
    holder text NOT NULL,
    held_until timestamptz NOT NULL
);

-- `counters` are those of the ledger's epoch as of the last snapshot, `past` the sum of the epochs
-- before. Numbers that change are not indexed and pages keep room, so that updates stay on their
-- page (HOT).
CREATE TABLE ledger_agents (
    tenant_id text NOT NULL,
    agent text COLLATE "C" NOT NULL,
    counters jsonb NOT NULL DEFAULT '{}',
    past jsonb NOT NULL DEFAULT '{}',
    sequences text NOT NULL DEFAULT '',
    past_sequences text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, agent)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE ledger_losses (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL,
    epoch text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('emptied', 'rolled_back')),
    detected_at timestamptz NOT NULL DEFAULT now(),
    snapshot_at timestamptz NOT NULL,
    accepted bigint NOT NULL,
    settled bigint NOT NULL,
    spooled bigint NOT NULL,
    in_flight_at_most bigint NOT NULL,
    unseen_estimate bigint NOT NULL
);

CREATE INDEX ledger_losses_tenant_id ON ledger_losses (tenant_id, id);

CREATE FUNCTION ledger_count(counters jsonb, counter text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce((counters ->> counter)::bigint, 0)
$$;

-- Add the counters of two epochs.
CREATE FUNCTION ledger_sum(past jsonb, counters jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(jsonb_object_agg(name, number), '{}')
    FROM (
        SELECT key AS name, sum(value::bigint) AS number
        FROM (SELECT * FROM jsonb_each_text(past)
              UNION ALL SELECT * FROM jsonb_each_text(counters)) AS both_epochs
        GROUP BY key
    ) AS sums
$$;
