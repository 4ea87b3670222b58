"""Live values for whoever listens in this process: one connection for all channels."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from iotistica import log
from iotistica.backoff import Backoff
from iotistica.streams.client import connect, pack

_LOG = log.get(__name__)
_TIMEOUT_S = 5.0
_PING_S = 5.0
_AT_ONCE = 200


class Subscriptions:
    """Follows the channels that are wanted now; what is published while there is no connection is
    missed, and `on_lost` and `on_live` say when that may have been.

    The callbacks run in the loop and must not wait.
    """

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[str, bytes], None],
        on_live: Callable[[str], None],
        on_lost: Callable[[], None],
    ) -> None:
        """`on_live` is told a channel whenever Redis has confirmed it: from then on nothing is
        missed. `on_lost` ends that for all channels. Raises `ConfigError`."""
        self._url = url
        self._on_message = on_message
        self._on_live = on_live
        self._on_lost = on_lost
        self._wanted: set[str] = set()
        self._asked: set[str] = set()
        self._unconfirmed: Counter[str] = Counter()
        self._live: set[str] = set()
        self._changed = asyncio.Event()
        self._heard_at = 0.0
        self.connected = False

    def want(self, channel: str) -> None:
        """Follow a channel from now on."""
        self._wanted.add(channel)
        self._changed.set()

    def leave(self, channel: str) -> None:
        """Follow it no more."""
        self._wanted.discard(channel)
        self._changed.set()

    def is_live(self, channel: str) -> bool:
        """Whether all that is published there arrives."""
        return channel in self._live

    async def run(self) -> None:
        """Stay connected, until cancelled."""
        backoff = Backoff(first_s=0.05, most_s=5.0)
        while True:
            try:
                await self._follow(backoff)
            except (RedisError, OSError, TimeoutError) as error:
                was_connected, self.connected = self.connected, False
                self._asked.clear()
                self._unconfirmed.clear()
                self._live.clear()
                if was_connected:
                    self._on_lost()
                _LOG.warning("no live values come from Redis", error=str(error))
                await asyncio.sleep(backoff.next_s())

    async def _follow(self, backoff: Backoff) -> None:
        # It waits for messages however long; silence is ended by pings of ours.
        client = connect(self._url, timeout_s=None)
        try:
            pool: Any = client.connection_pool
            async with asyncio.timeout(_TIMEOUT_S):
                connection = await pool.get_connection()
            backoff.reset()
            self.connected = True
            self._heard_at = asyncio.get_running_loop().time()
            receiving = asyncio.create_task(self._receive(connection))
            try:
                await self._ask(connection, receiving)
            finally:
                receiving.cancel()
                with suppress(asyncio.CancelledError, RedisError, OSError):
                    await receiving
        finally:
            with suppress(RedisError, OSError):
                await client.aclose()

    async def _ask(self, connection: Any, receiving: asyncio.Task[None]) -> None:
        """Say what is wanted whenever that changes, and see that somebody answers."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            await self._say(connection, "UNSUBSCRIBE", sorted(self._asked - self._wanted))
            await self._say(connection, "SUBSCRIBE", sorted(self._wanted - self._asked))
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait(
                (changed, receiving), timeout=_PING_S, return_when=asyncio.FIRST_COMPLETED
            )
            changed.cancel()
            if receiving.done():
                await receiving
            silent_s = loop.time() - self._heard_at
            if silent_s > 2 * _PING_S:
                raise ConnectionError("Redis answers no more")
            if silent_s > _PING_S / 2:
                await self._send(connection, "PING")

    async def _say(self, connection: Any, command: str, channels: list[str]) -> None:
        for first in range(0, len(channels), _AT_ONCE):
            some = channels[first : first + _AT_ONCE]
            if command == "SUBSCRIBE":
                self._asked.update(some)
                self._unconfirmed.update(some)
            else:
                self._asked.difference_update(some)
                self._live.difference_update(some)
            await self._send(connection, command, *some)

    async def _send(self, connection: Any, *command: str) -> None:
        # The client would connect again by itself, and that connection would follow nothing.
        if not connection.is_connected:
            raise ConnectionError("the connection is gone")
        async with asyncio.timeout(_TIMEOUT_S):
            await connection.send_packed_command([pack(command)])

    async def _receive(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            reply = await connection.read_response(disconnect_on_error=False)
            self._heard_at = loop.time()
            match reply:
                case [b"message", bytes(channel), bytes(payload)]:
                    self._on_message(channel.decode(), payload)
                case [b"subscribe", bytes(channel), _]:
                    self._confirmed(channel.decode())

    def _confirmed(self, channel: str) -> None:
        # Asked, left and asked again before the first reply: only the last one counts.
        self._unconfirmed[channel] -= 1
        if self._unconfirmed[channel] > 0:
            return
        del self._unconfirmed[channel]
        if channel in self._asked:
            self._live.add(channel)
            self._on_live(channel)
