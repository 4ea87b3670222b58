"""`/api/v1/roles`: the built-in roles, and those of a tenant's own."""

from __future__ import annotations

from collections.abc import Iterable

from iotistica.api.http import Request
from iotistica.api.identity import Identity
from iotistica.api.models.identity import CreateRole, ReplaceRole, RoleList, RoleView
from iotistica.api.principal import PERMISSIONS, ROLES, Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest, Conflict, NotFound
from iotistica.store.roles import Role, RoleStore


class Roles:
    """Handlers of roles. Nobody may make, change or remove one that permits what they may not."""

    def __init__(self, identity: Identity, store: RoleStore) -> None:
        self._identity = identity
        self._store = store

    @route("GET", "/api/v1/roles", needs="user:read")
    async def list(self, caller: Principal) -> RoleList:
        """List the roles that users of the tenant can have."""
        own = [_view(role) for role in await self._store.all(caller.tenant)]
        built_in = [_built_in(name) for name in ROLES]
        return RoleList(len(own) + len(built_in), [*built_in, *own])

    @route("GET", "/api/v1/roles/:name", needs="user:read", errors=(404,))
    async def get(self, caller: Principal, name: str) -> RoleView:
        """Show a role."""
        return _built_in(name) if name in ROLES else _view(await self._own(caller, name))

    @route("POST", "/api/v1/roles", needs="user:write", limit="admin", status=201, errors=(409,))
    async def create(self, request: Request, caller: Principal, body: CreateRole) -> RoleView:
        """Make a role that permits no more than the caller may."""
        if body.name in ROLES:
            raise Conflict(f"role {body.name!r} is built in")
        role = _role(body.name, body)
        caller.check_grant(role.permissions)
        return _view(await self._store.create(request.origin, role))

    @route("PUT", "/api/v1/roles/:name", needs="user:write", limit="admin", errors=(404, 409))
    async def replace(
        self, request: Request, caller: Principal, name: str, body: ReplaceRole
    ) -> RoleView:
        """Replace a role; its users may do the new at once."""
        before, after = await self._own(caller, name), _role(name, body)
        caller.check_grant([*before.permissions, *after.permissions])
        made = await self._store.update(request.origin, before, after)
        await self._identity.roles_changed(caller.tenant)
        return _view(made)

    @route("DELETE", "/api/v1/roles/:name", needs="user:write", limit="admin", errors=(404, 409))
    async def delete(self, request: Request, caller: Principal, name: str) -> None:
        """Remove a role that no user has."""
        role = await self._own(caller, name)
        caller.check_grant(role.permissions)
        await self._store.delete(request.origin, role)

    async def _own(self, caller: Principal, name: str) -> Role:
        if name in ROLES:
            raise Conflict(f"role {name!r} is built in")
        found = await self._store.find(caller.tenant, name) if "\0" not in name else None
        if found is None:
            raise NotFound(f"role {name[:64]!r} does not exist")
        return found


def check_permissions(permissions: Iterable[str]) -> tuple[str, ...]:
    """Known permissions in their order, each once. Raises `BadRequest`."""
    for one in permissions:
        if one not in PERMISSIONS:
            raise BadRequest(f"field permissions holds {one[:64]!r}, which is no permission")
    return tuple(sorted(set(permissions)))


def _role(name: str, body: CreateRole | ReplaceRole) -> Role:
    permissions = check_permissions(body.permissions)
    return Role(name=name, description=body.description, permissions=list(permissions))


def _built_in(name: str) -> RoleView:
    return RoleView(name, "", sorted(ROLES[name]), is_built_in=True)


def _view(role: Role) -> RoleView:
    return RoleView(role.name, role.description, list(role.permissions), is_built_in=False)
