"""HTTP as our handlers see it: requests, replies and the table of routes. Knows no web server."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import unquote, unquote_plus

import orjson

from iotistica import log, metrics
from iotistica.errors import BadRequest, Denied, Forbidden, NotFound, StoreUnavailable
from iotistica.ops import request_id

_JSON = {"content-type": "application/json; charset=utf-8"}

_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request, still percent-encoded where the client encoded it."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    params: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the route, decoded."""

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


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path, such as `/api/v1/readings/:uuid/latest`."""

    method: str
    path: str
    handler: Handler


def json_reply(body: Any, status: int = 200) -> Reply:
    """A JSON answer; times are RFC 3339 in UTC."""
    return Reply(status, orjson.dumps(body, option=orjson.OPT_UTC_Z), _JSON)


def error_reply(status: int, error: str, message: str, **more: Any) -> Reply:
    """The error body of the reference: `{error, message, …}`."""
    return json_reply({"error": error, "message": message, **more}, status)


class _Node:
    """One level of the paths."""

    __slots__ = ("children", "methods", "parameter")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.methods: dict[str, tuple[Route, list[str]]] = {}


class Table:
    """Finds the handler of a request, and answers for everything that no handler does."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._root = _Node()
        for route in routes:
            self._add(route)

    async def answer(self, request: Request) -> Reply:
        """The answer to any request; never raises."""
        started = time.perf_counter()
        identifier = request_id(request.headers.get("x-request-id")) or secrets.token_hex(8)
        node, values = self._find(request.path)
        path, reply = "none", await self._dispatch(request, node, values, identifier)
        if node is not None:
            path = next(iter(node.methods.values()))[0].path
        metrics.HTTP_REQUESTS.labels(path, reply.status).inc()
        metrics.HTTP_SECONDS.labels(path).observe(time.perf_counter() - started)
        headers = {**reply.headers, "x-request-id": identifier}
        return replace(reply, headers=headers)

    def _add(self, route: Route) -> None:
        node, names = self._root, []
        for level in _levels(route.path):
            if level.startswith(":"):
                names.append(level[1:])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.children.setdefault(level, _Node())
        node.methods[route.method] = (route, names)

    def _find(self, path: str) -> tuple[_Node | None, list[str]]:
        node, values = self._root, []
        for level in _levels(path):
            child = node.children.get(level)
            if child is None and (child := node.parameter) is not None:
                values.append(unquote(level))
            if child is None:
                return None, values
            node = child
        return (node if node.methods else None), values

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
            return replace(reply, headers={**reply.headers, "allow": allowed})
        route, names = found
        request = replace(request, params=dict(zip(names, values, strict=True)))
        return await _run(route.handler, request, identifier)


async def _run(handler: Handler, request: Request, identifier: str) -> Reply:
    try:
        return await handler(request)
    except BadRequest as error:
        return error_reply(400, "Bad request", str(error))
    except Denied as error:
        reply = error_reply(401, "Unauthorized", str(error))
        return replace(reply, headers={**reply.headers, "www-authenticate": "Bearer"})
    except Forbidden as error:
        return error_reply(403, "Forbidden", str(error))
    except NotFound as error:
        return error_reply(404, "Not found", str(error))
    except StoreUnavailable as error:
        _log.warning("request not served", path=request.path, error=str(error))
        what = "The database cannot be reached; try again"
        reply = error_reply(503, "Service unavailable", what, requestId=identifier)
        return replace(reply, headers={**reply.headers, "retry-after": "1"})
    except Exception:
        _log.exception("request failed", path=request.path, request=identifier)
        what = "The error was logged under this request id"
        return error_reply(500, "Internal server error", what, requestId=identifier)


def _levels(path: str) -> list[str]:
    return path.strip("/").split("/")
