"""Rules of what a tenant keeps shorter than the platform does, as people keep them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from typing import Any

from iotistica.errors import Conflict, NotFound
from iotistica.retention import Rule
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Pool, Row, unavailable
from iotistica.store.query_slots import QuerySlots

MOST_RULES = 100
_AGENTS_AT_ONCE = 200

# How many metrics of the tenant each rule counts for.
_LIST = """
WITH name AS (
    SELECT DISTINCT l.metric_name
    FROM agents JOIN readings_latest AS l ON l.agent_uuid = agents.uuid
    WHERE agents.tenant_id = $1
)
SELECT r.id, r.pattern, r.keep_days, r.remove_rollups, r.created_at, r.updated_at,
       count(name.metric_name) AS metrics
FROM retention_rules AS r
LEFT JOIN name ON (retention_rule($1, name.metric_name)).id = r.id
WHERE r.tenant_id = $1 GROUP BY r.id ORDER BY r.pattern
"""
_ONE = """
SELECT pattern, keep_days, remove_rollups FROM retention_rules
WHERE tenant_id = $1 AND pattern = $2
"""
# Whoever adds rules holds the tenant's row, so that they are counted right.
_LOCK = "SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE"
_COUNT = "SELECT count(*) FROM retention_rules WHERE tenant_id = $1 AND pattern <> $2"
_PUT = """
INSERT INTO retention_rules (tenant_id, pattern, keep_days, remove_rollups) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, pattern) DO UPDATE
SET keep_days = excluded.keep_days, remove_rollups = excluded.remove_rollups, updated_at = now()
"""
_REMOVE = """
DELETE FROM retention_rules WHERE tenant_id = $1 AND id = $2
RETURNING pattern, keep_days, remove_rollups
"""
_STORAGE = """
SELECT readings, most, oldest, quota_since, counted_at FROM tenant_storage WHERE tenant_id = $1
"""
_AGENTS = "SELECT uuid FROM agents WHERE tenant_id = $1 ORDER BY uuid"
_STORED = "SELECT metric_name, day, readings FROM readings_stored($1)"

Stored = Counter[tuple[str, date]]
"""Readings by metric and day."""


class RetentionRules:
    """Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool, slots: QuerySlots | None = None) -> None:
        self._pool = pool
        self._slots = slots or QuerySlots(pool)

    async def listed(self, tenant: str) -> list[Row]:
        """All of them by pattern, and for how many metrics each counts."""
        with unavailable("list rules of retention"):
            return await self._pool.fetch(_LIST, tenant)

    async def put(self, origin: Origin, rule: Rule) -> Row:
        """Make a rule, or replace that of the same pattern. Raises `Conflict` for too many."""
        with unavailable("set a rule of retention"):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_LOCK, origin.tenant)
                count = await connection.fetchval(_COUNT, origin.tenant, rule.pattern)
                if count >= MOST_RULES:
                    raise Conflict(f"the tenant has {count} rules, and {MOST_RULES} it may have")
                before = await connection.fetchrow(_ONE, origin.tenant, rule.pattern)
                given = (rule.pattern, rule.keep_days, rule.remove_rollups)
                await connection.execute(_PUT, origin.tenant, *given)
                after = await connection.fetchrow(_ONE, origin.tenant, rule.pattern)
                await journal.record(
                    connection, origin, _entry("set", rule.pattern, before=before, after=after)
                )
                found = await connection.fetch(_LIST, origin.tenant)
        return next(one for one in found if one["pattern"] == rule.pattern)

    async def remove(self, origin: Origin, rule: int) -> None:
        """Forget a rule; what it has removed stays away. Raises `NotFound`."""
        with unavailable("remove a rule of retention"):
            async with self._pool.acquire() as connection, connection.transaction():
                gone = await connection.fetchrow(_REMOVE, origin.tenant, rule)
                if gone is None:
                    raise NotFound(f"rule {rule} does not exist")
                entry = _entry("removed", gone["pattern"], before=gone)
                await journal.record(connection, origin, entry)

    async def storage(self, tenant: str) -> Row | None:
        """How much a tenant with a quota has stored, as counted last."""
        with unavailable("read how much is stored"):
            return await self._pool.fetchrow(_STORAGE, tenant)

    async def stored(self, tenant: str) -> Stored:
        """Readings that the tenant has stored, from daily rollups. Raises `TooSlow`, `Busy`."""
        async with self._slots.take("count what is stored") as reader:
            return await stored(reader.fetch, tenant)


async def stored(fetch: Callable[..., Awaitable[Sequence[Any]]], tenant: str) -> Stored:
    """Readings that a tenant has stored; some agents in a statement. Raises what asyncpg raises."""
    agents = [row["uuid"] for row in await fetch(_AGENTS, tenant)]
    found: Stored = Counter()
    for start in range(0, len(agents), _AGENTS_AT_ONCE):
        for metric, day, readings in await fetch(_STORED, agents[start : start + _AGENTS_AT_ONCE]):
            found[(metric, day)] += readings
    return found


def _entry(what: str, pattern: str, *, before: Row | None, after: Row | None = None) -> Entry:
    return Entry(
        event_type=f"retention_rule.{what}",
        subject=f"retention_rule/{pattern}",
        before=None if before is None else dict(before),
        after=None if after is None else dict(after),
        severity="warning",
    )
