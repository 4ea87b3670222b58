"""`/api/v1/users`: the users of a tenant (reference 5.2)."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from msgspec import UNSET

from iotistica.api import cursors
from iotistica.api.http import Request
from iotistica.api.identity import Identity
from iotistica.api.models.identity import (
    CreateUser,
    Id,
    IdPage,
    Permissions,
    UpdateUser,
    UserList,
    UserView,
)
from iotistica.api.principal import ROLES, Principal, permissions_of
from iotistica.api.route import route
from iotistica.errors import BadRequest
from iotistica.store.roles import RoleStore
from iotistica.store.users import NewUser, User


class Users:
    """Handlers of users. Nobody may touch a user who may do more than they themselves."""

    def __init__(self, identity: Identity, roles: RoleStore) -> None:
        self._identity = identity
        self._roles = roles

    @route("GET", "/api/v1/users", needs="user:read")
    async def list(self, caller: Principal, query: IdPage) -> UserList:
        """List the users of the tenant."""
        found = await self._identity.users.page(
            caller.tenant, above=int(query.cursor), limit=query.limit
        )
        more = cursors.plain(found, query.limit, lambda one: one.id)
        return UserList(len(found), [view(user) for user in found], more)

    @route("GET", "/api/v1/users/me/permissions", users=True)
    async def permissions(self, caller: Principal) -> Permissions:
        """What the caller may do."""
        return Permissions(caller.role, sorted(caller.permissions))

    @route("GET", "/api/v1/users/:id", needs="user:read", errors=(404,))
    async def get(self, caller: Principal, id: Id) -> UserView:  # noqa: A002
        """Show a user."""
        return view(await self._identity.users.get(caller.tenant, id))

    @route("POST", "/api/v1/users", needs="user:write", limit="admin", status=201, errors=(409,))
    async def create(self, request: Request, caller: Principal, body: CreateUser) -> UserView:
        """Make a user, with a role that permits no more than the caller may."""
        await check_role(self._roles, caller, body.role)
        password_hash = await self._identity.passwords.hash(body.password)
        new = NewUser(
            username=body.username,
            email=body.email,
            password_hash=password_hash,
            role=body.role,
            full_name=body.full_name,
            must_change_password=body.must_change_password,
        )
        async with self._identity.users.changing(request.origin) as change:
            return view(await change.create(new))

    @route("PATCH", "/api/v1/users/:id", needs="user:write", limit="admin", errors=(404, 409))
    async def update(
        self,
        request: Request,
        caller: Principal,
        id: Id,  # noqa: A002
        body: UpdateUser,
    ) -> UserView:
        """Change a user; one who is deactivated is logged out everywhere."""
        if body.role is not UNSET:
            await check_role(self._roles, caller, body.role)
        given = {
            name: value
            for name, value in msgspec.structs.asdict(body).items()
            if value is not UNSET
        }
        async with self._identity.users.changing(request.origin) as change:
            before = await change.get(id)
            caller.check_grant(permissions_of(before.role, before.custom_permissions))
            after = await change.update(before, replace(before, **given))
        await self._identity.user_changed(id)
        return view(after)

    @route("PUT", "/api/v1/users/:id", needs="user:write", limit="admin", errors=(404, 409))
    async def put(
        self,
        request: Request,
        caller: Principal,
        id: Id,  # noqa: A002
        body: UpdateUser,
    ) -> UserView:
        """Change a user, as PATCH does."""
        return await self.update(request, caller, id, body)

    @route("DELETE", "/api/v1/users/:id", needs="user:delete", limit="admin", errors=(404, 409))
    async def delete(self, request: Request, caller: Principal, id: Id) -> None:  # noqa: A002
        """Remove a user for good."""
        async with self._identity.users.changing(request.origin) as change:
            user = await change.get(id)
            caller.check_grant(permissions_of(user.role, user.custom_permissions))
            await change.delete(user)
        await self._identity.user_changed(id)


async def check_role(roles: RoleStore, caller: Principal, role: str) -> None:
    """Raise `BadRequest` for a role that does not exist, `Forbidden` for one that the caller must
    not give."""
    custom = None
    if role not in ROLES:
        found = await roles.find(caller.tenant, role)
        if found is None:
            raise BadRequest(f"field role is {role!r}, which does not exist")
        custom = found.permissions
    caller.check_grant(permissions_of(role, custom))


def view(user: User) -> UserView:
    """A user as the API shows one."""
    return UserView(
        id=user.id,
        username=user.username,
        email=user.email,
        full_name=user.full_name,
        role=user.role,
        is_active=user.is_active,
        must_change_password=user.must_change_password,
        last_login_at=user.last_login_at,
        created_at=user.created_at,
        updated_at=user.updated_at,
    )
