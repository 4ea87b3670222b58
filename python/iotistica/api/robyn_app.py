"""The web process. The only module that imports Robyn, which must not face a network bare:
a bad chunked body ends its whole process, so it listens on loopback only."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from robyn import Headers, Response, Robyn
from robyn.argument_parser import Config
from robyn.robyn import FunctionInfo, HttpMethod, MiddlewareType
from robyn.router import Route, RouteMiddleware

from iotistica import log, ops, supervisor
from iotistica.api import auth
from iotistica.api.application import EXPRESS_PATHS, Application
from iotistica.api.express import Express
from iotistica.api.http import Reply, Request, Stream, error_reply
from iotistica.errors import ConfigError
from iotistica.settings import Settings

# The library's stubs call them texts.
_BEFORE: Any = MiddlewareType.BEFORE_REQUEST
_GET: Any = HttpMethod.GET
_METHODS: tuple[Any, ...] = (
    _GET,
    HttpMethod.POST,
    HttpMethod.PUT,
    HttpMethod.DELETE,
    HttpMethod.PATCH,
    HttpMethod.HEAD,
    HttpMethod.OPTIONS,
)

_TALKATIVE = ("robyn", "actix_http", "actix_server", "actix_web")

_log = log.get(__name__)


class Web:
    """One web process and its requests in flight."""

    def __init__(self, assignment: supervisor.Assignment, tokens: auth.Tokens) -> None:
        self._assignment = assignment
        self._tokens = tokens
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._stopping = False
        self._application: Application
        self._short_cuts: Mapping[str, Express]

    @property
    def _settings(self) -> Settings:
        return self._assignment.settings

    async def start(self) -> None:
        """Open what the handlers need; Robyn runs it in the loop of its handlers."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_soon)
        self._application = await Application.open(
            self._assignment, self._tokens, stopping=lambda: self._stopping
        )
        self._short_cuts = self._application.express
        if self._assignment.public is not None:
            await self._application.live.start(self._assignment.public)
        # The other web processes ask here: what comes through the door may reach any of them.
        self._ops = ops.serve(self._application.probe, sock=self._assignment.listener)
        await self._ops.__aenter__()
        _log.info("web listens", port=self._assignment.parameters["port"])

    async def handle(self, request: Any) -> Response:
        """Answer one request of Robyn's."""
        self._in_flight += 1
        try:
            return _response(await self._answer(request))
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    def express(self, path: str, request: Any) -> Any:
        """A response from memory, or the request itself, which then goes on to `handle`."""
        try:
            short_cut = self._short_cuts[path]
            reply = short_cut.answer(request.url.path, request.headers.get)
        except Exception:
            _log.exception("short cut failed", path=path)
            return request
        return request if reply is None else _response(reply)

    async def _answer(self, request: Any) -> Reply:
        ours = _request(request)
        # Robyn hands a body that was cut off to the handler as if it were whole.
        declared = ours.headers.get("content-length")
        if declared is not None and declared != str(len(ours.body)):
            what = f"the body has {len(ours.body)} bytes; Content-Length says {declared[:20]}"
            return error_reply(400, "Bad request", what)
        reply = await self._application.table.answer(ours)
        if isinstance(reply, Stream):
            # Robyn would end one that breaks off as if it were whole (docs/decisions/exports.md).
            return error_reply(421, "Misdirected request", "streams are asked of the front door")
        return reply

    def _stop_soon(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._last = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        """Finish what is in flight and end; Robyn itself would never exit."""
        try:
            async with asyncio.timeout(self._settings.stop_grace_s):
                await self._application.live.close()
                while self._in_flight:
                    self._idle.clear()
                    await self._idle.wait()
                await self._application.close()
        except TimeoutError:
            _log.warning("requests were cut off", in_flight=self._in_flight)
        sys.stderr.flush()
        os._exit(0)


def _request(request: Any) -> Request:
    body = request.body
    return Request(
        method=request.method,
        path=request.url.path,
        query=request.query_params.to_dict(),
        # In lower case already: the server keeps no other form of a name.
        headers=request.headers.to_dict(),
        body=body.encode() if isinstance(body, str) else bytes(body),
    )


def _response(reply: Reply) -> Response:
    return Response(
        status_code=reply.status, headers=Headers(_as_dict(reply.headers)), description=reply.body
    )


def _as_dict(headers: Mapping[str, str]) -> dict[str, str]:
    return headers if isinstance(headers, dict) else dict(headers)


def _robyn(web: Web) -> Robyn:
    arguments, sys.argv = sys.argv, sys.argv[:1]  # Robyn reads them
    try:
        config = Config()
        config.disable_openapi = True
        config.log_level = "WARN"
        # A directory without robyn.env, which it would load.
        app = Robyn(os.devnull, config=config)
    finally:
        sys.argv = arguments
    app.startup_handler(web.start)
    # One route for all: paths, methods and errors are decided in our own table.
    for method in _METHODS:
        for path in ("/", "/*path"):
            _add_route(app, method, path, web.handle)
    for path in EXPRESS_PATHS:
        _add_route(app, _GET, path, web.handle)
        function = _function(functools.partial(web.express, path), is_async=False)
        app.middleware_router.route_middlewares.append(
            RouteMiddleware(_BEFORE, path, function, _GET)
        )
    return app


def _add_route(app: Robyn, method: Any, path: str, handler: Callable[..., Any]) -> None:
    # Past `Robyn.add_route`, whose wrapper looks at the signature of the handler for each request.
    function = _function(handler, is_async=True)
    app.router.routes.append(Route(method, path, function, False, False, "", []))


def _function(handler: Callable[..., Any], *, is_async: bool) -> FunctionInfo:
    return FunctionInfo(handler, is_async, 1, {}, {})


def main() -> int:
    """Entry point of `python -m iotistica.api.robyn_app`, started by the supervisor."""
    assignment = supervisor.assigned()
    settings = assignment.settings
    try:
        tokens = auth.Tokens(auth.secret(settings), lifetime_s=settings.access_token_s)
        app = _robyn(Web(assignment, tokens))
        # Last, because Robyn configures the root logger for itself.
        log.configure(settings.log_level, service="api", process=assignment.name)
        # At debug they write down the values of every query, and with them tokens.
        for library in _TALKATIVE:
            logging.getLogger(library).setLevel(logging.WARNING)
        port = assignment.parameters["port"]
        app.start(host=supervisor.LOOPBACK, port=port, _check_port=False)
    except ConfigError as error:
        log.configure(settings.log_level, service="api", process=assignment.name)
        _log.error(str(error))
        return supervisor.EXIT_CONFIG
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
