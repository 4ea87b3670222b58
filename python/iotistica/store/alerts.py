"""Alerts of rules, for operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from iotistica.errors import Conflict, NotFound
from iotistica.store import journal
from iotistica.store.incidents import who
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Pool, unavailable
from iotistica.store.webhooks import Notice, announce

_COLUMNS = """
    id, rule_id, rule_name, kind, agent_uuid::text, device_name, metric_name, severity, labels,
    message, status, opened_value, value, opened_at, seen_at, cleared_since, flapping,
    acknowledged_at, acknowledged_by, resolved_at, resolution
"""
_LIST = f"""
SELECT {_COLUMNS} FROM alerts
WHERE tenant_id = $1
  AND ($2::bigint IS NULL OR id < $2)
  AND ($3::text IS NULL OR status = $3)
  AND ($4::text IS NULL OR severity = $4)
  AND ($5::uuid IS NULL OR agent_uuid = $5)
  AND ($6::bigint IS NULL OR rule_id = $6)
  AND ($7::jsonb IS NULL OR labels @> $7)
ORDER BY id DESC
LIMIT $8
"""  # noqa: S608 (constants only)
_GET = f"SELECT {_COLUMNS} FROM alerts WHERE tenant_id = $1 AND id = $2"  # noqa: S608
_LOCK = f"{_GET} FOR UPDATE"
_ACKNOWLEDGE = """
UPDATE alerts SET status = 'acknowledged', acknowledged_at = now(), acknowledged_by = $3
WHERE tenant_id = $1 AND id = $2
"""
_MANY = f"SELECT tenant_id, {_COLUMNS} FROM alerts WHERE id = ANY ($1)"  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which alerts; None is any."""

    status: str | None = None
    severity: str | None = None
    agent: UUID | None = None
    rule: int | None = None
    labels: dict[str, str] | None = None


class AlertStore:
    """Alerts of tenants. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(
        self, tenant: str, where: Filter, *, below: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Alerts with a number below, the newest first."""
        labels = None if where.labels is None else orjson.dumps(where.labels).decode()
        with unavailable("list alerts"):
            rows = await self._pool.fetch(
                _LIST,
                tenant,
                below,
                where.status,
                where.severity,
                where.agent,
                where.rule,
                labels,
                limit,
            )
        return [_decoded(row) for row in rows]

    async def get(self, tenant: str, alert: int) -> dict[str, Any]:
        """One alert. Raises `NotFound`."""
        with unavailable("read an alert"):
            return _there(await self._pool.fetchrow(_GET, tenant, alert), alert)

    async def named(self, alerts: list[int]) -> dict[int, dict[str, Any]]:
        """Alerts of any tenant by their numbers, for what is told of them."""
        with unavailable("read alerts"):
            rows = await self._pool.fetch(_MANY, alerts)
        return {row["id"]: _decoded(row) for row in rows}

    async def acknowledge(self, origin: Origin, alert: int) -> dict[str, Any]:
        """Note who looks after it; the alert. Raises `NotFound`, `Conflict`."""
        with unavailable("acknowledge an alert"):
            async with self._pool.acquire() as connection, connection.transaction():
                key = (origin.tenant, alert)
                before = _there(await connection.fetchrow(_LOCK, *key), alert)
                if before["status"] == "resolved":
                    raise Conflict(f"alert {alert} is resolved")
                if before["status"] == "open":
                    await connection.execute(_ACKNOWLEDGE, *key, who(origin))
                    await announce(connection, [Notice("alert.acknowledged", alert)])
                    entry = Entry(
                        event_type="alert.acknowledged",
                        subject=f"alert/{alert}",
                        agent=UUID(before["agent_uuid"]),
                        before={"status": "open"},
                        after={"status": "acknowledged"},
                    )
                    await journal.record(connection, origin, entry)
                return _there(await connection.fetchrow(_GET, *key), alert)


def _decoded(row: asyncpg.Record) -> dict[str, Any]:
    return {**dict(row), "labels": orjson.loads(row["labels"])}


def _there(row: asyncpg.Record | None, alert: int) -> dict[str, Any]:
    if row is None:
        raise NotFound(f"alert {alert} does not exist")
    return _decoded(row)
