"""Takes WebSockets from the front door, in the web process, on a loopback port of their own.

Not Robyn's: that accepts every upgrade, shows no header, sends no close code, and keeps what a slow
client does not read without a bound (docs/decisions/websocket.md). aiohttp, which serves
operations too, does all of that.
"""

from __future__ import annotations

import asyncio
import socket as sockets
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import unquote_plus

from aiohttp import WSMsgType, web

from iotistica import log, metrics
from iotistica.api import streaming
from iotistica.api.http import Reply, Request, error_reply
from iotistica.api.live import socket as codes
from iotistica.api.live.channels import Stores
from iotistica.api.live.entrance import PROTOCOL, Entrance
from iotistica.api.live.hub import Hub
from iotistica.api.live.session import Session
from iotistica.api.live.socket import Gone
from iotistica.api.live.visit import Visit
from iotistica.api.table import Table
from iotistica.ops import new_request_id, request_id
from iotistica.settings import Settings

_CLOSE_S = 2.0

_log = log.get(__name__)


class AiohttpSocket:
    """A `Socket` of aiohttp's."""

    def __init__(self, response: web.WebSocketResponse, request: web.BaseRequest) -> None:
        self._response = response
        self._request = request

    async def receive(self) -> str | bytes | None:
        """The next message; protocol errors and too large ones end the connection."""
        message = await self._response.receive()
        match message.type:
            case WSMsgType.TEXT:
                return str(message.data)
            case WSMsgType.BINARY:
                return bytes(message.data)
            case _:
                return None

    async def send(self, text: bytes) -> None:
        """Send; waits while the client takes nothing. Raises `Gone`."""
        try:
            await self._response.send_frame(text, WSMsgType.TEXT)
        except (ConnectionError, RuntimeError):
            raise Gone from None

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye and wait for the answer."""
        # The reason has room for 123 bytes (RFC 6455 section 5.5).
        await self._response.close(code=code, message=reason.encode()[:120])

    def abort(self) -> None:
        """Cut the connection."""
        if self._request.transport is not None:
            self._request.transport.abort()


class Listener:
    """All sockets of one web process."""

    def __init__(
        self,
        *,
        table: Table,
        entrance: Entrance,
        hub: Hub,
        stores: Stores,
        settings: Settings,
    ) -> None:
        """`table` answers what is no upgrade but whose answer is a stream."""
        self._table = table
        self._entrance = entrance
        self._hub = hub
        self._stores = stores
        self._settings = settings
        self._sessions: set[Session] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._per_tenant: Counter[str] = Counter()
        self._is_closing = False
        # Refused or accepted here; no access log, which would show tokens.
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None), shutdown_timeout=_CLOSE_S
        )

    async def start(self, sock: sockets.socket) -> None:
        """Take sockets that come to this listening one."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def close(self) -> None:
        """Say goodbye to all, and take no more."""
        self._is_closing = True
        for session in list(self._sessions):
            session.end(codes.GOING_AWAY, "the server is stopping", "stopping")
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._empty.wait()
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = _request(request)
        if streaming.is_streamed(request):
            return await streaming.answer(self._table, request, asked)
        admitted = await self._entrance.admit(asked)
        if isinstance(admitted, Visit):
            admitted = self._room(admitted.subject.tenant) or admitted
        if isinstance(admitted, Reply):
            return _refusal(admitted, asked)
        response = self._response()
        if not response.can_prepare(request).ok:
            what = "the fields of the upgrade are no WebSocket handshake (RFC 6455 section 4.2.1)"
            return _refusal(error_reply(400, "Bad request", what), asked)
        return await self._serve(request, response, admitted)

    def _room(self, tenant: str) -> Reply | None:
        """The refusal of one more, where there are too many."""
        most, of_tenant = self._settings.live_sockets, self._settings.live_sockets_per_tenant
        if self._per_tenant[tenant] >= of_tenant:
            what = f"the tenant has {of_tenant} sockets open, and may have no more"
            return error_reply(429, "Too many requests", what).saying("retry-after", "10")
        if self._is_closing or len(self._sessions) >= most:
            what = f"{len(self._sessions)} sockets are open; try again"
            return error_reply(503, "Service unavailable", what).saying("retry-after", "1")
        return None

    def _response(self) -> web.WebSocketResponse:
        return web.WebSocketResponse(
            heartbeat=self._settings.live_ping_s,
            max_msg_size=self._settings.live_message_bytes,
            timeout=_CLOSE_S,
            protocols=(PROTOCOL,),
            compress=False,
        )

    async def _serve(
        self, request: web.BaseRequest, response: web.WebSocketResponse, visit: Visit
    ) -> web.StreamResponse:
        tenant = visit.subject.tenant
        self._per_tenant[tenant] += 1
        metrics.LIVE_SOCKETS.inc()
        session: Session | None = None
        try:
            await response.prepare(request)
            session = Session(
                AiohttpSocket(response, request),
                visit,
                hub=self._hub,
                stores=self._stores,
                settings=self._settings,
            )
            self._sessions.add(session)
            self._empty.clear()
            await session.run()
        finally:
            self._per_tenant[tenant] -= 1
            if not self._per_tenant[tenant]:
                del self._per_tenant[tenant]
            metrics.LIVE_SOCKETS.dec()
            if session is not None:
                self._sessions.discard(session)
            if not self._sessions:
                self._empty.set()
        return response


def _request(request: web.BaseRequest) -> Request:
    # Later fields of a name that occurs twice would be as good as the first.
    headers: Mapping[str, str] = {
        name.lower(): value for name, value in reversed(list(request.headers.items()))
    }
    query: dict[str, list[str]] = {}
    for pair in request.rel_url.raw_query_string.split("&"):
        name, _, value = pair.partition("=")
        query.setdefault(unquote_plus(name), []).append(value)
    identifier = request_id(headers.get("x-request-id")) or new_request_id()
    return Request(
        method=request.method,
        path=request.path,
        query=query,
        headers=headers,
        identifier=identifier,
    )


def _refusal(reply: Reply, asked: Request) -> web.Response:
    answer = reply.saying("x-request-id", asked.identifier)
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
