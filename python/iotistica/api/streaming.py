"""Answers of any size, by aiohttp: Robyn ends one that breaks off as if it were whole
(docs/decisions/exports.md)."""

from __future__ import annotations

import asyncio

from aiohttp import web

from iotistica import log
from iotistica.api.http import Reply, Request, Stream
from iotistica.api.table import Table, failure
from iotistica.tasks import end

STREAMED = ("export",)
"""Last levels of the paths that the front door brings here."""
_WATCH_S = 1.0

_log = log.get(__name__)


def is_streamed(request: web.BaseRequest) -> bool:
    """Whether it is for here, among the upgrades that come to the same port."""
    last = request.rel_url.raw_path.rpartition("/")[2]
    return last in STREAMED and "upgrade" not in request.headers


class _Gone(Exception):
    """The client has. No `OSError`: where rows come from, those mean that a server is away."""


class _Transfer:
    """One answer on its way. Its head goes with the first piece: until then it may still fail."""

    def __init__(self, request: web.BaseRequest, reply: Reply) -> None:
        self._request = request
        self._reply = reply
        self.response: web.StreamResponse | None = None

    async def begin(self) -> web.StreamResponse:
        if self.response is None:
            self.response = web.StreamResponse(
                status=self._reply.status, headers=self._reply.headers
            )
            if self._request.method != "HEAD":
                self.response.enable_chunked_encoding()
            await self.response.prepare(self._request)
        return self.response

    async def write(self, piece: bytes) -> None:
        if piece:
            try:
                await (await self.begin()).write(piece)
            except ConnectionError:
                raise _Gone from None

    def cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


async def answer(table: Table, request: web.BaseRequest, asked: Request) -> web.StreamResponse:
    """Answer any request, piece by piece where the answer is a stream."""
    reply = await table.answer(asked)
    if not isinstance(reply, Stream):
        return _whole(reply)
    transfer = _Transfer(request, reply)
    if asked.method == "HEAD":
        return await transfer.begin()
    sending = asyncio.ensure_future(reply.send(transfer.write))
    try:
        await _watch(request, sending)
        response = await transfer.begin()
        await response.write_eof()
    except (_Gone, ConnectionError):
        return transfer.response or web.Response()
    except Exception as error:
        if transfer.response is None:
            return _whole(_failure(error, asked, reply))
        transfer.cut()
        _log.warning("stream was cut", path=asked.path, request=asked.identifier, error=str(error))
    finally:
        await end([sending])
    return transfer.response or web.Response()


async def _watch(request: web.BaseRequest, sending: asyncio.Future[None]) -> None:
    """Wait for its end. A client that goes is seen even while there is nothing to write."""
    while not sending.done():
        await asyncio.wait([sending], timeout=_WATCH_S)
        if request.transport is None or request.transport.is_closing():
            raise _Gone
    await sending


def _failure(error: Exception, asked: Request, reply: Stream) -> Reply:
    identifier = reply.headers.get("x-request-id", asked.identifier)
    return failure(error, asked).saying("x-request-id", identifier)


def _whole(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers)
