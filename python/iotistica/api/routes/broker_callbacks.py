"""`/mosquitto-auth/…` and `/mqtt-auth/…`: what brokers ask before they let a client in or a message
through (reference section 1.5).

The reference answers anybody. Here whoever asks must show `mqtt_callback_token`, as the password of
HTTP Basic, which is what go-auth sends for `user:password@host`, or as a Bearer token.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import orjson

from iotistica import keys
from iotistica.api.accounts import READ, SUBSCRIBE, WRITE
from iotistica.api.broker_access import EVERYTHING, BrokerAccess
from iotistica.api.gate import network
from iotistica.api.http import Reply, Request, json_reply
from iotistica.api.limiter import Limiter
from iotistica.api.models.mqtt_users import AclQuestion, Decision, SuperuserQuestion, UserQuestion
from iotistica.api.route import route
from iotistica.errors import Denied, NotFound, StoreUnavailable
from iotistica.settings import Settings
from iotistica.streams.notices import Notices

_MISSING = "Missing credentials"
_GUESSES_A_MINUTE = 10
# Receiving is part of it: some brokers ask nothing when they deliver.
_ACTIONS = {"publish": WRITE, "subscribe": SUBSCRIBE | READ}
_ERRORS = (401, 404, 429, 500)


class BrokerCallbacks:
    """Handlers of a broker's questions. They are there where `mqtt_accounts` is `callbacks`."""

    def __init__(self, settings: Settings, access: BrokerAccess, limiter: Limiter) -> None:
        self._settings = settings
        self._access = access
        self._limiter = limiter

    async def run(self) -> None:
        """Hear of users that changed, until cancelled."""
        if self._settings.mqtt_accounts != "callbacks":
            return
        notices = Notices(self._settings.require("redis_url"), keys.BROKER_USERS_CHANNEL)
        try:
            await notices.receive(self._access.forget, self._access.forget_all, asyncio.Event())
        finally:
            await notices.close()

    @route(
        *("POST", "/mosquitto-auth/user"),
        public=True,
        limit="none",
        body=UserQuestion,
        reply=Decision,
        errors=(*_ERRORS, 403),
    )
    async def user(self, request: Request) -> Reply:
        """May this client connect? 200 or 403.

        `username` is `agent_{uuid}`, the API key of an agent, or that of a user of the broker. The
        fields may come as JSON, as a form or in the query.
        """
        await self._check(request)
        given = _given(request)
        username, password = _text(given, "username"), _text(given, "password")
        if not username:
            return _deny(_MISSING)
        try:
            refusal = await self._access.refusal(username, password)
        except StoreUnavailable as error:
            return _undecided(error)
        return _allow(self._access.is_superuser(username)) if refusal is None else _deny(refusal)

    @route(
        *("POST", "/mosquitto-auth/superuser"),
        public=True,
        limit="none",
        body=SuperuserQuestion,
        reply=Decision,
        errors=(*_ERRORS, 403),
    )
    async def superuser(self, request: Request) -> Reply:
        """May this user do everything? Only the one that iotistica itself connects as."""
        await self._check(request)
        is_one = self._access.is_superuser(_text(_given(request), "username"))
        return _allow(True) if is_one else _deny("Not a superuser")

    @route(
        *("POST", "/mosquitto-auth/acl"),
        public=True,
        limit="none",
        body=AclQuestion,
        reply=Decision,
        errors=(*_ERRORS, 403),
    )
    async def acl(self, request: Request) -> Reply:
        """May this user do that with this topic, or with all topics of this filter?

        A subscription is allowed where one rule covers all that it asks for.
        """
        await self._check(request)
        given = _given(request)
        username, topic, access = _text(given, "username"), _text(given, "topic"), _access(given)
        if not username or not topic or access is None:
            return _deny("Missing username, topic, or acc from 1 to 7")
        try:
            is_allowed = await self._access.allows(username, topic, access)
        except StoreUnavailable as error:
            return _undecided(error)
        return _allow(self._access.is_superuser(username)) if is_allowed else _deny("Access denied")

    @route(
        *("POST", "/mqtt-auth/user"),
        public=True,
        limit="none",
        body=UserQuestion,
        reply=Decision,
        errors=(*_ERRORS, 403),
    )
    async def mqtt_user(self, request: Request) -> Reply:
        """The same as `/mosquitto-auth/user`."""
        return await self.user(request)

    @route(
        *("POST", "/mqtt-auth/superuser"),
        public=True,
        limit="none",
        body=SuperuserQuestion,
        reply=Decision,
        errors=(*_ERRORS, 403),
    )
    async def mqtt_superuser(self, request: Request) -> Reply:
        """The same as `/mosquitto-auth/superuser`."""
        return await self.superuser(request)

    @route(
        *("POST", "/mqtt-auth/acl"),
        public=True,
        limit="none",
        body=AclQuestion,
        reply=Decision,
        errors=(*_ERRORS, 403),
    )
    async def mqtt_acl(self, request: Request) -> Reply:
        """The same as `/mosquitto-auth/acl`."""
        return await self.acl(request)

    async def _check(self, request: Request) -> None:
        """Raise `NotFound` where nobody is meant to ask, `Denied`, `TooMany`."""
        token = self._settings.mqtt_callback_token
        if token is None or self._settings.mqtt_accounts != "callbacks":
            raise NotFound("no broker asks here: MQTT_ACCOUNTS is not callbacks")
        shown = _credential(request.headers.get("authorization", ""))
        if not hmac.compare_digest(shown, token.get_secret_value().encode()):
            address = "ip:" + network(request.address)
            await self._limiter.take("mqtt-callback", address, _GUESSES_A_MINUTE)
            raise Denied("the broker did not show the token of MQTT_CALLBACK_TOKEN")


def _credential(header: str) -> bytes:
    """A Bearer token, or the password of HTTP Basic (RFC 7617)."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _given(request: Request) -> Mapping[str, Any]:
    """Fields of the body, and of the query where the body lacks them."""
    query = {name: unquote_plus(values[0]) for name, values in request.query.items() if values}
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        pairs = parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)
        return query | dict(pairs)
    try:
        body = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return query
    return query | body if isinstance(body, dict) else query


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    return value if isinstance(value, str) else ""


def _access(given: Mapping[str, Any]) -> int | None:
    """The bits of what is asked for; None where they say nothing."""
    acc = given.get("acc")
    if acc is None:
        return _ACTIONS.get(_text(given, "action"))
    if isinstance(acc, str) and acc.isdecimal() and len(acc) == 1:
        acc = int(acc)
    return acc if isinstance(acc, int) and 1 <= acc <= EVERYTHING and acc is not True else None


def _allow(is_superuser: bool) -> Reply:
    return json_reply({"result": "allow", "is_superuser": is_superuser})


def _deny(error: str, status: int = 403) -> Reply:
    return json_reply({"result": "deny", "error": error, "message": error}, status)


def _undecided(error: StoreUnavailable) -> Reply:
    return _deny("The database cannot be reached", 500)
