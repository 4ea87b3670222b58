"""Imports files: lines to messages, messages to rows, rows into the table.

The order is the promise. Rows are committed as ingestion commits them, with the marks of their
rollups; then what was done is counted in the loss ledger, and dead letters are written, in one
step. Whatever ends an import, it can be run again: rows that are there stay as they are.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from iotistica._native import Reject
from iotistica.errors import ConfigError
from iotistica.importer.commitment import Committer, Done
from iotistica.importer.files import File
from iotistica.importer.letters import Postbox
from iotistica.importer.plan import OnError, Plan
from iotistica.importer.readers import lines
from iotistica.importer.refusal import Refusal, Refused, Unfit
from iotistica.importer.shape import Line, Message, Shaper
from iotistica.importer.summary import Summary
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool, unavailable
from iotistica.store.tenants import tenant_ids
from iotistica.streams import Streams

_MOST = 20_000
_BYTES = 16 << 20
_FIELD = re.compile(r'field "?([\w.]+)')
_COLUMNS = {"timestamp": "time", "metric": "metric_name", "deviceName": "device_name"}


class Stopped(Exception):
    """The import ends here."""


@dataclass(slots=True)
class Portion:
    """What is decided together."""

    messages: list[Message] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    strangers: set[str] = field(default_factory=set)
    """Agents met for the first time."""
    lines: int = 0
    is_last: bool = False


class Import:
    """One import. `say` gets news for people."""

    def __init__(
        self,
        plan: Plan,
        *,
        settings: Settings,
        pool: Pool,
        streams: Streams,
        say: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._pool = pool
        self._streams = streams
        self._say = say
        self._most = _MOST if plan.rate is None else max(1, min(_MOST, int(plan.rate)))
        self._committer = Committer(plan.tenant, settings=settings, pool=pool, say=say)
        self._postbox = Postbox(plan.tenant, streams)
        self._shaper = Shaper(plan)
        self._next_s = 0.0
        self.stopping = False
        """To be set by who wants it to end after what is under way."""
        self.summary = Summary(dry_run=plan.dry_run)

    async def run(self, files: Sequence[File], show: Callable[[File, int], None]) -> Summary:
        """Import files in turn; `show` is told how many bytes are read.

        Raises `ConfigError`, `StoreUnavailable`, `Damaged`; what the summary says is done.
        """
        started_s = self._next_s = time.monotonic()
        try:
            await self._check()
            for file in files:
                await self._file(file, show)
                self.summary.files += 1
        except Stopped as stopped:
            self.summary.ended = str(stopped)
        finally:
            self.summary.seconds = time.monotonic() - started_s
            self.summary.texts = self._shaper.texts
        return self.summary

    async def _check(self) -> None:
        """Find out now what would refuse every line. Raises `ConfigError`."""
        plan = self._plan
        with unavailable("look up the tenant"):
            if plan.tenant not in await tenant_ids(self._pool):
                raise ConfigError(f"--tenant {plan.tenant!r} does not exist")
        asked = [] if plan.agent is None else [plan.agent]
        if len(await AgentStore(self._pool).agents_of(plan.tenant, asked)) < len(asked):
            raise ConfigError(f"--agent {plan.agent} is not one of tenant {plan.tenant!r}")
        if plan.on_error is OnError.LETTERS and not plan.dry_run:
            await self._postbox.look()

    async def _file(self, file: File, show: Callable[[File, int], None]) -> None:
        with (
            file.opened() as (content, raw),
            closing(lines(file, content, self._plan)) as found,
        ):
            while True:
                portion = await asyncio.to_thread(self._fill, file, found)
                await self._decide(file, portion)
                if portion.is_last:
                    # Readers may have closed it.
                    return show(file, file.bytes or 0)
                show(file, raw.tell() if raw.seekable() else 0)
                await self._pace(len(portion.messages))
                if self.stopping:
                    raise Stopped("interrupted")

    def _fill(self, file: File, found: Iterator[Line | Refusal]) -> Portion:
        """The next messages; with `OnError.STOP` they end before the first line that is unfit."""
        portion, size = Portion(strangers=self._shaper.strangers), 0
        is_careful = self._plan.on_error is OnError.STOP
        for line in found:
            portion.lines += 1
            size += self._take(file, line, portion)
            if (portion.refused and is_careful) or self._is_full(portion, size):
                break
        else:
            portion.is_last = True
        self._shaper.strangers = set()
        return portion

    def _take(self, file: File, line: Line | Refusal, portion: Portion) -> int:
        """Add what a line holds; bytes."""
        if isinstance(line, Refusal):
            portion.refused.append(Refused(line, None, None))
            return 0
        size = 0
        self.summary.ignored.update(line.layout.ignored)
        try:
            for one in self._shaper.messages(line):
                if isinstance(one, Unfit):
                    portion.refused.append(Refused(one.at(file.name, line.number), line, None))
                else:
                    portion.messages.append(one)
                    size += len(one.payload)
        except Unfit as unfit:
            portion.refused.append(Refused(unfit.at(file.name, line.number), line, None))
        return size

    def _is_full(self, portion: Portion, size: int) -> bool:
        most = self._most
        return len(portion.messages) >= most or portion.lines >= most or size >= _BYTES

    async def _decide(self, file: File, portion: Portion) -> None:
        """Commit what is good, count, and write dead letters. Raises `Stopped`."""
        messages, refused = portion.messages, portion.refused
        if portion.strangers:
            await self._committer.learn(portion.strangers)
        batch = await self._committer.encode(messages)
        rejects = batch.rejects
        if rejects and self._plan.on_error is OnError.STOP:
            first = min(rejects, key=lambda one: one.message)
            refused = [_rejected(file, messages[first.message], first)]
            messages = messages[: first.message]
            portion.lines = len({one.line.number for one in messages}) + 1
            batch = await self._committer.encode(messages)
        else:
            refused += [_rejected(file, messages[one.message], one) for one in rejects]
        done = Done()
        if self._plan.dry_run:
            done.add(batch, None)
        else:
            await self._committer.commit(messages, batch, done)
            refused += [_refused(file, message, error) for message, error in done.refused]
        await self._settle(portion.lines, done, refused)

    async def _settle(self, lines: int, done: Done, refused: Sequence[Refused]) -> None:
        """Count, in the ledger too, and tell of what is refused. Raises `Stopped`."""
        summary = self.summary
        if not self._plan.dry_run:
            kept = refused if self._plan.on_error is OnError.LETTERS else ()
            summary.letters += await self._postbox.put(kept, done.counts)
        summary.lines += lines
        summary.stored += done.stored
        summary.duplicate += done.duplicate
        summary.collided += done.collided
        for one in refused:
            if summary.refuse(one.refusal):
                self._say(str(one.refusal))
        summary.readings = summary.stored + summary.duplicate + summary.refused
        if refused and self._plan.on_error is OnError.STOP:
            raise Stopped("a line was refused, and --on-error is stop")

    async def _pace(self, readings: int) -> None:
        """Wait as long as `rate` wants it."""
        if self._plan.rate is not None:
            now_s = time.monotonic()
            # What was slow is not made up for: that would be a burst.
            self._next_s = max(self._next_s, now_s - 1) + readings / self._plan.rate
            await asyncio.sleep(max(0.0, self._next_s - now_s))


def _rejected(file: File, message: Message, reject: Reject) -> Refused:
    """What the normalizer refuses, with the column that it means."""
    line = message.line
    found = _FIELD.match(reject.detail)
    name = found.group(1) if found else None
    at: int | None = message.value_at
    if reject.reason == "unknown_agent":
        at = line.layout.agent
    elif name != "value":
        at = _column(line, _COLUMNS.get(name or "", name))
    return Refused(
        Refusal(
            file=file.name,
            line=line.number,
            column=None if at is None else line.layout.header[at],
            value=None if at is None else line.cells[at],
            reason=reject.reason,
            rule=reject.detail,
        ),
        line,
        message,
        reject,
    )


def _column(line: Line, name: str | None) -> int | None:
    layout = line.layout
    if name == "time":
        return layout.time
    if name == "metric_name":
        return layout.metrics[0][1]
    named = {other: at for other, _, at in layout.converted} | dict(layout.others)
    return named.get(name or "", layout.extra)


def _refused(file: File, message: Message, error: str) -> Refused:
    """What PostgreSQL refuses."""
    refusal = Refusal(
        file=file.name,
        line=message.line.number,
        column=None,
        value=None,
        reason="refused_by_database",
        rule=error,
    )
    return Refused(refusal, message.line, message)
