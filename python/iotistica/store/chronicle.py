"""Everything that happened: events of agents and entries of the journal, read as one, by time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from iotistica.errors import NotFound
from iotistica.store.pool import Pool, Row, unavailable

# Both halves have these columns; `half` tells ids of one from those of the other.
_EVENT = """
SELECT 1 AS half, id, time, tenant_id,
       CASE source WHEN 'jobs' THEN type ELSE source || '.' || type END AS event_type, source,
       agent_uuid, 'agent' AS aggregate_type, agent_uuid::text AS aggregate_id,
       CASE WHEN data ->> 'severity' IN ('info', 'warning', 'critical')
            THEN data ->> 'severity' ELSE 'info' END AS severity,
       'agent' AS actor_type, agent_uuid::text AS actor_id, '' AS actor_name,
       '' AS correlation_id, data
FROM agent_events
"""
_CHANGE = """
SELECT 2 AS half, id, created_at AS time, tenant_id, event_type, 'journal' AS source, agent_uuid,
       split_part(subject, '/', 1) AS aggregate_type,
       substr(subject, strpos(subject || '/', '/') + 1) AS aggregate_id,
       severity, actor_type, actor_id, actor_name, request_id AS correlation_id,
       jsonb_build_object('before', before, 'after', after) AS data
FROM audit_logs
"""
_FITS = """
WHERE tenant_id = $1 AND {agent}
  AND ($3::text[] IS NULL OR event_type = ANY ($3))
  AND ($4::text[] IS NULL OR aggregate_type = ANY ($4))
  AND ($5::text[] IS NULL OR severity = ANY ($5))
  AND ($6::text IS NULL OR actor_type = $6)
  AND ($7::text IS NULL OR actor_id = $7)
  AND ($8::text IS NULL OR correlation_id = $8)
  AND time >= $9 AND time <= $10
"""
_AFTER = "AND (time, half, id) {than} ($11, $12, $13)\nORDER BY time {way}, half {way}, id {way}"
_ANY, _ONE = "$2::uuid IS NULL", "agent_uuid = $2"


def _page(agent: str, than: str, way: str) -> str:
    """Each half is limited by itself, so that an index of it is enough."""
    rest = _FITS.format(agent=agent) + _AFTER.format(than=than, way=way) + "\nLIMIT $14"
    events = f"(SELECT * FROM ({_EVENT}) AS events {rest})"  # noqa: S608 (constants only)
    changes = f"(SELECT * FROM ({_CHANGE}) AS changes {rest})"  # noqa: S608
    order = _AFTER.format(than=than, way=way).partition("\n")[2]
    return f"{events}\nUNION ALL\n{changes}\n{order}\nLIMIT $14"


_NEWEST = {True: _page(_ONE, "<", "DESC"), False: _page(_ANY, "<", "DESC")}
"""By whether one agent is asked for."""
_OLDEST = _page(_ONE, ">", "ASC")

_COUNT = """
SELECT {key} AS key, event_type, count(*) AS count, min(time) AS first, max(time) AS last
FROM (SELECT * FROM ({events}) AS events
      WHERE tenant_id = $1 AND {agent} AND time >= $3 AND time < $4
      UNION ALL
      SELECT * FROM ({changes}) AS changes
      WHERE tenant_id = $1 AND {agent} AND time >= $3 AND time < $4) AS found
GROUP BY 1, 2
ORDER BY 1, 2
"""


def _counted(key: str, agent: str) -> str:
    return _COUNT.format(key=key, agent=agent, events=_EVENT, changes=_CHANGE)


_BY_TYPE = {True: _counted("source", _ONE), False: _counted("source", _ANY)}
_BY_SPAN = {
    True: _counted("date_trunc($5, time, 'UTC')", _ONE),
    False: _counted("date_trunc($5, time, 'UTC')", _ANY),
}
_HAS_AGENT = "SELECT FROM agents WHERE tenant_id = $1 AND uuid = $2"
_PRESENCE = """
SELECT e.type, e.time FROM agent_events AS e
WHERE e.tenant_id = $1 AND e.agent_uuid = $2 AND e.source = 'presence' AND e.time <= $3
ORDER BY e.time DESC, e.id DESC
LIMIT 1
"""

Position = tuple[datetime, int, int]
"""Time, half and id of the last row of a page."""

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
END = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which; None is any. `since` and `until` belong to it."""

    agent: UUID | None = None
    types: Sequence[str] | None = None
    kinds: Sequence[str] | None = None
    """What it is about: `agent`, `user`, `job`, …"""
    severities: Sequence[str] | None = None
    actor_type: str | None = None
    actor: str | None = None
    correlation: str | None = None
    """The id of the request that made a change."""
    since: datetime | None = None
    until: datetime | None = None


class Chronicle:
    """Every method raises `StoreUnavailable`, and `NotFound` for an agent that is not the
    tenant's."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def newest(
        self, tenant: str, choice: Choice, *, below: Position | None, limit: int
    ) -> list[Row]:
        """At most `limit` rows before a position, newest first."""
        statement = _NEWEST[choice.agent is not None]
        last = below or (END, 9, 0)
        chosen = replace(choice, until=min(choice.until or END, last[0]))
        return await self._rows(statement, tenant, chosen, last, limit)

    async def oldest(
        self, tenant: str, choice: Choice, *, above: Position | None, limit: int
    ) -> list[Row]:
        """At most `limit` rows of an agent after a position, as they happened."""
        last = above or (BEGINNING, 0, 0)
        chosen = replace(choice, since=max(choice.since or BEGINNING, last[0]))
        return await self._rows(_OLDEST, tenant, chosen, last, limit)

    async def by_type(
        self, tenant: str, agent: UUID | None, *, since: datetime, until: datetime
    ) -> list[Row]:
        """How many there were of each source and type."""
        return await self._counted(_BY_TYPE, tenant, agent, since, until)

    async def by_span(
        self, tenant: str, agent: UUID | None, span: str, *, since: datetime, until: datetime
    ) -> list[Row]:
        """How many there were of each type in each `hour`, `day`, `week` or `month` (UTC)."""
        return await self._counted(_BY_SPAN, tenant, agent, since, until, span)

    async def presence(self, tenant: str, agent: UUID, at: datetime) -> Row | None:
        """Whether the agent had come or gone last at that time, and when; None where unknown."""
        with unavailable("read events"):
            return await self._pool.fetchrow(_PRESENCE, tenant, agent, at)

    async def _rows(
        self, statement: str, tenant: str, choice: Choice, last: Position, limit: int
    ) -> list[Row]:
        with unavailable("read events"):
            rows = await self._pool.fetch(
                statement,
                tenant,
                choice.agent,
                choice.types,
                choice.kinds,
                choice.severities,
                choice.actor_type,
                choice.actor,
                choice.correlation,
                choice.since or BEGINNING,
                choice.until or END,
                *last,
                limit,
            )
        await self._require(tenant, choice.agent, rows)
        return rows

    async def _counted(
        self, statements: dict[bool, str], tenant: str, agent: UUID | None, *rest: Any
    ) -> list[Row]:
        with unavailable("count events"):
            rows = await self._pool.fetch(statements[agent is not None], tenant, agent, *rest)
        await self._require(tenant, agent, rows)
        return rows

    async def _require(self, tenant: str, agent: UUID | None, rows: Sequence[Row]) -> None:
        """What happened to an agent that is gone may still be read; it tells of itself."""
        if agent is None or rows:
            return
        with unavailable("look up an agent"):
            if await self._pool.fetchrow(_HAS_AGENT, tenant, agent) is None:
                raise NotFound(f"agent {agent} does not exist")
