"""Roles that tenants make for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iotistica.errors import Conflict, NotFound
from iotistica.store.journal import Entry, Origin, record
from iotistica.store.pool import Connection, DuplicateKey, MissingReference, Pool, unavailable

_LIST = "SELECT * FROM roles WHERE tenant_id = $1 ORDER BY name"
_ONE = "SELECT * FROM roles WHERE tenant_id = $1 AND name = $2"
_ONE_LOCKED = "SELECT * FROM roles WHERE tenant_id = $1 AND name = $2 FOR UPDATE"
_CREATE = """
INSERT INTO roles (tenant_id, name, description, permissions) VALUES ($1, $2, $3, $4)
RETURNING *
"""
_UPDATE = """
UPDATE roles SET description = $3, permissions = $4, updated_at = now()
WHERE tenant_id = $1 AND name = $2
RETURNING *
"""
_DELETE = "DELETE FROM roles WHERE tenant_id = $1 AND name = $2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role of a tenant's own."""

    name: str
    description: str
    permissions: Sequence[str]


class RoleStore:
    """Roles. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def all(self, tenant: str) -> list[Role]:
        """Every role of the tenant, by name."""
        with unavailable("list the roles"):
            return [_role(row) for row in await self._pool.fetch(_LIST, tenant)]

    async def find(self, tenant: str, name: str) -> Role | None:
        """A role of the tenant."""
        with unavailable("look up a role"):
            row = await self._pool.fetchrow(_ONE, tenant, name)
        return None if row is None else _role(row)

    async def create(self, origin: Origin, role: Role) -> Role:
        """Add a role. Raises `Conflict` for a name that is taken."""
        with unavailable("make a role"):
            async with self._pool.acquire() as connection, connection.transaction():
                try:
                    row = await connection.fetchrow(
                        _CREATE, origin.tenant, role.name, role.description, role.permissions
                    )
                except DuplicateKey:
                    raise Conflict(f"role {role.name!r} exists") from None
                made = _role(row)
                await _record(connection, origin, "role.created", made.name, after=_shown(made))
        return made

    async def update(self, origin: Origin, before: Role, after: Role) -> Role:
        """Replace a role that is still as `before`. Raises `Conflict`, `NotFound`."""
        with unavailable("change a role"):
            async with self._pool.acquire() as connection, connection.transaction():
                await _require(connection, origin.tenant, before)
                row = await connection.fetchrow(
                    _UPDATE, origin.tenant, before.name, after.description, after.permissions
                )
                made, states = _role(row), {"before": _shown(before), "after": _shown(after)}
                await _record(connection, origin, "role.updated", made.name, **states)
        return made

    async def delete(self, origin: Origin, role: Role) -> None:
        """Remove a role that is still so. Raises `Conflict` where a user has it, `NotFound`."""
        with unavailable("delete a role"):
            async with self._pool.acquire() as connection, connection.transaction():
                await _require(connection, origin.tenant, role)
                try:
                    await connection.execute(_DELETE, origin.tenant, role.name)
                except MissingReference:
                    raise Conflict(f"role {role.name!r} is that of some user") from None
                await _record(connection, origin, "role.deleted", role.name, before=_shown(role))


async def _require(connection: Connection, tenant: str, role: Role) -> None:
    """Lock a role, which was judged by what it permitted when it was read."""
    row = await connection.fetchrow(_ONE_LOCKED, tenant, role.name)
    if row is None:
        raise NotFound(f"role {role.name!r} does not exist")
    if _role(row) != role:
        raise Conflict(f"role {role.name!r} was changed by somebody else just now; look again")


async def _record(
    connection: Connection, origin: Origin, event: str, name: str, **states: Any
) -> None:
    await record(connection, origin, Entry(event_type=event, subject=f"role/{name}", **states))


def _shown(role: Role) -> dict[str, Any]:
    return {"description": role.description, "permissions": list(role.permissions)}


def _role(row: Any) -> Role:
    return Role(name=row["name"], description=row["description"], permissions=row["permissions"])
