"""Learns from Redis which streams got something new, without asking again and again.

Server-assisted tracking (`CLIENT TRACKING`): Redis remembers what this connection has looked at,
and says once, in a few bytes, when it changes. So one connection serves thousands of tenants, and
those that are idle cost nothing. A blocking read would need a connection for each tenant, because
the group of an `XREADGROUP` is the tenant's own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError, ResponseError

from iotistica import keys, log
from iotistica.errors import StoreUnavailable
from iotistica.keys import Feed
from iotistica.streams.client import Argument, connect, pack, unavailable

_LOG = log.get(__name__)

_TIMEOUT_S = 5.0
_NEWS = object()

OnChange = Callable[[Sequence[bytes] | None], None]
"""Is told the keys that changed; None: any may have, or the connection is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDepth:
    """Entries in a stream, not yet delivered to its group, delivered and not settled; consumers."""

    entries: int
    lag: int
    pending: int
    consumers: int


@dataclass(frozen=True, slots=True)
class Survey:
    """How streams stood at a time of the clock of Redis."""

    at_ms: float
    depths: list[GroupDepth | StoreUnavailable | None]
    """For each stream, in the order asked; None where it or its group does not exist."""


class Watch:
    """One connection to Redis that looks at streams and is told of changes."""

    def __init__(self, connection: Any, on_change: OnChange) -> None:
        self._connection = connection
        self._on_change = on_change
        self._replies: deque[asyncio.Future[Any]] = deque()
        self._broken: BaseException | None = None
        self.tracks = False
        """Whether Redis tells of changes. Where it refuses to, streams must be looked at often."""

    async def survey(self, places: Sequence[tuple[str, Feed]]) -> Survey:
        """Look at these streams; from now on their next change is told. Raises `StoreUnavailable`.

        The larger the number, the longer Redis serves nobody else: a few hundred at the most.
        """
        commands: list[Sequence[Argument]] = [("TIME",)]
        for tenant, feed in places:
            stream = keys.ingestion_stream(tenant, feed)
            commands += [("XINFO", "GROUPS", stream), ("XLEN", stream)]
        (seconds, micros), *replies = await self._call(*commands)
        found = zip(places, replies[::2], replies[1::2], strict=True)
        return Survey(
            int(seconds) * 1000 + int(micros) / 1000,
            [_depth(tenant, groups, length) for (tenant, _), groups, length in found],
        )

    async def track(self) -> None:
        """Ask Redis to tell of changes."""
        [reply] = await self._call(("CLIENT", "TRACKING", "ON"))
        self.tracks = not isinstance(reply, ResponseError)
        if not self.tracks:
            _LOG.warning("Redis does not tell of changes, streams are polled", error=str(reply))

    async def receive(self) -> None:
        """Hand replies and news to who waits for them, until the connection ends."""
        try:
            while True:
                reply = await self._next()
                if reply is not _NEWS and not (waiting := self._replies.popleft()).done():
                    waiting.set_result(reply)
        except (RedisError, OSError) as error:
            self._broken = error
            for waiting in self._replies:
                if not waiting.done():
                    waiting.set_exception(error)
            self._on_change(None)

    async def news(self, push: list[Any]) -> object:
        """Called by the client for each invalidation message."""
        self._on_change(push[1])
        return _NEWS

    async def _next(self) -> Any:
        try:
            return await self._connection.read_response(push_request=True)
        except ResponseError as error:
            return error

    async def _call(self, *commands: Sequence[Argument]) -> list[Any]:
        with unavailable("look at the streams"):
            if self._broken is not None:
                raise self._broken
            loop = asyncio.get_running_loop()
            waiting = [loop.create_future() for _ in commands]
            self._replies.extend(waiting)
            replies = asyncio.gather(*waiting, return_exceptions=True)
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await self._send([pack(one) for one in commands])
                    found = await replies
            finally:
                replies.cancel()
            if self._broken is not None:
                raise self._broken
            return found

    async def _send(self, packed: Sequence[bytes]) -> None:
        # The client would connect again by itself, and nobody would tell that connection anything.
        if not self._connection.is_connected:
            raise ConnectionError("the connection is gone")
        await self._connection.send_packed_command(packed)


@asynccontextmanager
async def watching(url: str, on_change: OnChange) -> AsyncIterator[Watch]:
    """A connection that is told of changes. Raises `StoreUnavailable`."""
    # It waits for news however long; what is asked for has a time limit of its own.
    client = connect(url, timeout_s=None, protocol=3)
    try:
        with unavailable("be watched"):
            pool: Any = client.connection_pool
            async with asyncio.timeout(_TIMEOUT_S):
                connection = await pool.get_connection()
        watch = Watch(connection, on_change)
        # redis-py has no door of its own to this.
        connection._parser.set_invalidation_push_handler(watch.news)
        receiving = asyncio.create_task(watch.receive())
        try:
            await watch.track()
            yield watch
        finally:
            receiving.cancel()
            with suppress(asyncio.CancelledError):
                await receiving
    finally:
        await client.aclose()


def unread(*, entries: int, pending: int, lag: int | None) -> int:
    """Entries not yet delivered to a group.

    Redis forgets the lag of a group when entries were deleted ahead of it; as settled entries leave
    the stream, what is there and not pending is exactly what is not read.
    """
    return max(entries - pending, 0) if lag is None else lag


def _depth(tenant: str, groups: Any, length: Any) -> GroupDepth | StoreUnavailable | None:
    for reply in (groups, length):
        if isinstance(reply, ResponseError):
            if "no such key" in str(reply):
                return None
            return StoreUnavailable(f"Redis could not look at a stream of {tenant}: {reply}")
    name = keys.device_writers_group(tenant).encode()
    ours = next((group for group in groups if group[b"name"] == name), None)
    if ours is None:
        return None
    pending = ours[b"pending"]
    return GroupDepth(
        entries=length,
        lag=unread(entries=length, pending=pending, lag=ours.get(b"lag")),
        pending=pending,
        consumers=ours[b"consumers"],
    )
