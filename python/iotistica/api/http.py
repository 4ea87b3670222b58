"""HTTP as our handlers see it: requests and replies. Knows no web server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import unquote_plus

import msgspec
import orjson

from iotistica.api.principal import Principal
from iotistica.errors import BadRequest, Denied
from iotistica.store.journal import Origin

_MAX_USER_AGENT = 512
JSON_TYPE = {"content-type": "application/json; charset=utf-8"}


# Structs, because a frozen dataclass takes ten times as long to make, and every request needs some.
class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request, still percent-encoded where the client encoded it."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]] = msgspec.field(default_factory=dict)
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    params: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Parameters of the route, decoded."""
    identified: Principal | None = None
    """Who calls; None on public routes."""
    identifier: str = ""
    """Request id: the caller's, or one of ours."""

    @property
    def caller(self) -> Principal:
        """Who calls. Raises `Denied` on a public route."""
        if self.identified is None:
            raise Denied("credentials are required")
        return self.identified

    @property
    def address(self) -> str:
        """IP address of the client, as the front door found it behind the trusted proxies."""
        found = self.headers.get("x-real-ip")
        return found or self.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()

    @property
    def user_agent(self) -> str:
        """What the client calls itself, cut short."""
        return self.headers.get("user-agent", "")[:_MAX_USER_AGENT]

    @property
    def origin(self) -> Origin:
        """Who asks and from where, for the journal. Raises `Denied` on a public route."""
        return self.origin_of(self.caller)

    def origin_of(self, caller: Principal) -> Origin:
        """The same for a caller who just proved who they are."""
        return Origin(
            tenant=caller.tenant,
            kind=caller.kind,
            id=caller.id,
            name=caller.name,
            address=self.address,
            user_agent=self.user_agent,
            request_id=self.identifier,
        )

    def parameter(self, name: str) -> str | None:
        """A query parameter, decoded; None where absent or empty. Raises `BadRequest`."""
        values = [value for value in self.query.get(name, ()) if value]
        if len(values) > 1:
            raise BadRequest(f"parameter {name} is given {len(values)} times; once is allowed")
        return unquote_plus(values[0]) if values else None

    def listed(self, name: str) -> list[str]:
        """Items of a query parameter, repeated or separated by commas.

        An encoded comma (%2C) is part of an item.
        """
        items = (item for value in self.query.get(name, ()) for item in value.split(","))
        return [unquote_plus(item) for item in items if item]


class Reply(msgspec.Struct, frozen=True):
    """An answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)

    def saying(self, name: str, value: str) -> Reply:
        """The same answer with one more header."""
        return Reply(self.status, self.body, {**self.headers, name: value})


Write: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Sends a piece; waits while the client takes nothing. Raises `ConnectionError`."""


class Stream(Reply, frozen=True, kw_only=True):
    """An answer of any size, sent as it is made."""

    send: Callable[[Write], Awaitable[None]]
    """What it raises before it writes anything is answered as any error; later, the transfer is
    cut."""

    def saying(self, name: str, value: str) -> Stream:
        """The same answer with one more header."""
        headers = {**self.headers, name: value}
        return Stream(self.status, headers=headers, send=self.send)


def json_reply(body: Any, status: int = 200) -> Reply:
    """A JSON answer; times are RFC 3339 in UTC."""
    return Reply(status, orjson.dumps(body, option=orjson.OPT_UTC_Z), JSON_TYPE)


def error_reply(status: int, error: str, message: str, **more: Any) -> Reply:
    """The error body of the reference: `{error, message, …}`."""
    return json_reply({"error": error, "message": message, **more}, status)
