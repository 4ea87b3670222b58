"""What the commands do with letters, once their arguments are read."""

from __future__ import annotations

import base64
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import orjson
from rich.console import Console
from rich.progress import Progress

from iotistica.api.again import Again
from iotistica.dictionaries.library import Library
from iotistica.dlq import report
from iotistica.dlq.choice import Place
from iotistica.errors import IotisticaError, NotFound
from iotistica.redrive import Proof, Redrive, Result, Totals, explained
from iotistica.store.pool import open_pool
from iotistica.streams import Filter, Letter, Streams
from iotistica.streams.letters import Page, Summary, portions

_WORKERS = 2


@asynccontextmanager
async def _connected(place: Place) -> AsyncIterator[Streams]:
    streams = Streams.of(place.settings)
    try:
        yield streams
    finally:
        await streams.close()


async def listed(place: Place, where: Filter, *, limit: int, after: str | None) -> Page:
    """The youngest letters that match."""
    async with _connected(place) as streams:
        return await streams.letters.listed(place.tenant, where, limit=limit, after=after)


async def summary(place: Place, where: Filter) -> Summary:
    """Counts of the letters that match."""
    async with _connected(place) as streams:
        return await streams.letters.summary(place.tenant, where)


async def shown(place: Place, letter_id: str) -> tuple[Letter, dict[str, Any]]:
    """One letter and what can be made of it. Raises `NotFound`."""
    async with _connected(place) as streams:
        letter = await streams.letters.get(place.tenant, letter_id)
        if letter is None:
            raise NotFound(f"letter {letter_id} does not exist")
        pool = await open_pool(place.settings, application_name="iotistica-dlq")
        try:
            library = Library.of(place.settings, pool, streams)
            return letter, await explained(letter, library, place.settings)
        finally:
            pool.terminate()


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a replay ended."""

    totals: Totals
    missing: list[str]
    """Ids that were asked for and not found."""
    error: IotisticaError | None
    """Why it ended early; what the totals say is done all the same."""

    @property
    def clean(self) -> bool:
        """Whether every letter passed."""
        bad = self.totals.still_bad + self.totals.failed
        return not bad and not self.missing and self.error is None


async def replayed(place: Place, where: Filter, *, dry_run: bool, as_json: bool) -> Replayed:
    """Replay what matches and tell of each letter; without JSON and in earnest, only of those that
    did not pass.
    """
    totals, missing, failure = Totals(), set(where.ids), None

    def tell(proof: Proof) -> str | None:
        if as_json:
            return orjson.dumps(proof.described()).decode()
        is_news = dry_run or proof.result is not Result.PASSED
        return report.proof(proof, dry_run=dry_run) if is_news else None

    async with _connected(place) as streams, _redrive(place, streams, dry_run) as redrive:
        total = len(where.ids) or await streams.letters.count(place.tenant)
        with _meter("replaying", total) as meter:
            try:
                async for step in redrive.run(place.tenant, where):
                    totals.add(step.proofs)
                    missing -= {proof.id for proof in step.proofs}
                    meter.advance(step.examined)
                    for line in filter(None, map(tell, step.proofs)):
                        meter.say(line)
            except IotisticaError as error:
                failure = error
    return Replayed(totals, [] if failure else sorted(missing), failure)


@asynccontextmanager
async def _redrive(place: Place, streams: Streams, dry_run: bool) -> AsyncIterator[Redrive]:
    pool = await open_pool(place.settings, application_name="iotistica dlq")
    try:
        with ThreadPoolExecutor(_WORKERS, "encode") as executor:
            yield Redrive(
                settings=place.settings,
                pool=pool,
                streams=streams,
                executor=executor,
                families=Again(
                    settings=place.settings, pool=pool, streams=streams, executor=executor
                ),
                dry_run=dry_run,
            )
    finally:
        # Everything is committed or given up; a server that hangs must not hold us.
        pool.terminate()


async def matching(place: Place, where: Filter) -> int:
    """How many letters match."""
    if where.is_empty:
        async with _connected(place) as streams:
            return await streams.letters.count(place.tenant)
    return (await summary(place, where)).letters


async def purged(place: Place, where: Filter) -> int:
    """Remove what matches; how many that were."""
    removed = 0
    async with _connected(place) as streams:
        total = len(where.ids) or await streams.letters.count(place.tenant)
        with _meter("purging", total) as meter:
            upto = await streams.letters.newest(place.tenant)
            async for page, gone in streams.letters.purge(place.tenant, where, upto=upto):
                removed += gone
                meter.advance(page.examined)
    return removed


async def exported(place: Place, where: Filter, output: TextIO) -> int:
    """Write what matches, oldest first, a line of JSON for each; how many."""
    written = 0
    async with _connected(place) as streams:
        letters = streams.letters
        total = len(where.ids) or await letters.count(place.tenant)
        upto = await letters.newest(place.tenant)
        with _meter("exporting", total, beside=output) as meter:
            async for page in letters.pages(place.tenant, where, upto=upto):
                for ids in portions(page.letters):
                    for letter in await letters.whole(place.tenant, ids):
                        output.write(orjson.dumps(whole(letter)).decode() + "\n")
                        written += 1
                meter.advance(page.examined)
    output.flush()
    return written


def whole(letter: Letter) -> dict[str, Any]:
    """A letter with its payload, for JSON."""
    form = [base64.b64encode(part).decode() for part in letter.dead.form]
    payload = base64.b64encode(letter.dead.data).decode()
    return letter.described() | {"payload": payload} | ({"form": form} if form else {})


@contextmanager
def file_of(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there only once it is whole."""
    if path is None:
        yield sys.stdout
        return
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("w", encoding="utf-8") as output:
        yield output
    unfinished.replace(path)


class _Meter:
    """Progress, and lines beside it."""

    def __init__(self, advance: Callable[[int], None], say: Callable[[str], None]) -> None:
        self.advance = advance
        self.say = say


@contextmanager
def _meter(what: str, total: int, *, beside: TextIO | None = None) -> Iterator[_Meter]:
    """A progress bar on a terminal, nothing elsewhere. `beside`: where the data goes; a bar in the
    midst of data helps nobody.
    """
    console = Console(stderr=True)

    def write(line: str) -> None:
        sys.stdout.write(line + "\n")

    if not console.is_terminal or (beside is not None and beside.isatty()):
        yield _Meter(lambda _examined: None, write)
        return
    bar = Progress(console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    with bar:
        task = bar.add_task(what, total=total or None)

        def say(line: str) -> None:
            # On one terminal with the bar, lines must go through it; elsewhere they are data.
            if sys.stdout.isatty():
                bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
            else:
                write(line)

        yield _Meter(lambda examined: bar.advance(task, examined), say)
