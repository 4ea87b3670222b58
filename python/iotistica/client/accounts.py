"""Users of the tenant and of the broker."""

from __future__ import annotations

from collections.abc import AsyncIterator

from iotistica.api.models import identity as identity_models
from iotistica.api.models import mqtt_users as mqtt_models
from iotistica.client.transport import Transport

_V1 = "/api/v1"
_MQTT_USERS = f"{_V1}/auth/mqtt-users"


class Users:
    """Users of the tenant."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def me(self) -> identity_models.Me:
        """Who calls. Raises `Denied`."""
        reply = await self._transport.call("GET", f"{_V1}/auth/me", identity_models.MeReply)
        return reply.user

    async def change_password(self, current: str, new: str) -> None:
        """Replace the caller's own password. Raises `Denied`, `BadRequest`."""
        await self._transport.change_password(current, new)

    async def create(self, new: identity_models.CreateUser) -> identity_models.UserView:
        """A user. Raises `Conflict`."""
        return await self._transport.call(
            "POST", f"{_V1}/users", identity_models.UserView, body=new
        )


class MqttUsers:
    """Users of the broker, and what they may do there."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def all(
        self, query: mqtt_models.MqttUserQuery | None = None
    ) -> AsyncIterator[mqtt_models.MqttUserView]:
        """Every user that fits, page after page."""
        asked = query or mqtt_models.MqttUserQuery()
        async for page in self._transport.pages(_MQTT_USERS, mqtt_models.MqttUserPage, asked):
            for user in page.users:
                yield user

    async def get(self, user: int) -> mqtt_models.MqttUserDetail:
        """A user with its rules. Raises `NotFound`."""
        path = f"{_MQTT_USERS}/{user}"
        return await self._transport.call("GET", path, mqtt_models.MqttUserDetail)

    async def create(self, new: mqtt_models.MqttUserBody) -> mqtt_models.MadeMqttUser:
        """A user; its password, where none was given, is shown this once. Raises `Conflict`."""
        return await self._transport.call("POST", _MQTT_USERS, mqtt_models.MadeMqttUser, body=new)

    async def change(
        self, user: int, change: mqtt_models.MqttUserChange
    ) -> mqtt_models.MadeMqttUser:
        """Another password, let in or kept out. Raises `NotFound`, `Conflict`."""
        path = f"{_MQTT_USERS}/{user}"
        return await self._transport.call("PATCH", path, mqtt_models.MadeMqttUser, body=change)

    async def delete(self, user: int) -> None:
        """Remove a user. Raises `NotFound`, `Conflict`."""
        await self._transport.call("DELETE", f"{_MQTT_USERS}/{user}", type(None))

    async def allow(self, user: int, rule: mqtt_models.AclBody) -> mqtt_models.AclView:
        """Give a user a rule. Raises `BadRequest`, `NotFound`, `Conflict`."""
        path = f"{_MQTT_USERS}/{user}/acls"
        return await self._transport.call("POST", path, mqtt_models.AclView, body=rule)

    async def disallow(self, rule: int) -> None:
        """Remove a rule. Raises `NotFound`, `Conflict`."""
        await self._transport.call("DELETE", f"{_V1}/auth/mqtt-acls/{rule}", type(None))
