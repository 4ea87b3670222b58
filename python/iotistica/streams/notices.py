"""Notices between processes that something they remember has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import RedisError

from iotistica import log
from iotistica.backoff import Backoff
from iotistica.streams.client import connect, execute, unavailable

_LOG = log.get(__name__)
_TIMEOUT_S = 2.0
_PING_S = 5.0


class Notices:
    """One channel. Delivery is at most once: whoever remembers needs an expiry besides."""

    def __init__(self, url: str, channel: str) -> None:
        self._url = url
        self._channel = channel
        self._sender = connect(url, timeout_s=_TIMEOUT_S)

    async def send(self, notice: str) -> None:
        """Tell every process, this one too. Raises `StoreUnavailable`."""
        with unavailable("tell of a change"):
            await execute(self._sender, "PUBLISH", self._channel, notice)

    async def receive(
        self, on_notice: Callable[[str], None], on_gap: Callable[[], None], heard: asyncio.Event
    ) -> None:
        """Hand over notices until it is cancelled; `heard` is set while it listens.

        `on_gap` is called whenever notices may have been missed: at each new connection.
        """
        backoff = Backoff(first_s=0.1)
        while True:
            try:
                await self._listen(on_notice, on_gap, heard, backoff)
            except (RedisError, OSError, TimeoutError) as error:
                heard.clear()
                _LOG.warning("no notices of changes come from Redis", error=str(error))
                await asyncio.sleep(backoff.next_s())

    async def close(self) -> None:
        """Close the connection of the sender."""
        await self._sender.aclose()

    async def _listen(
        self,
        on_notice: Callable[[str], None],
        on_gap: Callable[[], None],
        heard: asyncio.Event,
        backoff: Backoff,
    ) -> None:
        client = connect(self._url, timeout_s=_TIMEOUT_S)
        subscriber = client.pubsub()
        try:
            await subscriber.subscribe(self._channel)
            is_asked = False
            while True:
                message = await subscriber.get_message(timeout=_PING_S)
                if message is not None:
                    is_asked = False
                match message:
                    case {"type": "subscribe"}:
                        on_gap()
                        heard.set()
                        backoff.reset()
                    case {"type": "message", "data": bytes(data)}:
                        on_notice(data.decode(errors="replace"))
                    case None if is_asked:
                        raise ConnectionError("Redis answers no more")
                    case None:
                        # A connection may die without a word.
                        await subscriber.ping()
                        is_asked = True
        finally:
            with suppress(RedisError, OSError):
                await subscriber.aclose()  # type: ignore[no-untyped-call]
            await client.aclose()
