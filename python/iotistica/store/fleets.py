"""Fleets: named sets of agents, each agent in one at the most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from iotistica.errors import Conflict, NotFound
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import DuplicateKey, MissingReference, Pool, Row, unavailable

_COLUMNS = """
SELECT f.fleet_uuid::text, f.fleet_name, f.fleet_type, f.description, f.created_at, f.modified_at,
       count(a.uuid) AS agent_count, count(a.uuid) FILTER (WHERE a.is_online) AS online_count
FROM fleets AS f
LEFT JOIN agents AS a ON a.tenant_id = f.tenant_id AND a.fleet_uuid = f.fleet_uuid
"""
_LIST = f"""{_COLUMNS}
WHERE f.tenant_id = $1 AND ($2::text IS NULL OR f.fleet_name > $2)
GROUP BY f.fleet_uuid
ORDER BY f.fleet_name
LIMIT $3
"""
_GET = f"{_COLUMNS} WHERE f.tenant_id = $1 AND f.fleet_uuid = $2 GROUP BY f.fleet_uuid"
_ADD = """
INSERT INTO fleets (tenant_id, fleet_name, fleet_type, description) VALUES ($1, $2, $3, $4)
RETURNING fleet_uuid
"""
_BEFORE = """
SELECT fleet_name, fleet_type, description FROM fleets
WHERE tenant_id = $1 AND fleet_uuid = $2
FOR UPDATE
"""
_CHANGE = """
UPDATE fleets SET fleet_name = $3, fleet_type = $4, description = $5, modified_at = now()
WHERE tenant_id = $1 AND fleet_uuid = $2
"""
_REMOVE = "DELETE FROM fleets WHERE tenant_id = $1 AND fleet_uuid = $2 RETURNING fleet_name"


class FleetStore:
    """Fleets. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(self, tenant: str, *, limit: int, after: str | None) -> list[Row]:
        """Fleets by name, after a name."""
        with unavailable("list fleets"):
            return await self._pool.fetch(_LIST, tenant, after, limit)

    async def get(self, tenant: str, fleet: UUID) -> Row:
        """One fleet. Raises `NotFound`."""
        with unavailable("read a fleet"):
            found = await self._pool.fetchrow(_GET, tenant, fleet)
        if found is None:
            raise _missing(fleet)
        return found

    async def add(self, origin: Origin, *, name: str, kind: str, description: str) -> UUID:
        """Make a fleet. Raises `Conflict` for a name that is taken."""
        with unavailable("make a fleet"):
            async with self._pool.acquire() as connection, connection.transaction():
                try:
                    fleet: UUID = await connection.fetchval(
                        _ADD, origin.tenant, name, kind, description
                    )
                except DuplicateKey:
                    raise _taken(name) from None
                after = {"fleet_name": name, "fleet_type": kind, "description": description}
                entry = Entry(event_type="fleet.created", subject=f"fleet/{fleet}", after=after)
                await journal.record(connection, origin, entry)
        return fleet

    async def change(self, origin: Origin, fleet: UUID, changes: Mapping[str, Any]) -> None:
        """Change name, type or description. Raises `NotFound`, `Conflict`."""
        with unavailable("change a fleet"):
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_BEFORE, origin.tenant, fleet)
                if row is None:
                    raise _missing(fleet)
                after = {**row, **changes}
                try:
                    await connection.execute(
                        _CHANGE,
                        origin.tenant,
                        fleet,
                        after["fleet_name"],
                        after["fleet_type"],
                        after["description"],
                    )
                except DuplicateKey:
                    raise _taken(after["fleet_name"]) from None
                entry = Entry(
                    event_type="fleet.changed",
                    subject=f"fleet/{fleet}",
                    before={name: row[name] for name in changes},
                    after=dict(changes),
                )
                await journal.record(connection, origin, entry)

    async def remove(self, origin: Origin, fleet: UUID) -> None:
        """Remove an empty fleet with its provisioning keys. Raises `NotFound`, `Conflict`."""
        with unavailable("remove a fleet"):
            async with self._pool.acquire() as connection, connection.transaction():
                try:
                    name = await connection.fetchval(_REMOVE, origin.tenant, fleet)
                except MissingReference:
                    raise Conflict(f"fleet {fleet} has agents; move them first") from None
                if name is None:
                    raise _missing(fleet)
                entry = Entry(
                    event_type="fleet.deleted",
                    subject=f"fleet/{fleet}",
                    before={"fleet_name": name},
                )
                await journal.record(connection, origin, entry)


def _missing(fleet: UUID) -> NotFound:
    return NotFound(f"fleet {fleet} does not exist")


def _taken(name: str) -> Conflict:
    return Conflict(f"fleetName is {name[:64]!r}; a fleet of that name exists")
