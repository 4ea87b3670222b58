"""`/api/v1/auth/mqtt-users…`, `/api/v1/auth/mqtt-acls…`: users of the broker (reference 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from msgspec import UNSET, UnsetType

from iotistica.api.accounts.broker_passwords import BrokerPasswords, StoredPassword
from iotistica.api.accounts.reconciler import Reconciler
from iotistica.api.accounts.tenant_rules import filter_of, username_of
from iotistica.api.http import Request
from iotistica.api.models import mqtt_users as models
from iotistica.api.models.mqtt_users import UserId
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest
from iotistica.store.mqtt_users import (
    AccessRule,
    MqttUser,
    MqttUserStore,
    NewMqttUser,
    NewPassword,
    NewRule,
)

_USERS = "/api/v1/auth/mqtt-users"
_ACLS = "/api/v1/auth/mqtt-acls"

T = TypeVar("T")


class MqttUsers:
    """Handlers of users of the broker. What they change is committed, then the broker is told."""

    def __init__(
        self,
        store: MqttUserStore,
        *,
        passwords: BrokerPasswords,
        reconciler: Reconciler,
        most: int,
    ) -> None:
        """`most` users may be made for a tenant."""
        self._store = store
        self._passwords = passwords
        self._reconciler = reconciler
        self._most = most

    @route("GET", _USERS, needs="mqtt:user:read")
    async def list(self, caller: Principal, query: models.MqttUserQuery) -> models.MqttUserPage:
        """List users of the broker: those that operators made, or those of agents."""
        found = await self._store.page(
            caller.tenant, above=int(query.cursor), limit=query.limit, of_agents=query.agents
        )
        more = str(found[-1].id) if len(found) == query.limit else None
        users = [models.MqttUserView(**_shown(user)) for user in found]
        return models.MqttUserPage(len(users), users, more)

    @route("POST", _USERS, needs="mqtt:user:write", limit="admin", status=201, errors=(409,))
    async def create(
        self, request: Request, caller: Principal, body: models.MqttUserBody
    ) -> models.MadeMqttUser:
        """Make a user of the broker, who logs in as `{tenant}.{username}`.

        Rules at once need the permission `mqtt:acl:manage` as well.
        """
        if body.acls:
            caller.require("mqtt:acl:manage")
        username = username_of(caller.tenant, body.username)
        stored = self._stored(username, body.password)
        new = NewMqttUser(
            username=username,
            password=NewPassword(stored.salt, stored.sealed),
            is_active=body.is_active,
            rules=[
                NewRule(filter_of(caller.tenant, acl.topic), acl.access, acl.priority)
                for acl in body.acls
            ],
        )
        made = await self._store.create(request.origin, new, most=self._most)
        await self._reconciler.tell(username)
        return await self._made(caller.tenant, made, stored)

    @route("GET", f"{_USERS}/:id", needs="mqtt:user:read")
    async def get(self, caller: Principal, id: UserId) -> models.MqttUserDetail:  # noqa: A002
        """Show a user of the broker with its rules."""
        user, rules = await self._store.get(caller.tenant, id)
        return models.MqttUserDetail(**_shown(user), acls=_views(rules))

    @route("PATCH", f"{_USERS}/:id", needs="mqtt:user:write", limit="admin", errors=(409,))
    async def change(
        self,
        request: Request,
        caller: Principal,
        id: UserId,  # noqa: A002
        body: models.MqttUserChange,
    ) -> models.MadeMqttUser:
        """Change the password of a user of the broker, or let it in or keep it out.

        Its sessions end.
        """
        if body.generate_password and body.password is not UNSET:
            raise BadRequest("the body: give one of password and generatePassword")
        user, _ = await self._store.get(caller.tenant, id)
        stored = None
        if body.generate_password or body.password is not UNSET:
            stored = self._stored(user.username, _given(body.password, None))
        await self._store.change(
            request.origin,
            id,
            is_active=_given(body.is_active, None),
            password=None if stored is None else NewPassword(stored.salt, stored.sealed),
        )
        await self._reconciler.tell(user.username)
        return await self._made(caller.tenant, id, stored)

    @route("PUT", f"{_USERS}/:id", needs="mqtt:user:write", limit="admin", errors=(409,))
    async def put(
        self,
        request: Request,
        caller: Principal,
        id: UserId,  # noqa: A002
        body: models.MqttUserChange,
    ) -> models.MadeMqttUser:
        """The same as PATCH."""
        return await self.change(request, caller, id, body)

    @route("DELETE", f"{_USERS}/:id", needs="mqtt:user:write", limit="admin", errors=(409,))
    async def remove(self, request: Request, id: UserId) -> None:  # noqa: A002
        """Remove a user of the broker; its sessions end."""
        user = await self._store.remove(request.origin, id)
        await self._reconciler.tell(user.username)

    @route("GET", f"{_USERS}/:id/acls", needs="mqtt:user:read")
    async def rules(self, caller: Principal, id: UserId) -> models.AclList:  # noqa: A002
        """List what a user of the broker may do."""
        _, rules = await self._store.get(caller.tenant, id)
        return models.AclList(len(rules), _views(rules))

    @route(
        "POST",
        f"{_USERS}/:id/acls",
        needs="mqtt:acl:manage",
        limit="admin",
        status=201,
        errors=(409,),
    )
    async def add_rule(
        self,
        request: Request,
        caller: Principal,
        id: UserId,  # noqa: A002
        body: models.AclBody,
    ) -> models.AclView:
        """Let a user of the broker do something with topics of the tenant."""
        rule = NewRule(filter_of(caller.tenant, body.topic), body.access, body.priority)
        made = await self._store.add_rule(request.origin, id, rule)
        await self._reconciler.tell(made.username)
        return _view(made)

    @route("PUT", f"{_ACLS}/:id", needs="mqtt:acl:manage", limit="admin", errors=(409,))
    async def change_rule(
        self,
        request: Request,
        caller: Principal,
        id: UserId,  # noqa: A002
        body: models.AclBody,
    ) -> models.AclView:
        """Replace a rule."""
        rule = NewRule(filter_of(caller.tenant, body.topic), body.access, body.priority)
        made = await self._store.change_rule(request.origin, id, rule)
        await self._reconciler.tell(made.username)
        return _view(made)

    @route("DELETE", f"{_ACLS}/:id", needs="mqtt:acl:manage", limit="admin", errors=(409,))
    async def remove_rule(self, request: Request, id: UserId) -> None:  # noqa: A002
        """Remove a rule."""
        removed = await self._store.remove_rule(request.origin, id)
        await self._reconciler.tell(removed.username)

    def _stored(self, username: str, password: str | None) -> StoredPassword:
        if password is None:
            return self._passwords.generate()
        return self._passwords.seal(username, password)

    async def _made(
        self, tenant: str, user: int, stored: StoredPassword | None
    ) -> models.MadeMqttUser:
        found, rules = await self._store.get(tenant, user)
        is_ours = stored is not None and stored.salt is not None
        password = self._passwords.reveal(found.username, stored) if stored and is_ours else None
        return models.MadeMqttUser(**_shown(found), acls=_views(rules), password=password)


def _given(value: T | UnsetType, otherwise: T | None) -> T | None:
    return otherwise if isinstance(value, UnsetType) else value


def _shown(user: MqttUser) -> dict[str, Any]:
    return {
        "id": user.id,
        "username": user.username,
        "agent_uuid": user.agent,
        "is_active": user.is_active,
        "is_told": user.is_told,
        "created_at": user.created_at,
        "updated_at": user.updated_at,
    }


def _views(rules: Sequence[AccessRule]) -> list[models.AclView]:
    return [_view(rule) for rule in rules]


def _view(rule: AccessRule) -> models.AclView:
    return models.AclView(**asdict(rule))
