"""The loss ledger in PostgreSQL: the last snapshot of what Redis counts, and what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from iotistica import sequences
from iotistica.ledger import Counts
from iotistica.store.pool import Connection, Pool, affected, unavailable

EMPTIED, ROLLED_BACK = "emptied", "rolled_back"

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
_BEGIN_EPOCH = "UPDATE ledgers SET epoch = $2 WHERE tenant_id = $1"
_STAMP = "UPDATE ledgers SET accepted_per_s = $2, snapshot_at = now() WHERE tenant_id = $1"

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
_PAST_OF_ALL = """
SELECT agent, past_sequences, CASE WHEN ledgers.epoch = $2 THEN '' ELSE sequences END AS closed,
       CASE WHEN ledgers.epoch = $2 THEN past ELSE ledger_sum(past, counters) END AS past
FROM ledger_agents JOIN ledgers USING (tenant_id)
WHERE tenant_id = $1 AND ($3::text[] IS NULL OR agent = ANY ($3))
  AND (past <> '{}' OR past_sequences <> '' OR ledgers.epoch <> $2)
"""
_PAST = f"""
SELECT agent, past_sequences, closed,
       ledger_count(past, 'accepted') AS accepted, ledger_count(past, 'settled') AS settled,
       ledger_count(past, 'spooled') AS spooled, ledger_count(past, 'stored') AS stored,
       ledger_count(past, 'redelivered') AS redelivered
FROM ({_PAST_OF_ALL}) AS agents
"""  # noqa: S608 (constants only)
_PAST_COUNTS = f"SELECT agent, past::text FROM ({_PAST_OF_ALL}) AS agents"  # noqa: S608
_PAST_TOTAL = f"""
SELECT key, sum(value::bigint)::bigint FROM ({_PAST_OF_ALL}) AS agents, jsonb_each_text(past)
GROUP BY key
"""  # noqa: S608 (constants only)
_LEDGER = "SELECT epoch, began_at, snapshot_at FROM ledgers WHERE tenant_id = $1"
_LOSSES = """
SELECT * FROM ledger_losses WHERE tenant_id = $1 ORDER BY id DESC LIMIT $2
"""
_ACKNOWLEDGE = """
UPDATE ledger_losses SET acknowledged_at = now(), acknowledged_by = $2, acknowledgment = $3
WHERE tenant_id = $1 AND acknowledged_at IS NULL AND id <= $4
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
    acknowledged_at: datetime | None
    """When somebody said that they know of it; `acknowledged_by` whom, `acknowledgment` why."""
    acknowledged_by: str | None
    acknowledgment: str | None


@dataclass(frozen=True, slots=True)
class Record:
    """What a snapshot holds of one agent."""

    counts: Counts
    sequences: str = ""


class Before(NamedTuple):
    """What the ledgers that went before counted of one agent."""

    accepted: int = 0
    settled: int = 0
    spooled: int = 0
    stored: int = 0
    redelivered: int = 0
    sequences: str = ""

    @property
    def lost(self) -> int:
        """Messages that were in flight at the last snapshots."""
        return self.accepted - self.settled - self.spooled


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What the ledgers that went before counted."""

    epoch: str = ""
    """The one that the last snapshot is of; empty where there is none yet."""
    began_at: datetime | None = None
    snapshot_at: datetime | None = None
    agents: Mapping[str, Before] = field(default_factory=dict)
    total: Counts = field(default_factory=dict)


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

    async def begin(self, tenant: str, holder: str, epoch: str) -> list[Loss] | None:
        """Say which epoch the next snapshots are of; where it is a new one, the loss that ended the
        last. None where another process holds the ledger by now.
        """
        with unavailable("begin a ledger"):
            async with self._pool.acquire() as connection, connection.transaction():
                known = await connection.fetchval(_HELD, tenant, holder)
                if known is None or known == epoch:
                    return None if known is None else []
                losses = []
                if known:
                    losses = await _record(connection, tenant, EMPTIED, None)
                    await _fold(connection, tenant)
                await connection.execute(_BEGIN_EPOCH, tenant, epoch)
                return losses

    async def keep(
        self, tenant: str, holder: str, epoch: str, agents: Mapping[str, Record]
    ) -> int | None:
        """Store a snapshot of some agents. How many messages that were accepted by the last one are
        no longer; None where another process holds the ledger, or it is of another epoch.
        """
        counters = [orjson.dumps(record.counts).decode() for record in agents.values()]
        numbers = [record.sequences for record in agents.values()]
        with unavailable("keep the ledger"):
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_HELD, tenant, holder) != epoch:
                    return None
                back: int = await connection.fetchval(
                    _KEEP, tenant, list(agents), counters, numbers
                )
                return back

    async def finish(
        self, tenant: str, holder: str, epoch: str, *, accepted_per_s: float, back: int
    ) -> list[Loss]:
        """End a snapshot of which all agents are stored; the loss of what `keep` found gone."""
        with unavailable("keep the ledger"):
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_HELD, tenant, holder) != epoch:
                    return []
                losses = await _record(connection, tenant, ROLLED_BACK, back) if back else []
                await connection.execute(_STAMP, tenant, accepted_per_s)
                return losses

    async def past(self, tenant: str, epoch: str, agent: str | None = None) -> Past:
        """What was counted before the epoch that Redis is in."""
        wanted = None if agent is None else [agent]
        with unavailable("read the ledger"):
            head = await self._pool.fetchrow(_LEDGER, tenant)
            if head is None:
                return Past()
            async with self._pool.acquire() as connection, connection.transaction():
                agents = {
                    row["agent"]: _before(row)
                    async for row in connection.cursor(_PAST, tenant, epoch, wanted, prefetch=500)
                }
                total = await connection.fetch(_PAST_TOTAL, tenant, epoch, wanted)
        return Past(**head, agents=agents, total={row[0]: row[1] for row in total})

    async def past_counts(
        self, tenant: str, epoch: str, agents: Sequence[str]
    ) -> dict[str, dict[str, int]]:
        """All counters of these agents before the epoch that Redis is in."""
        with unavailable("read the ledger"):
            rows = await self._pool.fetch(_PAST_COUNTS, tenant, epoch, agents)
        return {row["agent"]: orjson.loads(row["past"]) for row in rows}

    async def losses(self, tenant: str) -> list[Loss]:
        """The last hundred, the newest first."""
        with unavailable("read the losses"):
            rows = await self._pool.fetch(_LOSSES, tenant, _MOST_LOSSES)
        return [_loss(row) for row in rows]

    async def acknowledge(self, tenant: str, *, upto: int, by: str, why: str) -> int:
        """Acknowledge the losses up to an id, those that are acknowledged excepted; how many."""
        with unavailable("acknowledge losses"):
            done = await self._pool.execute(_ACKNOWLEDGE, tenant, by, why, upto)
        return affected(done)

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


def _before(row: Any) -> Before:
    return Before(
        accepted=row["accepted"],
        settled=row["settled"],
        spooled=row["spooled"],
        stored=row["stored"],
        redelivered=row["redelivered"],
        sequences=_folded(row["past_sequences"], row["closed"]),
    )


def _folded(past: str, closed: str) -> str:
    if not past or not closed:
        return past or closed
    return sequences.text(sequences.fold(sequences.parse(past), sequences.parse(closed)))


def _loss(row: Any) -> Loss:
    fields: dict[str, Any] = {name: row[name] for name in Loss.__dataclass_fields__}
    return Loss(**fields)
