"""What commands print: lines of JSON, or tables that people read."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, TypeVar

import msgspec
from rich.table import Table

from iotistica.client import Client
from iotistica.operate.options import Options
from iotistica.tables import rendered

T = TypeVar("T")


def listed(
    options: Options,
    ask: Callable[[Client], AsyncIterator[T]],
    columns: Mapping[str, Callable[[T], object]],
    limit: int | None = None,
) -> None:
    """A line of JSON for each as it comes, or a table of all."""

    async def read(client: Client) -> list[T]:
        kept: list[T] = []
        async for one in first(ask(client), limit):
            if options.json:
                line(one)
            else:
                kept.append(one)
        return kept

    found = options.run(read)
    if not options.json:
        write(table(columns, found))


def rows(options: Options, found: Iterable[Mapping[str, object]], names: Sequence[str]) -> None:
    """A line of JSON for each, or a table of the named members."""
    if options.json:
        for one in found:
            line(one)
    else:
        write(table({name: itemgetter(name) for name in names}, found))


def said(options: Options, document: object, sentence: str) -> None:
    """A line of JSON, or a sentence."""
    if options.json:
        line(document)
    else:
        write(f"{sentence}\n")


def shown(options: Options, one: Any) -> None:
    """A line of JSON, or a line for each field that has a value."""
    if options.json:
        line(one)
        return
    fields = msgspec.to_builtins(one, builtin_types=(datetime,))
    width = max(map(len, fields))
    for name, value in fields.items():
        if value is not None:
            write(f"{name:<{width}} {cell(value)}\n")


def write(text: str) -> None:
    """Print it now: whoever reads through a pipe may have seen enough."""
    sys.stdout.write(text)
    sys.stdout.flush()


def line(one: Any) -> None:
    """One document as a line of JSON."""
    write(msgspec.json.encode(one).decode() + "\n")


def table(columns: Mapping[str, Callable[[T], object]], items: Iterable[T]) -> str:
    """A row for each."""
    drawn = Table(*columns, box=None, pad_edge=False)
    for item in items:
        drawn.add_row(*(cell(read(item)) for read in columns.values()))
    return rendered(drawn) if drawn.row_count else "none\n"


def cell(value: object) -> str:
    """One value. What agents and strangers wrote cannot steer the terminal."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case float():
            return f"{value:g}"
        case str():
            return plain(value)
        case _:
            return plain(msgspec.json.encode(value).decode())


def plain(text: str) -> str:
    """The text on one line, with nothing that a terminal obeys."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


async def first(items: AsyncIterator[T], limit: int | None) -> AsyncIterator[T]:
    """The first `limit` of them, or all."""
    count = 0
    async for one in items:
        yield one
        count += 1
        if count == limit:
            return
