"""`iotistica spool`: what waits on the disks of this machine, whether it is whole, its replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from iotistica.command import DataDir, Json, attached, failures
from iotistica.settings import Settings
from iotistica.spool import inventory, segment
from iotistica.spool.inventory import Holding

EXIT_CODES = "\n\nExit codes: 0 all well, 1 damaged or left over, 2 wrong setting or argument."

app = typer.Typer(help="The disk spools of this machine.", no_args_is_help=True)


@app.command(help="List the spools: segments, bytes, and messages by tenant." + EXIT_CODES)
def ls(data_dir: DataDir = None, json: Json = False) -> None:
    """One line for each process."""
    with failures(json):
        holdings = inventory.holdings(_root(attached(data_dir)))
    if json:
        typer.echo(orjson.dumps({"spools": [_plain(one) for one in holdings]}))
        return
    table = Table("service", "directory", "segments", "bytes", "messages", "damaged", box=None)
    for one in holdings:
        table.add_row(
            *(one.service, str(one.directory), f"{one.segments:,}", f"{one.bytes:,}"),
            *(f"{sum(one.messages.values()):,}", f"{one.quarantined + one.unreadable:,}"),
        )
    Console().print(table)


@app.command(help="Read every segment and check every checksum; changes nothing." + EXIT_CODES)
def verify(data_dir: DataDir = None, json: Json = False) -> None:
    """Name what is damaged, and what of it is whole."""
    with failures(json):
        root = _root(attached(data_dir))
        checked = [_check(path) for path in _tracked(list(inventory.segments(root)), json)]
    damaged = [one for one in checked if one["damage"] is not None]
    if json:
        typer.echo(orjson.dumps({"segments": checked, "damaged": len(damaged)}))
    else:
        for one in damaged:
            typer.echo(
                f"{one['segment']}: {one['damage']}; {len(one['batches'])} batches are whole"
            )
        typer.echo(f"{len(checked)} segments, {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(1)


@app.command(
    help="Bring what waits on disk to where it belongs, as the services do by themselves. "
    "Spools of running processes are left to them." + EXIT_CODES
)
def replay(data_dir: DataDir = None, json: Json = False) -> None:
    """Replay until nothing is left, or nothing moves."""
    with failures(json):
        settings = attached(data_dir)
        before = _waiting(settings)
        asyncio.run(_replay_all(settings, json))
        left = _waiting(settings)
    if json:
        typer.echo(orjson.dumps({"replayed": before - left, "left": left}))
    else:
        typer.echo(f"{before - left} segments replayed, {left} left")
    if left:
        raise typer.Exit(1)


def _root(settings: Settings) -> Path:
    return settings.spool_root("any").parent


def _waiting(settings: Settings) -> int:
    return sum(one.segments for one in inventory.holdings(_root(settings)))


def _plain(holding: Holding) -> dict[str, Any]:
    return {
        "service": holding.service,
        "directory": str(holding.directory),
        "segments": holding.segments,
        "bytes": holding.bytes,
        "quarantined": holding.quarantined,
        "unreadable": holding.unreadable,
        "messages": dict(holding.messages),
    }


def _check(path: Path) -> dict[str, Any]:
    try:
        batches, damage = segment.read(path)
    except FileNotFoundError:  # replayed meanwhile
        batches, damage = [], None
    described = [segment.describe(batch) for batch in batches]
    return {
        "segment": str(path),
        "batches": described,
        "damage": None if damage is None else str(damage),
    }


def _tracked(paths: list[Path], quiet: bool) -> list[Path]:
    """The same with a progress bar, on a terminal."""
    if quiet or not Console(stderr=True).is_terminal:
        return paths
    with Progress(console=Console(stderr=True), transient=True) as progress:
        return list(progress.track(paths, description="reading"))


async def _replay_all(settings: Settings, quiet: bool) -> None:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("replaying", total=_waiting(settings) or None)
        for service in (_api_step, _ingestion_step):
            async with service(settings) as step:
                while await step():
                    bar.advance(task)


Step = Callable[[], Awaitable[bool]]


@asynccontextmanager
async def _ingestion_step(settings: Settings) -> AsyncIterator[Step]:
    from iotistica.ingestion.main import opened

    async with opened(settings, asyncio.Event()) as process:
        yield process.replayer.step


@asynccontextmanager
async def _api_step(settings: Settings) -> AsyncIterator[Step]:
    from iotistica.api.outlet import Outlet
    from iotistica.api.pressure import Pressure
    from iotistica.spool import Spool
    from iotistica.streams import Streams

    streams = Streams.of(settings)
    spool = Spool(settings.spool_root("api"), max_bytes=settings.api_spool_max_bytes)
    pressure = Pressure(settings, streams)
    outlet = Outlet(streams, spool, settings.breaker(), pressure)

    async def step() -> bool:
        await pressure.look()
        return await outlet.replay_some()

    try:
        yield step
    finally:
        spool.close()
        await streams.close()
