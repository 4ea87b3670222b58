"""Webhooks, and the queue of what is to be told to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson

from iotistica.errors import Conflict, NotFound
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Connection, DuplicateKey, Pool, unavailable

MOST_WEBHOOKS = 50
"""Of one tenant."""
TEST = "test"
"""Event of a delivery that somebody asked for."""

_WEBHOOKS_AT_ONCE = 32
_EACH_AT_ONCE = 4
_ERROR_CHARACTERS = 500

_COLUMNS = "id, name, url, events, severities, enabled, created_at, modified_at"
_LIST = f"""
SELECT {_COLUMNS} FROM alert_webhooks
WHERE tenant_id = $1 AND ($2::bigint IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3
"""  # noqa: S608 (constants only)
_GET = f"SELECT {_COLUMNS} FROM alert_webhooks WHERE tenant_id = $1 AND id = $2"  # noqa: S608
_LOCK = f"{_GET} FOR UPDATE"
_COUNT = """
SELECT count(*) FROM alert_webhooks
WHERE tenant_id = (SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE)
"""
_ADD = """
INSERT INTO alert_webhooks (tenant_id, name, url, events, severities, enabled, salt)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id
"""
_CHANGE = """
UPDATE alert_webhooks
SET name = $3, url = $4, events = $5, severities = $6, enabled = $7, modified_at = now()
WHERE tenant_id = $1 AND id = $2
"""
_ROTATE = """
UPDATE alert_webhooks SET salt = $3, modified_at = now() WHERE tenant_id = $1 AND id = $2
"""
_REMOVE = "DELETE FROM alert_webhooks WHERE tenant_id = $1 AND id = $2"

_ANNOUNCE = """
INSERT INTO alert_deliveries (tenant_id, webhook_id, event, payload)
SELECT alert.tenant_id, webhook.id, notice.event, to_jsonb(alert) - 'tenant_id'
FROM unnest($1::text[], $2::bigint[]) AS notice (event, id)
JOIN alerts AS alert ON alert.id = notice.id
JOIN alert_webhooks AS webhook
  ON webhook.tenant_id = alert.tenant_id AND webhook.enabled
 AND notice.event = ANY (webhook.events) AND alert.severity = ANY (webhook.severities)
"""
_ANNOUNCE_ANOMALIES = """
INSERT INTO alert_deliveries (tenant_id, webhook_id, event, payload)
SELECT alert.tenant_id, webhook.id, 'anomaly.alert', to_jsonb(alert) - 'tenant_id'
FROM anomaly_alerts AS alert
JOIN alert_webhooks AS webhook
  ON webhook.tenant_id = alert.tenant_id AND webhook.enabled
 AND 'anomaly.alert' = ANY (webhook.events) AND alert.severity = ANY (webhook.severities)
WHERE alert.alert_id = ANY ($1)
"""

# A few of each, so that a receiver that is slow delays nobody but itself.
_CLAIM = """
UPDATE alert_deliveries AS delivery
SET attempts = attempts + 1, next_at = now() + $1::float8 * interval '1 second'
FROM (
    SELECT chosen.id FROM (
        SELECT webhook_id FROM alert_deliveries WHERE status = 'pending' AND next_at <= now()
        GROUP BY webhook_id ORDER BY min(next_at) LIMIT $2
    ) AS waiting
    CROSS JOIN LATERAL (
        SELECT id FROM alert_deliveries
        WHERE webhook_id = waiting.webhook_id AND status = 'pending' AND next_at <= now()
        ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED
    ) AS chosen
) AS due, alert_webhooks AS webhook
WHERE delivery.id = due.id AND webhook.id = delivery.webhook_id
RETURNING delivery.id, delivery.tenant_id, delivery.event, delivery.payload, delivery.attempts,
          delivery.created_at, webhook.url, webhook.salt, webhook.enabled
"""
_FINISH = """
UPDATE alert_deliveries
SET status = $3, response_status = $4, error = $5,
    next_at = now() + $6::float8 * interval '1 second',
    finished_at = CASE WHEN $3 = 'pending' THEN NULL ELSE now() END
WHERE id = $1 AND attempts = $2 AND status = 'pending'
"""
_TEST = """
INSERT INTO alert_deliveries (tenant_id, webhook_id, event, payload, attempts, next_at)
SELECT tenant_id, id, 'test', $3::jsonb, 1, now() + $4::float8 * interval '1 second'
FROM alert_webhooks WHERE tenant_id = $1 AND id = $2
RETURNING id, created_at,
          (SELECT url FROM alert_webhooks WHERE id = webhook_id) AS url,
          (SELECT salt FROM alert_webhooks WHERE id = webhook_id) AS salt
"""
_DELIVERIES = """
SELECT delivery.id, delivery.event, delivery.status, delivery.attempts, delivery.next_at,
       delivery.response_status, delivery.error, delivery.created_at, delivery.finished_at,
       delivery.payload
FROM alert_webhooks AS webhook
JOIN alert_deliveries AS delivery ON delivery.webhook_id = webhook.id
WHERE webhook.tenant_id = $1 AND webhook.id = $2
  AND ($3::bigint IS NULL OR delivery.id < $3)
  AND ($4::text IS NULL OR delivery.status = $4)
ORDER BY delivery.id DESC LIMIT $5
"""
_AGAIN = """
UPDATE alert_deliveries
SET status = 'pending', attempts = 0, next_at = now(), finished_at = NULL
WHERE tenant_id = $1 AND webhook_id = $2 AND id = $3 AND status = 'dead'
RETURNING id
"""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened to an alert: `alert.opened`, `alert.acknowledged`, `alert.resolved`."""

    event: str
    alert: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A delivery to try now, and whom to."""

    id: int
    tenant: str
    event: str
    payload: Any
    attempts: int
    created_at: datetime
    url: str
    salt: bytes
    enabled: bool = True

    def body(self) -> bytes:
        """What is sent; the same at each attempt."""
        return orjson.dumps(
            {
                "id": self.id,
                "event": self.event,
                "tenant": self.tenant,
                "created_at": self.created_at,
                "alert": self.payload,
            },
            option=orjson.OPT_UTC_Z,
        )


async def announce(connection: Connection, notices: Sequence[Notice]) -> None:
    """Queue deliveries, in the transaction of what happened."""
    if notices:
        events, alerts = [one.event for one in notices], [one.alert for one in notices]
        await connection.execute(_ANNOUNCE, events, alerts)


async def announce_anomalies(connection: Connection, alerts: Sequence[int]) -> None:
    """The same for alerts of anomalies."""
    if alerts:
        await connection.execute(_ANNOUNCE_ANOMALIES, alerts)


class WebhookStore:
    """Webhooks of tenants. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(self, tenant: str, *, below: int | None, limit: int) -> list[asyncpg.Record]:
        """Webhooks with a number below, the newest first."""
        with unavailable("list webhooks"):
            return await self._pool.fetch(_LIST, tenant, below, limit)

    async def get(self, tenant: str, webhook: int) -> asyncpg.Record:
        """One webhook. Raises `NotFound`."""
        with unavailable("read a webhook"):
            return _there(await self._pool.fetchrow(_GET, tenant, webhook), webhook)

    async def add(self, origin: Origin, fields: Mapping[str, Any], salt: bytes) -> asyncpg.Record:
        """Make a webhook. Raises `Conflict`."""
        with unavailable("make a webhook"):
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_COUNT, origin.tenant) >= MOST_WEBHOOKS:
                    raise Conflict(f"there are {MOST_WEBHOOKS} webhooks; no more are allowed")
                try:
                    number = await connection.fetchval(_ADD, origin.tenant, *_row(fields), salt)
                except DuplicateKey:
                    raise _taken(fields["name"]) from None
                made = _there(await connection.fetchrow(_GET, origin.tenant, number), number)
                await _note(connection, origin, number, "created", after=_shown(made))
        return made

    async def change(
        self, origin: Origin, webhook: int, changes: Mapping[str, Any]
    ) -> asyncpg.Record:
        """Change a webhook. Raises `NotFound`, `Conflict`."""
        with unavailable("change a webhook"):
            async with self._pool.acquire() as connection, connection.transaction():
                key = (origin.tenant, webhook)
                before = _there(await connection.fetchrow(_LOCK, *key), webhook)
                fields = {**dict(before), **changes}
                try:
                    await connection.execute(_CHANGE, *key, *_row(fields))
                except DuplicateKey:
                    raise _taken(fields["name"]) from None
                after = _there(await connection.fetchrow(_GET, *key), webhook)
                old, new = _shown(before), _shown(after)
                changed = [name for name in new if name in changes]
                await _note(
                    connection,
                    origin,
                    webhook,
                    "changed",
                    before={name: old[name] for name in changed},
                    after={name: new[name] for name in changed},
                )
        return after

    async def rotate(self, origin: Origin, webhook: int, salt: bytes) -> asyncpg.Record:
        """Give a webhook another secret. Raises `NotFound`."""
        with unavailable("rotate the secret of a webhook"):
            async with self._pool.acquire() as connection, connection.transaction():
                key = (origin.tenant, webhook)
                _there(await connection.fetchrow(_LOCK, *key), webhook)
                await connection.execute(_ROTATE, *key, salt)
                await _note(connection, origin, webhook, "secret_rotated")
                return _there(await connection.fetchrow(_GET, *key), webhook)

    async def remove(self, origin: Origin, webhook: int) -> None:
        """Remove a webhook with its deliveries. Raises `NotFound`."""
        with unavailable("remove a webhook"):
            async with self._pool.acquire() as connection, connection.transaction():
                key = (origin.tenant, webhook)
                before = _there(await connection.fetchrow(_LOCK, *key), webhook)
                await connection.execute(_REMOVE, *key)
                await _note(connection, origin, webhook, "deleted", before=_shown(before))


class DeliveryStore:
    """The queue of deliveries. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def claim(self, *, lease_s: float) -> list[Due]:
        """Deliveries to try now; they come up again after the lease, if nobody finishes them."""
        with unavailable("claim deliveries"):
            rows = await self._pool.fetch(_CLAIM, lease_s, _WEBHOOKS_AT_ONCE, _EACH_AT_ONCE)
        return [
            Due(
                id=row["id"],
                tenant=row["tenant_id"],
                event=row["event"],
                payload=orjson.loads(row["payload"]),
                attempts=row["attempts"],
                created_at=row["created_at"],
                url=row["url"],
                salt=row["salt"],
                enabled=row["enabled"],
            )
            for row in rows
        ]

    async def finish(
        self,
        due: Due,
        *,
        status: str,
        response: int | None = None,
        error: str | None = None,
        again_s: float = 0.0,
    ) -> None:
        """Note what came of an attempt: `delivered`, `dead`, or `pending` for another one.

        Whoever was too late for the lease changes nothing.
        """
        text = None if error is None else error.replace("\0", "")[:_ERROR_CHARACTERS]
        with unavailable("note what came of a delivery"):
            await self._pool.execute(_FINISH, due.id, due.attempts, status, response, text, again_s)

    async def test(self, tenant: str, webhook: int, *, lease_s: float) -> Due:
        """A delivery that whoever asked for it tries at once. Raises `NotFound`."""
        payload = {"message": "This is a test."}
        with unavailable("test a webhook"):
            row = _there(
                await self._pool.fetchrow(
                    _TEST, tenant, webhook, orjson.dumps(payload).decode(), lease_s
                ),
                webhook,
            )
        return Due(
            id=row["id"],
            tenant=tenant,
            event=TEST,
            payload=payload,
            attempts=1,
            created_at=row["created_at"],
            url=row["url"],
            salt=row["salt"],
        )

    async def listed(
        self, tenant: str, webhook: int, *, status: str | None, below: int | None, limit: int
    ) -> list[asyncpg.Record]:
        """Deliveries with a number below, the newest first."""
        with unavailable("list deliveries"):
            return await self._pool.fetch(_DELIVERIES, tenant, webhook, below, status, limit)

    async def again(self, origin: Origin, webhook: int, delivery: int) -> None:
        """Try a dead delivery again. Raises `NotFound`."""
        with unavailable("try a delivery again"):
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_AGAIN, origin.tenant, webhook, delivery) is None:
                    raise NotFound(f"delivery {delivery} does not exist, or is not dead")
                await _note(connection, origin, webhook, "retried", after={"delivery": delivery})


async def _note(
    connection: Connection,
    origin: Origin,
    webhook: int,
    verb: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    entry = Entry(
        event_type=f"alert_webhook.{verb}",
        subject=f"alert_webhook/{webhook}",
        before=before,
        after=after,
    )
    await journal.record(connection, origin, entry)


def _row(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(fields[name] for name in ("name", "url", "events", "severities", "enabled"))


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    """For the journal: paths of URLs are secrets of some receivers."""
    parts = urlsplit(row["url"])
    shown = {name: row[name] for name in ("name", "events", "severities", "enabled")}
    return {**shown, "url": f"{parts.scheme}://{parts.netloc}/…"}


def _there(row: asyncpg.Record | None, webhook: int) -> asyncpg.Record:
    if row is None:
        raise NotFound(f"webhook {webhook} does not exist")
    return row


def _taken(name: str) -> Conflict:
    return Conflict(f"name is {name[:64]!r}; a webhook of that name exists")
