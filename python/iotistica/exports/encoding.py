"""From rows as PostgreSQL copies them out to the bytes of a file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from iotistica.exports.forms import Form

if TYPE_CHECKING:
    from iotistica.exports.columnar import Columnar

Write: TypeAlias = Callable[[bytes], Awaitable[None]]

_PARSED_BYTES = 2 * 1024 * 1024


class Encoder(Protocol):
    """Takes rows in pieces, each of whole rows, and writes what is ready."""

    async def add(self, rows: bytes) -> None:
        """More rows."""

    async def finish(self) -> None:
        """The end of the file."""


class Text:
    """Lines as they are, behind a header."""

    def __init__(self, header: bytes, write: Write) -> None:
        self._header = header
        self._write = write

    async def add(self, rows: bytes) -> None:
        """Write them."""
        header, self._header = self._header, b""
        await self._write(header + rows)

    async def finish(self) -> None:
        """Write the header, where there was no row."""
        if self._header:
            await self._write(self._header)


class Columns:
    """What pyarrow makes, in a thread: the others of the process go on meanwhile."""

    def __init__(self, columnar: Columnar, write: Write) -> None:
        self._columnar = columnar
        self._write = write
        self._rows = bytearray()

    async def add(self, rows: bytes) -> None:
        """Write what is ready."""
        self._rows += rows
        if len(self._rows) >= _PARSED_BYTES:
            await self._encode()

    async def finish(self) -> None:
        """Write the rest."""
        if self._rows:
            await self._encode()
        await self._write(await asyncio.to_thread(self._columnar.finish))

    async def _encode(self) -> None:
        rows, self._rows = bytes(self._rows), bytearray()
        if ready := await asyncio.to_thread(self._columnar.add, rows):
            await self._write(ready)


def encoder(form: Form, columns: Sequence[str], write: Write) -> Encoder:
    """For one file."""
    if form is Form.CSV:
        return Text(f"{','.join(columns)}\n".encode(), write)
    if form is Form.NDJSON:
        return Text(b"", write)
    from iotistica.exports.columnar import Columnar

    return Columns(Columnar(form, columns), write)
