"""The agents of a tenant as operators see and change them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from iotistica.allowance import UNLIMITED, Allowance
from iotistica.errors import Conflict, NotFound
from iotistica.selection import AgentFilter
from iotistica.store import journal
from iotistica.store.allowances import require_room
from iotistica.store.broker_users import allow_agent_users, remove_agent_users
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Connection, MissingReference, Pool, affected, unavailable
from iotistica.store.selection import Condition

_COLUMNS = """
SELECT a.id, a.uuid::text, a.name, a.name AS device_name, a.type, a.type AS device_type, a.status,
       a.is_online, a.is_active, a.last_connectivity_event, a.ip_address, a.mac_address,
       a.os_version, a.architecture, a.agent_version, a.cpu_usage, a.cpu_temp, a.memory_usage,
       a.memory_total, a.storage_usage, a.storage_total, a.uptime, a.network_interfaces,
       a.location, a.fleet_uuid::text, f.fleet_name, a.provisioning_state, a.provisioned_at,
       a.pop_verified, a.mqtt_username, a.created_at, a.modified_at,
       CASE WHEN {tags} THEN (SELECT coalesce(jsonb_object_agg(t.key, t.value), '{{}}')
                              FROM agent_tags AS t WHERE t.agent_uuid = a.uuid) END AS tags
FROM agents AS a
LEFT JOIN fleets AS f ON f.tenant_id = a.tenant_id AND f.fleet_uuid = a.fleet_uuid
WHERE"""
_COUNT = "SELECT count(*) FROM agents AS a WHERE"
_UUIDS = "SELECT a.id, a.uuid FROM agents AS a WHERE"
_ADD = """
INSERT INTO agents (uuid, tenant_id, name, type, fleet_uuid, location, ip_address, mac_address)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
RETURNING uuid
"""
_BEFORE = """
SELECT name, type, ip_address, mac_address, location, fleet_uuid::text, is_active
FROM agents
WHERE tenant_id = $1 AND uuid = $2
FOR UPDATE
"""
_CHANGE = """
UPDATE agents
SET name = $3, type = $4, ip_address = $5, mac_address = $6, location = $7, fleet_uuid = $8,
    modified_at = now()
WHERE tenant_id = $1 AND uuid = $2
"""
_ACTIVATE = """
UPDATE agents SET is_active = $3, modified_at = now()
WHERE tenant_id = $1 AND uuid = ANY ($2::uuid[]) AND is_active <> $3
RETURNING uuid
"""
_MOVE = """
UPDATE agents SET fleet_uuid = $3, modified_at = now()
WHERE tenant_id = $1 AND uuid = ANY ($2::uuid[])
"""
_TAG = """
INSERT INTO agent_tags (tenant_id, agent_uuid, key, value)
SELECT a.tenant_id, a.uuid, tag.key, tag.value
FROM agents AS a, unnest($3::text[], $4::text[]) AS tag (key, value)
WHERE a.tenant_id = $1 AND a.uuid = ANY ($2::uuid[])
ON CONFLICT (agent_uuid, key) DO UPDATE SET value = excluded.value, updated_at = now()
"""
_UNTAG = """
DELETE FROM agent_tags
WHERE tenant_id = $1 AND agent_uuid = ANY ($2::uuid[]) AND key = ANY ($3::text[])
"""
_TAGS = """
SELECT (SELECT coalesce(jsonb_object_agg(t.key, t.value), '{}')
        FROM agent_tags AS t WHERE t.agent_uuid = a.uuid) AS tags
FROM agents AS a
WHERE a.tenant_id = $1 AND a.uuid = $2
FOR UPDATE
"""
_REMOVE = "DELETE FROM agents WHERE tenant_id = $1 AND uuid = $2 RETURNING name"
_DEPART = """
INSERT INTO agent_departures (tenant_id, agent_uuid) VALUES ($1, $2)
ON CONFLICT (tenant_id, agent_uuid) DO UPDATE SET departed_at = now()
"""
_LOCATIONS = """
SELECT id, uuid::text, name, is_online, location, fleet_uuid::text
FROM agents
WHERE tenant_id = $1 AND location IS NOT NULL AND id > $2
ORDER BY id
LIMIT $3
"""
_JSON_COLUMNS = ("network_interfaces", "location", "tags")

CHANGEABLE = ("name", "type", "ip_address", "mac_address", "location", "fleet_uuid")


class Roster:
    """Reads and changes agents. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool, allowance: Allowance = UNLIMITED) -> None:
        self._pool = pool
        self._allowance = allowance

    async def listed(
        self,
        tenant: str,
        chosen: AgentFilter,
        *,
        limit: int,
        after: int = 0,
        skip: int = 0,
        tags: bool = False,
    ) -> list[dict[str, Any]]:
        """Agents in the order in which they came, after the one with an id."""
        where = Condition(tenant, chosen)
        select = _COLUMNS.format(tags="true" if tags else "false")
        rest = (
            f"AND a.id > {where.parameter(after, 'bigint')}",
            f"ORDER BY a.id LIMIT {where.parameter(limit, 'bigint')}",
            f"OFFSET {where.parameter(skip, 'bigint')}",
        )
        with unavailable("list agents"):
            rows = await self._pool.fetch("\n".join((select, where.text, *rest)), *where.parameters)
        return [_decoded(row) for row in rows]

    async def count(self, tenant: str, chosen: AgentFilter) -> int:
        """How many agents match."""
        where = Condition(tenant, chosen)
        query = f"{_COUNT}\n{where.text}"
        with unavailable("count agents"):
            return int(await self._pool.fetchval(query, *where.parameters))

    async def uuids(
        self, tenant: str, chosen: AgentFilter, *, limit: int, after: int = 0
    ) -> list[tuple[int, UUID]]:
        """Ids and uuids of agents, in the order of ids: for jobs and target states of groups."""
        where = Condition(tenant, chosen)
        rest = (
            f"AND a.id > {where.parameter(after, 'bigint')}",
            f"ORDER BY a.id LIMIT {where.parameter(limit, 'bigint')}",
        )
        query = "\n".join((_UUIDS, where.text, *rest))
        with unavailable("select agents"):
            rows = await self._pool.fetch(query, *where.parameters)
        return [(row["id"], row["uuid"]) for row in rows]

    async def get(self, tenant: str, uuid: UUID) -> dict[str, Any] | None:
        """One agent, with its tags."""
        found = await self.listed(tenant, AgentFilter(uuids=[uuid]), limit=1, tags=True)
        return found[0] if found else None

    async def locations(self, tenant: str, *, limit: int, after: int = 0) -> list[dict[str, Any]]:
        """Agents that have a place."""
        with unavailable("list places"):
            rows = await self._pool.fetch(_LOCATIONS, tenant, after, limit)
        return [_decoded(row) for row in rows]

    async def add(self, origin: Origin, uuid: UUID, values: Mapping[str, Any]) -> None:
        """Make an agent that may register later.

        Raises `Conflict`, `NotFound` for the fleet, `Forbidden` where it is one too many.
        """
        with unavailable("add an agent"), _fleet(values.get("fleet_uuid")):
            async with self._pool.acquire() as connection, connection.transaction():
                made = await connection.fetchval(
                    _ADD,
                    uuid,
                    origin.tenant,
                    values["name"],
                    values["type"],
                    values.get("fleet_uuid"),
                    _json(values.get("location")),
                    values.get("ip_address"),
                    values.get("mac_address"),
                )
                if made is None:
                    raise Conflict(f"agent {uuid} exists")
                await require_room(connection, origin.tenant, self._allowance)
                await _record(connection, origin, "agent.created", uuid, after=dict(values))

    async def change(self, origin: Origin, uuid: UUID, changes: Mapping[str, Any]) -> None:
        """Change what an operator may. Raises `NotFound` for agent or fleet."""
        with unavailable("change an agent"), _fleet(changes.get("fleet_uuid")):
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_BEFORE, origin.tenant, uuid)
                if row is None:
                    raise NotFound(f"agent {uuid} does not exist")
                before = _decoded(row)
                after = {**before, **changes}
                values = [
                    _json(after[name]) if name == "location" else after[name] for name in CHANGEABLE
                ]
                await connection.execute(_CHANGE, origin.tenant, uuid, *values)
                await _record(
                    connection,
                    origin,
                    "agent.changed",
                    uuid,
                    before={name: before[name] for name in changes},
                    after=dict(changes),
                )

    async def activate(self, origin: Origin, uuids: Sequence[UUID], active: bool) -> list[UUID]:
        """Let agents in or keep them out, API and broker; those for which that is a change.

        Raises `Forbidden` where they would be too many.
        """
        with unavailable("activate agents"):
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(_ACTIVATE, origin.tenant, uuids, active)
                changed = [row["uuid"] for row in rows]
                if active and changed:
                    await require_room(connection, origin.tenant, self._allowance)
                await allow_agent_users(connection, changed, active)
                event = "agent.activated" if active else "agent.deactivated"
                for uuid in changed:
                    await _record(connection, origin, event, uuid)
        return changed

    async def move(self, origin: Origin, uuids: Sequence[UUID], fleet: UUID | None) -> None:
        """Put agents into a fleet, or out of theirs. Raises `NotFound` for the fleet."""
        with unavailable("move agents"), _fleet(fleet):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_MOVE, origin.tenant, uuids, fleet)
                await _record_many(connection, origin, "agents.moved", uuids, {"fleet": fleet})

    async def tag(self, origin: Origin, uuids: Sequence[UUID], tags: Mapping[str, str]) -> None:
        """Set tags."""
        with unavailable("tag agents"):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    _TAG, origin.tenant, uuids, list(tags), list(tags.values())
                )
                await _record_many(connection, origin, "agents.tagged", uuids, {"tags": tags})

    async def retag(self, origin: Origin, uuid: UUID, tags: Mapping[str, str]) -> None:
        """Give an agent these tags and no others. Raises `NotFound`."""
        with unavailable("tag an agent"):
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_TAGS, origin.tenant, uuid)
                if row is None:
                    raise NotFound(f"agent {uuid} does not exist")
                before = orjson.loads(row["tags"])
                gone = [key for key in before if key not in tags]
                await connection.execute(_UNTAG, origin.tenant, [uuid], gone)
                await connection.execute(
                    _TAG, origin.tenant, [uuid], list(tags), list(tags.values())
                )
                await _record(
                    connection,
                    origin,
                    "agent.tagged",
                    uuid,
                    before={"tags": before},
                    after={"tags": dict(tags)},
                )

    async def untag(self, origin: Origin, uuids: Sequence[UUID], names: Sequence[str]) -> int:
        """Take tags away; how many there were."""
        with unavailable("untag agents"):
            async with self._pool.acquire() as connection, connection.transaction():
                done = await connection.execute(_UNTAG, origin.tenant, uuids, names)
                await _record_many(connection, origin, "agents.untagged", uuids, {"keys": names})
        return affected(done)

    async def remove(self, origin: Origin, uuid: UUID) -> None:
        """Remove an agent and all that is its own, but its readings. Raises `NotFound`."""
        with unavailable("remove an agent"):
            async with self._pool.acquire() as connection, connection.transaction():
                # Before its user: a registration takes the rows in this order too.
                name = await connection.fetchval(_REMOVE, origin.tenant, uuid)
                if name is None:
                    raise NotFound(f"agent {uuid} does not exist")
                await remove_agent_users(connection, [uuid], tenant=origin.tenant)
                await connection.execute(_DEPART, origin.tenant, uuid)
                await _record(connection, origin, "agent.deleted", uuid, before={"name": name})


async def _record(
    connection: Connection,
    origin: Origin,
    event: str,
    uuid: UUID,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    entry = Entry(event_type=event, subject=f"agent/{uuid}", agent=uuid, before=before, after=after)
    await journal.record(connection, origin, entry)


async def _record_many(
    connection: Connection,
    origin: Origin,
    event: str,
    uuids: Sequence[UUID],
    after: Mapping[str, Any],
) -> None:
    if not uuids:
        return
    if len(uuids) == 1:
        event = event.replace("agents.", "agent.")
        await _record(connection, origin, event, uuids[0], after=after)
        return
    told = {**after, "agents": [str(uuid) for uuid in uuids]}
    await journal.record(connection, origin, Entry(event_type=event, subject="agents", after=told))


@contextmanager
def _fleet(fleet: UUID | None) -> Iterator[None]:
    """Says which fleet it is that does not exist within the tenant."""
    try:
        yield
    except MissingReference:
        raise NotFound(f"fleet {fleet} does not exist") from None


def _decoded(row: asyncpg.Record) -> dict[str, Any]:
    return {
        name: orjson.loads(value) if name in _JSON_COLUMNS and value is not None else value
        for name, value in row.items()
    }


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
