"""A TCP proxy between two parts of the platform; it stands for a cut or bad network.

Network namespaces would need root and other addresses; a proxy on loopback can do to a connection
what a network does, seen from both ends: refuse it, break it, let it hang, delay it, or carry the
requests and lose the replies.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

LOOPBACK = "127.0.0.1"
_CHUNK = 64 * 1024


class Proxy:
    """Listens on `port` and carries bytes to `target`; carries them faithfully until told."""

    def __init__(self, name: str, *, port: int, target: int) -> None:
        self.name, self.port, self._target = name, port, target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._delay_s = 0.0
        self._mute = False
        self.disturbed = 0
        """Connections broken or refused, and pieces of data held back or lost, ever."""

    async def start(self) -> None:
        """Listen."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)

    async def stop(self) -> None:
        """Close everything."""
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection; new ones are carried."""
        for writer in self._writers:
            writer.transport.abort()
        self.disturbed += len(self._writers)

    async def refuse(self) -> None:
        """Break every connection and refuse new ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.cut()
        if server is not None:
            await server.wait_closed()

    def stall(self) -> None:
        """Carry nothing, and break nothing: connections hang, new ones as well."""
        self._open.clear()

    def slow(self, delay_s: float) -> None:
        """Hold every piece of data back for `delay_s`, each way."""
        self._delay_s = delay_s

    def mute(self) -> None:
        """Carry what clients send and lose what they should get: the work is done, and its
        acknowledgement never comes."""
        self._mute = True

    async def resume(self) -> None:
        """Carry faithfully again. Connections whose replies were lost are broken first."""
        if self._mute:
            self._mute = False
            self.cut()
        self._delay_s = 0.0
        self._open.set()
        await self.start()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._run(self._connect(reader, writer))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._writers.add(writer)
        try:
            await self._open.wait()
            there, towards = await asyncio.open_connection(LOOPBACK, self._target)
            ends.append(towards)
            self._writers.add(towards)
            await _either(
                self._pump(reader, towards, replies=False), self._pump(there, writer, replies=True)
            )
        except OSError:
            writer.transport.abort()
        finally:
            self._writers.difference_update(ends)
            for end in ends:
                await _close(end)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                lost = replies and self._mute
                self.disturbed += lost or bool(self._delay_s) or not self._open.is_set()
                await self._open.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if lost:
                    continue
                writer.write(data)
                await writer.drain()


async def _either(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until one of them ends."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
