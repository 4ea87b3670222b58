"""Lines of container logs, by day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from iotistica.store.documents import json_text
from iotistica.store.pool import Pool, unavailable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MAKE_DAYS = "SELECT agent_logs_make_days($1)"
_ADD = """
WITH line AS (
    SELECT * FROM unnest($1::text[]::uuid[], $2::timestamptz[], $3::bigint[], $4::text[],
                         $5::text[], $6::text[], $7::boolean[], $8::boolean[],
                         $9::text[]::jsonb[])
        AS line (agent_uuid, time, digest, service_name, level, message, is_stderr, is_system, meta)
), services AS (
    INSERT INTO agent_log_services AS known (agent_uuid, service_name, last_at)
    SELECT agent_uuid, service_name, max(time) FROM line JOIN agents ON uuid = agent_uuid
    GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (agent_uuid, service_name) DO UPDATE SET last_at = excluded.last_at
    WHERE known.last_at < excluded.last_at - interval '1 min'
)
INSERT INTO agent_logs
SELECT * FROM line ORDER BY agent_uuid, time, digest
ON CONFLICT DO NOTHING
"""
_LISTED = """
SELECT time, digest, service_name, level, message, is_stderr, is_system, meta
FROM agents JOIN agent_logs ON agent_uuid = uuid
WHERE agents.tenant_id = $1 AND agents.uuid = $2
  AND time >= coalesce($3, '-infinity'::timestamptz)
  AND time <= coalesce($4, 'infinity'::timestamptz)
  AND ($5::text[] IS NULL OR service_name = ANY ($5))
  AND ($6::text[] IS NULL OR level = ANY ($6))
  AND ($7::text IS NULL OR position(lower($7) IN lower(message)) > 0)
  AND ($8::timestamptz IS NULL OR (time, digest) < ($8, $9::bigint))
ORDER BY time DESC, digest DESC
LIMIT $10 OFFSET $11
"""
_EXISTS = "SELECT EXISTS (SELECT FROM agents WHERE tenant_id = $1 AND uuid = $2)"
_SERVICES = """
SELECT service_name, last_at FROM agents JOIN agent_log_services ON agent_uuid = uuid
WHERE tenant_id = $1 AND uuid = $2
ORDER BY service_name
"""
_DROPPED = """
INSERT INTO agent_log_drops (agent_uuid, reported_at, summary, digest)
SELECT $1, $2, summary, digest
FROM unnest($3::text[]::jsonb[], $4::bytea[]) AS new (summary, digest)
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a log."""

    agent: str
    time: datetime
    service: str
    level: str
    message: str
    is_stderr: bool = False
    is_system: bool = False
    meta: dict[str, Any] = field(default_factory=dict)
    digest: int = 0

    def numbered(self, digest: int) -> Line:
        """The same line with its digest."""
        return replace(self, digest=digest)

    def shown(self) -> dict[str, Any]:
        """As clients read it."""
        return {
            "agent_uuid": self.agent,
            "timestamp": self.time,
            "service_name": self.service,
            "level": self.level,
            "message": self.message,
            "is_stderr": self.is_stderr,
            "is_system": self.is_system,
            "meta": self.meta,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which lines are wanted; None is any."""

    start: datetime | None = None
    end: datetime | None = None
    services: Sequence[str] | None = None
    levels: Sequence[str] | None = None
    text: str | None = None
    before: tuple[datetime, int] | None = None
    """Time and digest of a line: only older ones."""
    limit: int = 1000
    offset: int = 0


class LogStore:
    """Lines of all agents. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._days: set[int] = set()

    async def add(self, lines: Sequence[Line]) -> None:
        """Store lines; one that is there already stays as it is."""
        if not lines:
            return
        names = ("agent", "time", "digest", "service", "level", "message", "is_stderr", "is_system")
        columns = [[getattr(line, name) for line in lines] for name in names]
        metas = [json_text(line.meta) if line.meta else None for line in lines]
        days = {(line.time - _EPOCH).days for line in lines}
        with unavailable("store logs"):
            if missing := days - self._days:
                await self._pool.execute(_MAKE_DAYS, sorted(missing))
                self._days |= missing
            await self._pool.execute(_ADD, *columns, metas)

    async def listed(self, tenant: str, agent: UUID, asked: Asked) -> list[asyncpg.Record] | None:
        """Lines of an agent, the newest first; None where it does not exist."""
        before = asked.before or (None, None)
        with unavailable("read logs"):
            rows = await self._pool.fetch(
                _LISTED,
                tenant,
                agent,
                asked.start,
                asked.end,
                asked.services,
                asked.levels,
                asked.text,
                *before,
                asked.limit,
                asked.offset,
            )
            return rows if rows or await self._pool.fetchval(_EXISTS, tenant, agent) else None

    async def services(self, tenant: str, agent: UUID) -> list[asyncpg.Record] | None:
        """Services of an agent that have logs; None where it does not exist."""
        with unavailable("list the services"):
            rows = await self._pool.fetch(_SERVICES, tenant, agent)
            return rows if rows or await self._pool.fetchval(_EXISTS, tenant, agent) else None

    async def dropped(
        self, agent: UUID, reported_at: datetime, summaries: Sequence[tuple[str, bytes]]
    ) -> None:
        """Note what an agent dropped: JSON and digest of each summary."""
        texts, digests = [text for text, _ in summaries], [digest for _, digest in summaries]
        with unavailable("note dropped logs"):
            await self._pool.execute(_DROPPED, agent, reported_at, texts, digests)
