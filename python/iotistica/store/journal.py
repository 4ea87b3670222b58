"""The journal of changes: who did what, before and after (table `audit_logs`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson

from iotistica.store.documents import without_nul
from iotistica.store.pool import Connection, Pool, unavailable

Severity = Literal["info", "warning", "critical"]

_MAX_TEXT = 512

_RECORD = """
INSERT INTO audit_logs (tenant_id, event_type, severity, actor_type, actor_id, actor_name, subject,
                        agent_uuid, before, after, ip_address, user_agent, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""
_LIST = """
SELECT id, event_type, severity, actor_type, actor_id, actor_name, subject, agent_uuid,
       before, after, ip_address, user_agent, request_id, created_at
FROM audit_logs
WHERE tenant_id = $1
  AND ($2::bigint IS NULL OR id < $2)
  AND ($3::text IS NULL OR actor_id = $3)
  AND ($4::text IS NULL OR subject = $4)
  AND ($5::text IS NULL OR event_type = $5)
  AND ($6::timestamptz IS NULL OR created_at >= $6)
  AND ($7::timestamptz IS NULL OR created_at < $7)
ORDER BY id DESC
LIMIT $8
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who makes a change, and from where; `Request.origin` is that of a request."""

    tenant: str
    kind: Literal["user", "service", "agent", "system"] = "system"
    id: str = ""
    name: str = "system"
    address: str = ""
    user_agent: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change. `before` and `after` hold what JSON can say, and never a secret."""

    event_type: str
    """Kind of the subject and what happened to it: `user.created`."""
    subject: str
    """Kind and id: `user/7`."""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    agent: UUID | None = None
    """The agent that it is about, where it is about one."""
    severity: Severity = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which entries; None is any. Times: `since` belongs to it, `until` does not."""

    actor: str | None = None
    """Id of the user, key or agent."""
    subject: str | None = None
    event_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def record(place: Connection | Pool, origin: Origin, *entries: Entry) -> None:
    """Write entries. On the connection of a transaction they stand or fall with the change.

    Raises what asyncpg raises, so that it fits into a caller's `unavailable`.
    """
    rows = [_row(origin, entry) for entry in entries]
    if len(rows) == 1:
        await place.execute(_RECORD, *rows[0])
    else:
        await place.executemany(_RECORD, rows)


class Journal:
    """Reads the journal."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def newest(
        self, tenant: str, where: Filter, *, below: int | None, limit: int
    ) -> Sequence[Any]:
        """At most `limit` entries with an id below, newest first. Raises `StoreUnavailable`."""
        with unavailable("read the journal"):
            return await self._pool.fetch(
                _LIST,
                tenant,
                below,
                where.actor,
                where.subject,
                where.event_type,
                where.since,
                where.until,
                limit,
            )


def _row(origin: Origin, entry: Entry) -> tuple[Any, ...]:
    return (
        origin.tenant,
        entry.event_type,
        entry.severity,
        origin.kind,
        origin.id,
        _text(origin.name),
        entry.subject,
        entry.agent,
        _json(entry.before),
        _json(entry.after),
        _text(origin.address),
        _text(origin.user_agent),
        origin.request_id,
    )


def _text(value: str) -> str:
    """What a client may write as long and as wild as it likes."""
    return value.replace("\0", "")[:_MAX_TEXT]


def _json(value: Mapping[str, Any] | None) -> str | None:
    if value is None:
        return None
    return without_nul(orjson.dumps(value, option=orjson.OPT_UTC_Z, default=_plain).decode())


def _plain(value: Any) -> Any:
    """asyncpg has a UUID type of its own; sets have no order."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError(f"a {type(value).__name__} cannot stand in the journal")
