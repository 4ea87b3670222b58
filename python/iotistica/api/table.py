"""The table of routes: finds the handler of a request, lets in who may, answers everything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import unquote

from msgspec.structs import replace

from iotistica import log, metrics
from iotistica.api.http import Reply, Request, error_reply
from iotistica.api.principal import Principal
from iotistica.api.route import Route
from iotistica.errors import (
    BadRequest,
    Busy,
    Conflict,
    Denied,
    Forbidden,
    NotAcceptable,
    NotFound,
    NotInstalled,
    PreconditionFailed,
    StoreUnavailable,
    TooLarge,
    TooMany,
    TooSlow,
)
from iotistica.ops import new_request_id, request_id

_log = log.get(__name__)

_ANSWERS: Mapping[type[Exception], tuple[int, str]] = {
    BadRequest: (400, "Bad request"),
    Forbidden: (403, "Forbidden"),
    NotFound: (404, "Not found"),
    NotAcceptable: (406, "Not acceptable"),
    Conflict: (409, "Conflict"),
    PreconditionFailed: (412, "Precondition failed"),
    TooLarge: (413, "Payload too large"),
    NotInstalled: (501, "Not installed"),
    TooSlow: (504, "Query timeout"),
}


class Callers(Protocol):
    """Tells who calls."""

    async def identify(self, request: Request, route: Route) -> Principal:
        """The caller behind the request's credentials. Raises `Denied`, `StoreUnavailable`."""


class Gate(Protocol):
    """Counts requests against the limits."""

    async def admit(self, request: Request, route: Route, caller: Principal | None) -> None:
        """Raises `TooMany`. Called for every request before its credentials are looked at, with
        no caller, and again once the caller is known."""


class Meter:
    """Counts the answers of one path, without a search for its labels each time."""

    __slots__ = ("_path", "_seconds", "_statuses")

    def __init__(self, path: str) -> None:
        self._path = path
        self._statuses: dict[int, Any] = {}
        self._seconds = metrics.HTTP_SECONDS.labels(path)

    def count(self, status: int, seconds: float) -> None:
        """Take one answer into account."""
        self.add(status, 1)
        self._seconds.observe(seconds)

    def add(self, status: int, number: float) -> None:
        """Take answers into account whose time is not worth measuring."""
        counter = self._statuses.get(status)
        if counter is None:
            counter = self._statuses[status] = metrics.HTTP_REQUESTS.labels(self._path, status)
        counter.inc(number)


class _Node:
    """One level of the paths."""

    __slots__ = ("children", "meter", "methods", "parameter")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.methods: dict[str, tuple[Route, list[str]]] = {}
        self.meter: Meter
        """Where there are methods."""


class Table:
    """Answers any request."""

    def __init__(
        self,
        routes: Sequence[Route],
        callers: Callers,
        gate: Gate | None = None,
        *,
        heard: Callable[[str], None] = lambda agent: None,
    ) -> None:
        """`heard` is told of every agent that calls."""
        self.routes = tuple(routes)
        self._callers = callers
        self._gate = gate
        self._heard = heard
        self._root = _Node()
        self._strays = Meter("none")
        for route in routes:
            self._add(route)

    async def answer(self, request: Request) -> Reply:
        """The answer to any request; never raises."""
        started = time.perf_counter()
        identifier = request_id(request.headers.get("x-request-id")) or new_request_id()
        node, values = self._find(request.path)
        reply = await self._dispatch(request, node, values, identifier)
        meter = self._strays if node is None else node.meter
        meter.count(reply.status, time.perf_counter() - started)
        return reply.saying("x-request-id", identifier)

    def _add(self, route: Route) -> None:
        node, names = self._root, []
        for level in _levels(route.path):
            if level.startswith(":"):
                names.append(level[1:])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.children.setdefault(level, _Node())
        if route.method in node.methods:
            raise ValueError(f"{route.method} {route.path} is declared twice")
        if not node.methods:
            node.meter = Meter(route.path)
        node.methods[route.method] = (route, names)

    def _find(self, path: str) -> tuple[_Node | None, list[str]]:
        return _search(self._root, _levels(path), 0, [])

    async def _dispatch(
        self, request: Request, node: _Node | None, values: list[str], identifier: str
    ) -> Reply:
        if node is None:
            what = f"Route {request.method} {request.path} not found"
            hint = "The base of the API is /api/v1"
            return error_reply(404, "Not found", what, hint=hint)
        is_head = request.method == "HEAD" and "HEAD" not in node.methods
        found = node.methods.get("GET" if is_head else request.method)
        if found is None:
            allowed = ", ".join(sorted(node.methods))
            what = f"{request.method} is not allowed on {request.path}; allowed: {allowed}"
            reply = error_reply(405, "Method not allowed", what)
            return reply.saying("allow", allowed)
        route, names = found
        params = dict(zip(names, values, strict=True))
        return await self._run(route, replace(request, params=params, identifier=identifier))

    async def _run(self, route: Route, request: Request) -> Reply:
        try:
            return await route.handler(await self.admitted(route, request))
        except Exception as error:
            return failure(error, request)

    async def admitted(self, route: Route, request: Request) -> Request:
        """The request with its caller, who may use the route; raises whatever `failure` answers."""
        if self._gate is not None:
            await self._gate.admit(request, route, None)
        if route.access.public:
            return request
        caller = await self._callers.identify(request, route)
        if caller.kind == "agent":
            self._heard(caller.id)
        if self._gate is not None:
            await self._gate.admit(request, route, caller)
        route.access.check(caller, request.params.get("uuid"))
        return replace(request, identified=caller)


def failure(error: Exception, request: Request) -> Reply:
    """The answer to a request that raised."""
    match error:
        case Denied():
            reply = error_reply(401, "Unauthorized", str(error))
            return reply.saying("www-authenticate", "Bearer")
        case TooMany():
            reply = error_reply(429, "Too many requests", str(error), retryAfter=error.after_s)
            return reply.saying("retry-after", str(error.after_s))
        case Busy():
            reply = error_reply(503, "Service unavailable", str(error))
            return reply.saying("retry-after", "1")
        case StoreUnavailable():
            _log.warning("request not served", path=request.path, error=str(error))
            what = "A server behind the API cannot be reached; try again"
            reply = error_reply(503, "Service unavailable", what, requestId=request.identifier)
            return reply.saying("retry-after", "1")
    if (answer := _ANSWERS.get(type(error))) is not None:
        status, name = answer
        return error_reply(status, name, str(error))
    _log.error("request failed", path=request.path, request=request.identifier, exc_info=error)
    what = "The error was logged under this request id"
    return error_reply(500, "Internal server error", what, requestId=request.identifier)


def _search(
    node: _Node, levels: list[str], index: int, values: list[str]
) -> tuple[_Node | None, list[str]]:
    """Depth first: a fixed level before a parameter, which is tried where that leads nowhere."""
    if index == len(levels):
        return (node if node.methods else None), values
    level = levels[index]
    if (child := node.children.get(level)) is not None:
        found = _search(child, levels, index + 1, values)
        if found[0] is not None:
            return found
    if node.parameter is None:
        return None, values
    return _search(node.parameter, levels, index + 1, [*values, unquote(level)])


def _levels(path: str) -> list[str]:
    return path.strip("/").split("/")
