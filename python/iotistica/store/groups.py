"""Groups: saved filters of agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson

from iotistica import selection
from iotistica.errors import Conflict, NotFound
from iotistica.selection import AgentFilter
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import DuplicateKey, MissingReference, Pool, Row, unavailable

_LIST = """
SELECT id::text, name, description, filter, created_at, modified_at
FROM groups
WHERE tenant_id = $1 AND ($2::text IS NULL OR name > $2)
ORDER BY name
LIMIT $3
"""
_GET = """
SELECT id::text, name, description, filter, created_at, modified_at
FROM groups
WHERE tenant_id = $1 AND id = $2
"""
_LOCKED = """
SELECT name, description, filter FROM groups WHERE tenant_id = $1 AND id = $2 FOR UPDATE
"""
_ADD = """
INSERT INTO groups (tenant_id, name, description, filter) VALUES ($1, $2, $3, $4) RETURNING id
"""
_CHANGE = """
UPDATE groups SET name = $3, description = $4, filter = $5, modified_at = now()
WHERE tenant_id = $1 AND id = $2
"""
_REMOVE = "DELETE FROM groups WHERE tenant_id = $1 AND id = $2 RETURNING name"


class GroupStore:
    """Groups. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(self, tenant: str, *, limit: int, after: str | None) -> list[dict[str, Any]]:
        """Groups by name, after a name."""
        with unavailable("list groups"):
            return [_decoded(row) for row in await self._pool.fetch(_LIST, tenant, after, limit)]

    async def get(self, tenant: str, group: UUID) -> dict[str, Any]:
        """One group. Raises `NotFound`."""
        with unavailable("read a group"):
            row = await self._pool.fetchrow(_GET, tenant, group)
        if row is None:
            raise _missing(group)
        return _decoded(row)

    async def filter(self, tenant: str, group: UUID) -> AgentFilter:
        """Who is meant: for jobs and target states too. Raises `NotFound`."""
        return selection.read(orjson.dumps((await self.get(tenant, group))["filter"]).decode())

    async def add(
        self, origin: Origin, *, name: str, description: str, chosen: AgentFilter
    ) -> UUID:
        """Save a filter. Raises `Conflict` for a name that is taken."""
        with unavailable("make a group"):
            async with self._pool.acquire() as connection, connection.transaction():
                text = selection.write(chosen)
                try:
                    group: UUID = await connection.fetchval(
                        _ADD, origin.tenant, name, description, text
                    )
                except DuplicateKey:
                    raise _taken(name) from None
                after = {"name": name, "description": description, "filter": orjson.loads(text)}
                entry = Entry(event_type="group.created", subject=f"group/{group}", after=after)
                await journal.record(connection, origin, entry)
        return group

    async def change(self, origin: Origin, group: UUID, changes: Mapping[str, Any]) -> None:
        """Change name, description or filter. Raises `NotFound`, `Conflict`."""
        with unavailable("change a group"):
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_LOCKED, origin.tenant, group)
                if row is None:
                    raise _missing(group)
                before = _decoded(row)
                after = {**before, **changes}
                if isinstance(after["filter"], AgentFilter):
                    after["filter"] = orjson.loads(selection.write(after["filter"]))
                try:
                    await connection.execute(
                        _CHANGE,
                        origin.tenant,
                        group,
                        after["name"],
                        after["description"],
                        orjson.dumps(after["filter"]).decode(),
                    )
                except DuplicateKey:
                    raise _taken(after["name"]) from None
                entry = Entry(
                    event_type="group.changed",
                    subject=f"group/{group}",
                    before={name: before[name] for name in changes},
                    after={name: after[name] for name in changes},
                )
                await journal.record(connection, origin, entry)

    async def remove(self, origin: Origin, group: UUID) -> None:
        """Forget a filter. Raises `NotFound`, `Conflict` where alert rules are about the group."""
        with unavailable("remove a group"):
            async with self._pool.acquire() as connection, connection.transaction():
                try:
                    name = await connection.fetchval(_REMOVE, origin.tenant, group)
                except MissingReference:
                    rule = "alert rules are about it, which would then be about every agent"
                    raise Conflict(f"group {group} stays: {rule}") from None
                if name is None:
                    raise _missing(group)
                entry = Entry(
                    event_type="group.deleted", subject=f"group/{group}", before={"name": name}
                )
                await journal.record(connection, origin, entry)


def _decoded(row: Row) -> dict[str, Any]:
    return {**row, "filter": orjson.loads(row["filter"])}


def _missing(group: UUID) -> NotFound:
    return NotFound(f"group {group} does not exist")


def _taken(name: str) -> Conflict:
    return Conflict(f"name is {name[:64]!r}; a group of that name exists")
