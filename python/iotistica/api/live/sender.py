"""The way to one client: messages in their order, as fast as it reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import orjson

from iotistica import metrics
from iotistica.api.live.queue import Full, SendQueue
from iotistica.api.live.socket import Gone, Socket
from iotistica.settings import Settings


class Sender:
    """Sends what is put in, and values rendered when their turn comes."""

    def __init__(
        self,
        socket: Socket,
        settings: Settings,
        *,
        render: Callable[[Hashable], bytes | None],
        on_full: Callable[[], None],
    ) -> None:
        """`render` gives the message of a marked value, None where there is none any more."""
        self._socket = socket
        self._write_s = settings.live_write_s
        self._queue = SendQueue(most_bytes=settings.live_queue_bytes)
        self._render = render
        self._on_full = on_full

    def put(self, text: bytes) -> None:
        """Send a message that is ready."""
        try:
            self._queue.put(text)
        except Full:
            self._on_full()

    def mark(self, value: Hashable) -> None:
        """Send a value, as it is when its turn comes."""
        self._queue.mark(value)

    def say(self, message: Mapping[str, Any]) -> None:
        """Send an answer."""
        self.put(orjson.dumps(message))

    def error(self, message: str, *, code: str, channel: str | None = None) -> None:
        """Send what is wrong."""
        named = {} if channel is None else {"channel": channel}
        self.say({"type": "error", "code": code, "message": message, **named})

    async def run(self) -> None:
        """Until the client is gone, or cut off because it takes nothing."""
        while True:
            item = await self._queue.next()
            text = item if isinstance(item, bytes) else self._render(item)
            if text is None:
                continue
            try:
                async with asyncio.timeout(self._write_s):
                    await self._socket.send(text)
            except Gone:
                return
            except TimeoutError:
                metrics.LIVE_CLOSED.labels("slow").inc()
                self._socket.abort()
                return
            metrics.LIVE_MESSAGES.inc()
