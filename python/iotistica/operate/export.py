"""`iotistica export`: readings from the API into a file, whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO
from uuid import UUID

import typer

from iotistica.command import failures, with_options
from iotistica.errors import ConfigError
from iotistica.operate.options import CREDENTIALS, EXIT_CODES, Options

if TYPE_CHECKING:
    from iotistica.api.models.exports import ExportQuery
    from iotistica.client import Client

HELP = (
    "Export readings as CSV, NDJSON, Parquet or an Arrow stream. A file gets its name only "
    "when all of it is there, and replaces one of that name; nothing is left of an export that was "
    "interrupted." + CREDENTIALS + EXIT_CODES
)

_FORMS = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet"}
_FORMS |= {".arrow": "arrow", ".arrows": "arrow"}
_STANDARD = "-"


@with_options(Options)
def export(
    options: Options,
    start: Annotated[
        str, typer.Option("--from", metavar="TIME", help="ISO 8601, or such as 7d-ago.")
    ],
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Left out: now.")] = None,
    agent: Annotated[
        list[UUID] | None, typer.Option(metavar="UUID", help="Again for more; left out: all.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Again for more; left out: all.")
    ] = None,
    resolution: Annotated[str, typer.Option(metavar="LEVEL", help="raw, 1m, 1h or daily.")] = "raw",
    form: Annotated[
        str | None,
        typer.Option("--format", help="csv, ndjson, parquet or arrow; left out: by the name."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="These columns, in this order.")
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="- is standard output.")
    ] = _STANDARD,
) -> None:
    """Write what comes, and say how much it was."""
    from iotistica.api.models.exports import ExportQuery

    with failures(options.json):
        chosen = form or _FORMS.get(Path(output).suffix.lower(), "csv")
        if output == _STANDARD and sys.stdout.isatty() and chosen in ("parquet", "arrow"):
            raise ConfigError(f"--format is {chosen}, which is not for a terminal; give --output")
        query = ExportQuery(
            start=start,
            end=end,
            agent=agent or [],
            metric=metric or [],
            # The API says which there are.
            resolution=resolution,  # type: ignore[arg-type]
            format=chosen,  # type: ignore[arg-type]
            columns=columns.split(",") if columns else [],
        )
        started = time.monotonic()
        with _target(output) as file:
            size = options.run(lambda client: _copy(client, query, file))
    _say(options, output, chosen, size, time.monotonic() - started)


async def _copy(client: Client, query: ExportQuery, file: BinaryIO) -> int:
    size = 0
    async for piece in _shown(client.readings.export(query)):
        file.write(piece)
        size += len(piece)
    return size


async def _shown(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, with how far it is on a terminal. How much there is nobody knows."""
    from rich.console import Console
    from rich.progress import (
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    columns = (SpinnerColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("export", total=None)
        async for piece in pieces:
            progress.advance(bar, len(piece))
            yield piece


@contextmanager
def _target(output: str) -> Iterator[BinaryIO]:
    """Standard output; or a file that gets its name at the end, and is removed otherwise."""
    if output == _STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _say(options: Options, output: str, form: str, size: int, seconds: float) -> None:
    """On standard error where the file is on the other."""
    import msgspec

    place = "standard output" if output == _STANDARD else output
    if options.json:
        summary = {"output": output, "format": form, "bytes": size, "seconds": round(seconds, 3)}
        text = msgspec.json.encode(summary).decode()
    else:
        text = f"{place}: {size:,} bytes of {form} in {seconds:.1f} s"
    typer.echo(text, err=output == _STANDARD)
