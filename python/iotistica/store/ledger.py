"""The loss ledger in PostgreSQL: the last snapshot of what Redis counts, and what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from iotistica import sequences
from iotistica.ledger import Counts
from iotistica.store.pool import Connection, Pool, unavailable

EMPTIED, ROLLED_BACK = "emptied", "rolled_back"

_PAGE_AGENTS = 5000
_MOST_LOSSES = 100

# One statement, so that of two processes one gets it. A holder that comes back in time keeps it:
# what it remembers of its last snapshot is then what stands here.
_LEASE = """
INSERT INTO ledgers AS kept (tenant_id, holder, held_until)
SELECT tenant, $2, now() + make_interval(secs => $3) FROM unnest($1::text[]) AS tenant
ORDER BY tenant
ON CONFLICT (tenant_id) DO UPDATE
SET holder = EXCLUDED.holder, held_until = EXCLUDED.held_until
WHERE kept.holder = EXCLUDED.holder OR kept.held_until < now()
RETURNING tenant_id, epoch
"""
_RELEASE = "UPDATE ledgers SET held_until = '-infinity' WHERE holder = $1"
_HELD = "SELECT epoch FROM ledgers WHERE tenant_id = $1 AND holder = $2 FOR UPDATE"
_KEEP = """
WITH new AS (
    SELECT agent, counters::jsonb AS counters, sequences
    FROM unnest($2::text[], $3::text[], $4::text[]) AS given (agent, counters, sequences)
), back AS (
    SELECT sum(ledger_count(kept.counters, 'accepted') - ledger_count(new.counters, 'accepted'))
        AS messages
    FROM new JOIN ledger_agents AS kept ON kept.tenant_id = $1 AND kept.agent = new.agent
    WHERE ledger_count(kept.counters, 'accepted') > ledger_count(new.counters, 'accepted')
), written AS (
    INSERT INTO ledger_agents AS kept (tenant_id, agent, counters, sequences)
    SELECT $1, agent, counters, sequences FROM new
    ON CONFLICT (tenant_id, agent) DO UPDATE
    SET counters = EXCLUDED.counters, sequences = EXCLUDED.sequences
    WHERE (kept.counters, kept.sequences) IS DISTINCT FROM (EXCLUDED.counters, EXCLUDED.sequences)
)
SELECT coalesce(messages, 0)::bigint FROM back
"""
_STAMP = """
UPDATE ledgers SET epoch = $2, accepted_per_s = $3, snapshot_at = now() WHERE tenant_id = $1
"""

# The arguments are the tenant, the kind, and how many were rolled back where some were.
_RECORD_LOSS = """
INSERT INTO ledger_losses (tenant_id, epoch, kind, snapshot_at, accepted, settled, spooled,
                           in_flight_at_most, unseen_estimate)
SELECT $1, epoch, $2, snapshot_at, accepted, settled, spooled,
       greatest(coalesce($3, accepted - settled - spooled), 0),
       ceil(accepted_per_s * extract(epoch FROM now() - snapshot_at))
FROM ledgers, (
    SELECT coalesce(sum(ledger_count(counters, 'accepted')), 0) AS accepted,
           coalesce(sum(ledger_count(counters, 'settled')), 0) AS settled,
           coalesce(sum(ledger_count(counters, 'spooled')), 0) AS spooled
    FROM ledger_agents WHERE tenant_id = $1
) AS sums
WHERE tenant_id = $1 AND accepted > 0
RETURNING *
"""
_NUMBERED = """
SELECT agent, sequences, past_sequences FROM ledger_agents
WHERE tenant_id = $1 AND sequences <> ''
"""
_FOLD = """
UPDATE ledger_agents SET past = ledger_sum(past, counters), counters = '{}'
WHERE tenant_id = $1 AND counters <> '{}'
"""
_FOLD_NUMBERS = """
UPDATE ledger_agents AS kept SET past_sequences = folded.text, sequences = ''
FROM unnest($2::text[], $3::text[]) AS folded (agent, text)
WHERE kept.tenant_id = $1 AND kept.agent = folded.agent
"""

# Where Redis has lost its data and nobody has noticed yet, the last snapshot is past, too.
_PAST = """
SELECT agent, past_sequences, CASE WHEN ledgers.epoch = $2 THEN '' ELSE sequences END AS closed,
       CASE WHEN ledgers.epoch = $2 THEN past ELSE ledger_sum(past, counters) END::text AS past
FROM ledger_agents JOIN ledgers USING (tenant_id)
WHERE tenant_id = $1 AND ($3::text IS NULL OR agent = $3)
  AND (past <> '{}' OR past_sequences <> '' OR ledgers.epoch <> $2)
"""
_LEDGER = "SELECT epoch, began_at, snapshot_at FROM ledgers WHERE tenant_id = $1"
_LOSSES = """
SELECT * FROM ledger_losses WHERE tenant_id = $1 ORDER BY id DESC LIMIT $2
"""
_ROWS = "SELECT count(*) FROM readings WHERE agent_uuid = $1"
_MADE = """
SELECT uuid::text, created_at FROM agents WHERE tenant_id = $1 AND uuid = ANY ($2::uuid[])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A loss of Redis' data. `emptied`: all of it is gone; the figures are those of the last
    snapshot. `rolled_back`: it came back older than it was, as from a copy or a log that lagged;
    the figures are those that came back."""

    id: int
    epoch: str
    kind: str
    detected_at: datetime
    snapshot_at: datetime
    """The last one before the loss."""
    accepted: int
    settled: int
    spooled: int
    """They lie on disk and are not lost, but no counter will say when they are stored."""
    in_flight_at_most: int
    """Messages that were accepted by the snapshot and are lost, if none of them was stored before
    the loss."""
    unseen_estimate: int
    """How many came between the snapshot and the detection, at the rate before. Of those, what was
    not stored yet is lost as well."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one agent."""

    counts: Counts
    sequences: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What the ledgers that went before counted, by agent; `counts` summed over them."""

    epoch: str = ""
    """The one that the last snapshot is of; empty where there is none yet."""
    began_at: datetime | None = None
    snapshot_at: datetime | None = None
    agents: Mapping[str, Record] = field(default_factory=dict)


class LedgerStore:
    """The ledgers of all tenants. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def lease(self, tenants: Sequence[str], holder: str, *, seconds: float) -> dict[str, str]:
        """Become or stay the one who takes the snapshots of these tenants, where no other process
        is; for each the epoch of the last one, empty where there is none."""
        with unavailable("lease the ledgers"):
            rows = await self._pool.fetch(_LEASE, tenants, holder, seconds)
        return {row["tenant_id"]: row["epoch"] for row in rows}

    async def release(self, holder: str) -> None:
        """Let others take the snapshots at once."""
        with unavailable("release a ledger"):
            await self._pool.execute(_RELEASE, holder)

    async def keep(
        self,
        tenant: str,
        holder: str,
        *,
        epoch: str,
        changed: Mapping[str, Record],
        accepted_per_s: float,
    ) -> list[Loss] | None:
        """Store a snapshot of the agents that changed; the losses that it reveals.

        All or nothing. None where another process holds the ledger by now.
        """
        with unavailable("keep the ledger"):
            async with self._pool.acquire() as connection, connection.transaction():
                known = await connection.fetchval(_HELD, tenant, holder)
                if known is None:
                    return None
                losses = []
                if known and known != epoch:
                    losses += await _record(connection, tenant, EMPTIED, None)
                    await _fold(connection, tenant)
                back = await _write(connection, tenant, changed)
                if back:
                    losses += await _record(connection, tenant, ROLLED_BACK, back)
                await connection.execute(_STAMP, tenant, epoch, accepted_per_s)
                return losses

    async def past(self, tenant: str, epoch: str, agent: str | None = None) -> Past:
        """What was counted before the epoch that Redis is in."""
        with unavailable("read the ledger"):
            head = await self._pool.fetchrow(_LEDGER, tenant)
            if head is None:
                return Past()
            rows = await self._pool.fetch(_PAST, tenant, epoch, agent)
        agents = {
            row["agent"]: Record(
                orjson.loads(row["past"]), _folded(row["past_sequences"], row["closed"])
            )
            for row in rows
        }
        return Past(**head, agents=agents)

    async def losses(self, tenant: str) -> list[Loss]:
        """The last hundred, the newest first."""
        with unavailable("read the losses"):
            rows = await self._pool.fetch(_LOSSES, tenant, _MOST_LOSSES)
        return [_loss(row) for row in rows]

    async def rows(self, agent: str) -> int:
        """Rows of an agent in `readings`; all of them are counted."""
        with unavailable("count the readings of an agent"):
            number: int = await self._pool.fetchval(_ROWS, UUID(agent))
            return number

    async def registered(self, tenant: str, agents: Sequence[str]) -> dict[str, datetime]:
        """Since when each of the agents is the tenant's; others are left out."""
        with unavailable("look up agents"):
            return {row[0]: row[1] for row in await self._pool.fetch(_MADE, tenant, agents)}


async def _record(connection: Connection, tenant: str, kind: str, back: int | None) -> list[Loss]:
    """Write a loss down; where nothing was ever accepted, nothing is lost."""
    return [_loss(row) for row in await connection.fetch(_RECORD_LOSS, tenant, kind, back)]


async def _fold(connection: Connection, tenant: str) -> None:
    """Make the last snapshot a part of the past."""
    rows = await connection.fetch(_NUMBERED, tenant)
    folded = {row["agent"]: _folded(row["past_sequences"], row["sequences"]) for row in rows}
    await connection.execute(_FOLD, tenant)
    await connection.execute(_FOLD_NUMBERS, tenant, list(folded), list(folded.values()))


async def _write(connection: Connection, tenant: str, changed: Mapping[str, Record]) -> int:
    """Store the agents that changed; how many accepted messages are no longer among them."""
    agents, back = list(changed), 0
    for start in range(0, len(agents), _PAGE_AGENTS):
        page = agents[start : start + _PAGE_AGENTS]
        counters = [orjson.dumps(changed[agent].counts).decode() for agent in page]
        numbers = [changed[agent].sequences for agent in page]
        back += await connection.fetchval(_KEEP, tenant, page, counters, numbers)
    return back


def _folded(past: str, closed: str) -> str:
    if not past or not closed:
        return past or closed
    return sequences.text(sequences.fold(sequences.parse(past), sequences.parse(closed)))


def _loss(row: Any) -> Loss:
    fields: dict[str, Any] = {name: row[name] for name in Loss.__dataclass_fields__}
    return Loss(**fields)
