"""Who may open a socket: decided before the upgrade, by the rules of the table of routes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit
from uuid import UUID

from msgspec.structs import replace

from iotistica.api import auth
from iotistica.api.callers import SERVICE_HEADER, Callers
from iotistica.api.http import Reply, Request
from iotistica.api.live.channels import Subject
from iotistica.api.live.visit import Visit
from iotistica.api.principal import Principal
from iotistica.api.route import Route
from iotistica.api.table import Meter, Table, failure
from iotistica.errors import BadRequest, Forbidden, NotFound
from iotistica.store.live import LiveStore

PATH = "/ws"
PROTOCOL = "bearer"
"""Subprotocol of browsers that put the token behind it: `new WebSocket(url, ["bearer", token])`."""

_ANY = "*"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """Pages of which sites may open sockets: those that may read answers, and our own.

    No cookie is ever looked at, so a foreign page has no rights that it did not bring along; this
    keeps a token that it got hold of from being used out of a browser that is not ours.
    """

    listed: Collection[str]

    def check(self, request: Request) -> None:
        """Raise `Forbidden` for a page of another site. Programs send no origin."""
        origin = request.headers.get("origin")
        if origin is None or origin in self.listed or _ANY in self.listed:
            return
        scheme = origin.partition(":")[0].lower()
        host = request.headers.get("x-forwarded-host") or request.headers.get("host", "")
        theirs, ours = _place(origin, scheme), _place(f"{scheme}://{host}", scheme)
        if theirs is None or theirs != ours:
            raise Forbidden(f"origin {origin[:80]!r} is neither this site nor in CORS_ORIGINS")


class Entrance:
    """Turns a request for an upgrade into a visit, or into its refusal."""

    def __init__(
        self, table: Table, callers: Callers, store: LiveStore, *, cors_origins: str
    ) -> None:
        """The table has the route."""
        self._table = table
        self._route = next(one for one in table.routes if one.path == PATH)
        self._callers = callers
        self._store = store
        listed = frozenset(one.strip() for one in cors_origins.split(",") if one.strip())
        self._origins = Origins(listed=listed)
        self._meter = Meter(f"{PATH} upgrade")

    async def admit(self, request: Request) -> Visit | Reply:
        """Never raises."""
        try:
            visit = await self._visit(request)
        except Exception as error:
            reply = failure(error, request)
            self._meter.add(reply.status, 1)
            return reply
        self._meter.add(101, 1)
        return visit

    async def _visit(self, request: Request) -> Visit:
        if request.path != PATH:
            raise NotFound(f"Route {request.method} {request.path[:200]} not found")
        self._origins.check(request)
        request = _credentials(request)
        admitted = await self._table.admitted(self._route, request)
        caller = admitted.caller
        subject = await self._subject(request, caller)
        credential = request.headers.get("authorization", "").partition(" ")[2].strip()
        by_key = request.headers.get(SERVICE_HEADER) or caller.kind == "service"
        return Visit(
            caller=caller,
            subject=subject,
            expires_at=None if by_key else auth.expiry(credential),
            again=partial(self._again, self._route, request, subject),
        )

    async def _subject(self, request: Request, caller: Principal) -> Subject:
        device, kind = request.parameter("deviceUuid"), request.parameter("type")
        if kind is not None and (kind != "global" or device is not None):
            what = f"parameter type is {kind[:64]!r}: only global is allowed, without deviceUuid"
            raise BadRequest(what)
        if kind is not None:
            return Subject(caller.tenant)
        if device is None:
            raise BadRequest("one of the parameters deviceUuid and type=global is required")
        try:
            agent = UUID(device)
        except ValueError:
            raise BadRequest(f"parameter deviceUuid is {device[:64]!r}; a UUID is expected") from (
                None
            )
        await self._store.is_online(caller.tenant, agent)
        return Subject(caller.tenant, agent)

    async def _again(self, route: Route, request: Request, subject: Subject) -> Principal:
        caller = await self._callers.identify(request, route)
        route.access.check(caller, None)
        if caller.tenant != subject.tenant:
            raise Forbidden("the caller belongs to another tenant now")
        if subject.agent is not None:
            await self._store.is_online(subject.tenant, subject.agent)
        return caller


def _credentials(request: Request) -> Request:
    """The request with its token where all others have it. Raises `BadRequest`.

    Browsers cannot set headers for a WebSocket, so theirs comes as a subprotocol or in the query.
    """
    if "authorization" in request.headers or SERVICE_HEADER in request.headers:
        return request
    token = request.parameter("token")
    offered = [one.strip() for one in request.headers.get("sec-websocket-protocol", "").split(",")]
    if len(offered) == 2 and offered[0] == PROTOCOL:
        token = offered[1]
    if token is None:
        return request
    return replace(request, headers={**request.headers, "authorization": f"Bearer {token}"})


def _place(url: str, scheme: str) -> tuple[str, int | None] | None:
    """Host and port; None where it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(scheme)
    except ValueError:
        return None
    return None if parts.hostname is None else (parts.hostname, port)
