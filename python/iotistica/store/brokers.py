"""Brokers that agents are told to use: table `mqtt_broker_config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from iotistica.errors import Conflict, NotFound
from iotistica.store import journal
from iotistica.store.documents import json_text
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Connection, DuplicateKey, Pool, unavailable

MOST_BROKERS = 100
"""Of one tenant."""

FIELDS = (
    *("name", "description", "protocol", "host", "port", "username", "use_tls", "ca_cert"),
    *("verify_certificate", "client_id_prefix", "keep_alive", "clean_session"),
    *("reconnect_period", "connect_timeout", "is_active", "is_default", "broker_type"),
    "extra_config",
)
_COLUMNS = f"id, {', '.join(FIELDS)}, created_at, updated_at, last_connected_at"
_LIST = f"""
SELECT {_COLUMNS} FROM mqtt_broker_config WHERE tenant_id = $1 ORDER BY is_default DESC, name
"""  # noqa: S608 (constants only)
_GET = f"SELECT {_COLUMNS} FROM mqtt_broker_config WHERE tenant_id = $1 AND id = $2"  # noqa: S608
_LOCK = f"{_GET} FOR UPDATE"
_DEFAULT = f"""
SELECT {_COLUMNS} FROM mqtt_broker_config WHERE tenant_id = $1 AND is_default AND is_active
"""  # noqa: S608 (constants only)
_SUMMARY = """
SELECT b.id, b.name, b.protocol, b.host, b.port, b.broker_type, b.is_active, b.is_default,
       b.last_connected_at, count(a.uuid) AS agents,
       count(a.uuid) FILTER (WHERE a.is_online) AS agents_online
FROM mqtt_broker_config AS b
LEFT JOIN agents AS a ON a.tenant_id = b.tenant_id AND a.mqtt_broker_id = b.id
WHERE b.tenant_id = $1
GROUP BY b.id
ORDER BY b.is_default DESC, b.name
"""
# The tenant's row is locked, so that changes come one after the other: bound and default hold.
_COUNT = """
SELECT count(*) FROM mqtt_broker_config
WHERE tenant_id = (SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE)
"""
_YIELD_DEFAULT = """
UPDATE mqtt_broker_config SET is_default = false, updated_at = now()
WHERE tenant_id = $1 AND is_default AND id <> $2
"""
_ADD = f"""
INSERT INTO mqtt_broker_config (tenant_id, {", ".join(FIELDS)})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
RETURNING id
"""  # noqa: S608 (constants only)
_CHANGE = f"""
UPDATE mqtt_broker_config
SET ({", ".join(FIELDS)}, updated_at)
  = ($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, now())
WHERE tenant_id = $1 AND id = $2
"""  # noqa: S608 (constants only)
_USED = "SELECT count(*) FROM agents WHERE tenant_id = $1 AND mqtt_broker_id = $2"
_REMOVE = "DELETE FROM mqtt_broker_config WHERE tenant_id = $1 AND id = $2"
_CONNECTED = """
UPDATE mqtt_broker_config SET last_connected_at = now() WHERE tenant_id = $1 AND id = $2
"""
_ASSIGN = "UPDATE agents SET mqtt_broker_id = $3 WHERE tenant_id = $1 AND uuid = $2"


class BrokerStore:
    """Brokers of tenants. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(self, tenant: str) -> list[dict[str, Any]]:
        """All of a tenant, the default first."""
        with unavailable("list brokers"):
            return [_row(one) for one in await self._pool.fetch(_LIST, tenant)]

    async def summary(self, tenant: str) -> list[dict[str, Any]]:
        """The same with how many agents were told each."""
        with unavailable("count the agents of brokers"):
            return [dict(one) for one in await self._pool.fetch(_SUMMARY, tenant)]

    async def get(self, tenant: str, broker: int) -> dict[str, Any]:
        """One broker. Raises `NotFound`."""
        with unavailable("read a broker"):
            return _there(await self._pool.fetchrow(_GET, tenant, broker), broker)

    async def default(self, tenant: str) -> dict[str, Any] | None:
        """The one that new agents are told, if there is one and it is active."""
        with unavailable("read the default broker"):
            row = await self._pool.fetchrow(_DEFAULT, tenant)
        return None if row is None else _row(row)

    async def add(self, origin: Origin, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Make a broker; a default takes the place of the one before. Raises `Conflict`."""
        with unavailable("make a broker"):
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_COUNT, origin.tenant) >= MOST_BROKERS:
                    raise Conflict(f"there are {MOST_BROKERS} brokers; no more are allowed")
                if fields["is_default"]:
                    await connection.execute(_YIELD_DEFAULT, origin.tenant, 0)
                try:
                    number = await connection.fetchval(_ADD, origin.tenant, *_values(fields))
                except DuplicateKey:
                    raise _taken(fields["name"]) from None
                made = _there(await connection.fetchrow(_GET, origin.tenant, number), number)
                await _note(connection, origin, number, "created", after=_shown(made))
        return made

    async def change(
        self, origin: Origin, broker: int, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Change a broker. Raises `NotFound`, `Conflict`."""
        key = (origin.tenant, broker)
        with unavailable("change a broker"):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.fetchval(_COUNT, origin.tenant)
                before = _there(await connection.fetchrow(_LOCK, *key), broker)
                fields = {**before, **changes}
                if fields["is_default"]:
                    await connection.execute(_YIELD_DEFAULT, *key)
                try:
                    await connection.execute(_CHANGE, *key, *_values(fields))
                except DuplicateKey:
                    raise _taken(fields["name"]) from None
                after = _there(await connection.fetchrow(_GET, *key), broker)
                old, new = _shown(before), _shown(after)
                await _note(
                    connection,
                    origin,
                    broker,
                    "changed",
                    before={name: old[name] for name in changes},
                    after={name: new[name] for name in changes},
                )
        return after

    async def remove(self, origin: Origin, broker: int) -> dict[str, Any]:
        """Remove a broker that no agent was told last. Raises `NotFound`, `Conflict`."""
        key = (origin.tenant, broker)
        with unavailable("remove a broker"):
            async with self._pool.acquire() as connection, connection.transaction():
                before = _there(await connection.fetchrow(_LOCK, *key), broker)
                used: int = await connection.fetchval(_USED, *key)
                if used:
                    raise Conflict(f"broker {broker} is that of {used} agents")
                await connection.execute(_REMOVE, *key)
                await _note(connection, origin, broker, "deleted", before=_shown(before))
        return before

    async def connected(self, tenant: str, broker: int) -> None:
        """Note that a test reached it now."""
        with unavailable("note a connection"):
            await self._pool.execute(_CONNECTED, tenant, broker)

    async def assign(self, tenant: str, agent: UUID, broker: int | None) -> None:
        """Note which broker an agent was told; None is one that is not kept here."""
        with unavailable("note the broker of an agent"):
            await self._pool.execute(_ASSIGN, tenant, agent, broker)


async def _note(
    connection: Connection,
    origin: Origin,
    broker: int,
    verb: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    entry = Entry(
        event_type=f"broker.{verb}", subject=f"broker/{broker}", before=before, after=after
    )
    await journal.record(connection, origin, entry)


def _values(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    values = {**fields, "extra_config": json_text(fields["extra_config"])}
    return tuple(values[name] for name in FIELDS)


def _row(record: asyncpg.Record) -> dict[str, Any]:
    return {**dict(record), "extra_config": orjson.loads(record["extra_config"])}


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in FIELDS}


def _there(row: asyncpg.Record | None, broker: int) -> dict[str, Any]:
    if row is None:
        raise NotFound(f"broker {broker} does not exist")
    return _row(row)


def _taken(name: str) -> Conflict:
    return Conflict(f"name is {name[:64]!r}; a broker of that name exists")
