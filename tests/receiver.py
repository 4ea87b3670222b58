"""A real HTTP server that receives webhooks, and misbehaves when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Received:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Receiver:
    """Answers with `plan`, one after the other, then 200; a number is a status, None is never."""

    url: str = ""
    plan: list[int | None] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection with one request."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            pairs = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2]]
            headers = {name.decode().lower(): value.decode() for name, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
            self.received.append(Received(headers, body))
            status = self.plan.pop(0) if self.plan else 200
            if status is None:
                await reader.read()  # until the client gives up
            else:
                location = f"location: {self.url}\r\n" if 300 <= status < 400 else ""
                answer = f"HTTP/1.1 {status} So\r\n{location}content-length: 0\r\n\r\n"
                writer.write(answer.encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(*plan: int | None) -> AsyncIterator[Receiver]:
    """A receiver on a free port of the loopback."""
    receiver = Receiver(plan=list(plan))
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield receiver
    finally:
        server.close()
