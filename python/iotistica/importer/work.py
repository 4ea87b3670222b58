"""What `iotistica import` does once its arguments are read."""

from __future__ import annotations

import asyncio
import csv
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from iotistica._native import decode_agent
from iotistica.dlq.choice import Place
from iotistica.dlq.choice import place as chosen_place
from iotistica.errors import ConfigError, IotisticaError
from iotistica.importer.files import File
from iotistica.importer.plan import Plan
from iotistica.importer.run import Import
from iotistica.importer.shape import is_uuid
from iotistica.importer.summary import Summary
from iotistica.settings import Settings
from iotistica.store.pool import open_pool
from iotistica.streams import Streams

_OBJECTS = 200_000


def place(data_dir: Path | None, tenant: str | None) -> Place:
    """The platform and the tenant. Raises `ConfigError`."""
    return chosen_place(data_dir, tenant, stray=False)


def uuid_of(agent: str | None) -> str | None:
    """The agent of `--agent`. Raises `ConfigError`."""
    if agent is None or is_uuid(found := decode_agent(agent)):
        return agent and found
    raise ConfigError(f"--agent {agent[:64]!r} is not a UUID")


def agents_of(path: str | None) -> dict[str, str] | None:
    """UUIDs by name, as the file of `--agents` has them. Raises `ConfigError`."""
    if path is None:
        return None
    agents: dict[str, str] = {}
    with Path(path).open(encoding="utf-8-sig", newline="") as text:
        for number, cells in enumerate(csv.reader(text), 1):
            if not cells:
                continue
            if len(cells) != 2 or not is_uuid(decode_agent(cells[1].strip())):
                raise ConfigError(f"{path}:{number}: is not a name, a comma, and a UUID")
            agents[cells[0]] = cells[1].strip()
    return agents


def delimiter_of(text: str | None) -> str | None:
    """The character of `--delimiter`. Raises `ConfigError`."""
    if text in ("\\t", "tab"):
        return "\t"
    if text is not None and (len(text) != 1 or text in '"\r\n'):
        raise ConfigError(f"--delimiter {text!r} is not one character; tab is a tab")
    return text


async def imported(plan: Plan, settings: Settings) -> tuple[Summary, IotisticaError | None]:
    """Carry a plan out; what was done, and why it ended early. Raises `ConfigError`."""
    files = [File.of(name, plan) for name in plan.files]
    # A portion is 60,000 objects without a cycle; to look for some each 700 took half of the time.
    gc.set_threshold(_OBJECTS)
    streams = Streams.of(settings)
    try:
        pool = await open_pool(settings, application_name="iotistica import")
        try:
            with _meter(files) as (say, show):
                run = Import(plan, settings=settings, pool=pool, streams=streams, say=say)
                _stop_at_signals(run)
                try:
                    return await run.run(files, show), None
                except IotisticaError as error:
                    run.summary.ended = str(error)
                    return run.summary, error
        finally:
            pool.terminate()
    finally:
        await streams.close()


def _stop_at_signals(run: Import) -> None:
    """The first ends the import after what is under way, the second at once."""
    task = asyncio.current_task()

    def stop() -> None:
        if run.stopping and task is not None:
            task.cancel()
        run.stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


@contextmanager
def _meter(
    files: list[File],
) -> Iterator[tuple[Callable[[str], None], Callable[[File, int], None]]]:
    """News on standard error; a progress bar besides, on a terminal alone."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: print(line, file=sys.stderr), lambda _file, _done: None
        return
    bar = Progress(console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    with bar:
        tasks = {file.name: bar.add_task(Path(file.name).name, total=file.bytes) for file in files}

        def say(line: str) -> None:
            bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

        yield say, lambda file, done: bar.update(tasks[file.name], completed=done)
