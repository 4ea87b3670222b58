"""One batch of stream entries on its way: encode → commit → settle.

An entry is settled when the last of its messages is committed or has its dead letter, never
before; what fails until then stays pending in Redis and is claimed later.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby

from iotistica import log, metrics
from iotistica._native import Batch, Reject, Waiting
from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable
from iotistica.ingestion import messages
from iotistica.ingestion.encoder import Learned
from iotistica.ingestion.station import Lane
from iotistica.store.pool import is_refusal, is_too_slow, is_transient
from iotistica.streams import DeadLetter, Entry, Settlement

_LOG = log.get(__name__)
_LOOK_UP_PAUSE_S = 0.2


class Stopping(Exception):
    """The process ends; what is in hand stays pending."""


class Delivery:
    """Entries in hand until each is settled. `again`: some rows may be stored already."""

    def __init__(self, lane: Lane, entries: Sequence[Entry], *, again: bool) -> None:
        self._lane = lane
        self._station = lane.station
        self._entries = entries
        self._again = again
        self._letters: dict[bytes, dict[bytes, DeadLetter]] = {entry[0]: {} for entry in entries}
        self._waiting: list[tuple[Entry, Waiting]] = []
        self.readings = 0
        """Readings seen until now."""

    async def store(self) -> None:
        """Commit and settle all that can be decided at once. Raises `Stopping`."""
        await self._round(self._entries, final=False)
        await self._settle()

    async def finish(self) -> None:
        """Go on until no message waits for its agent, its dictionary or room in a batch.

        Raises `Stopping`.
        """
        patience_s = self._station.settings.dictionary_wait_s
        deadline = time.monotonic() + patience_s
        backoff = Backoff(most_s=5.0)
        while self._waiting:
            try:
                learned = await self._lane.encoder.look_up([one for _, one in self._waiting])
            except StoreUnavailable as error:
                _LOG.warning("look-up failed, messages wait", error=str(error))
                await self._hold()
                await self._pause(backoff.next_s())
                continue
            if not self._waits_for_dictionaries_alone():
                # Only now it will show which of the others need a dictionary.
                deadline = time.monotonic() + patience_s
            await self._decide(learned, late=time.monotonic() >= deadline)
            if self._waiting and self._waits_for_dictionaries_alone():
                await self._pause(_LOOK_UP_PAUSE_S)

    def _waits_for_dictionaries_alone(self) -> bool:
        return all(one.needs == "dictionary" for _, one in self._waiting)

    async def _decide(self, learned: Learned, *, late: bool) -> None:
        """Encode again, and only, the messages for which something changed."""
        rounds: dict[bool, list[Entry]] = {True: [], False: []}
        still: list[tuple[Entry, Waiting]] = []
        for entry, one in self._waiting:
            if learned.stranger(one) or (late and one.needs == "dictionary"):
                rounds[True].append(entry)
            elif learned.helps(one):
                rounds[False].append(entry)
            else:
                still.append((entry, one))
        self._waiting = still
        async with self._station.slots:
            for final, entries in rounds.items():
                if entries:
                    await self._round(entries, final=final)
        await self._settle()

    async def _round(self, entries: Sequence[Entry], *, final: bool) -> None:
        batch = await self._lane.encoder.encode(entries, final=final)
        error = await self._commit(batch, divisible=_divisible(entries))
        if error is None:
            self._note(entries, batch)
        elif _divisible(entries):
            metrics.WRITE_FAILURES.labels("divided").inc()
            parts = messages.single(entries)
            middle = len(parts) // 2
            await self._round(parts[:middle], final=final)
            await self._round(parts[middle:], final=final)
        else:
            metrics.WRITE_FAILURES.labels("refused").inc()
            _LOG.error("PostgreSQL refuses a message", error=str(error), entry=entries[0][0])
            self._park(entries[0], 0, messages.refused(entries[0], error, rows=batch.rows))

    def _note(self, entries: Sequence[Entry], batch: Batch) -> None:
        """Keep what a committed batch leaves to do, and count it."""
        self.readings += batch.readings
        metrics.INGESTION_MESSAGES.inc(batch.messages)
        metrics.READINGS_DUPLICATE.inc(batch.duplicates)
        metrics.READINGS_COLLIDED.inc(batch.collisions)
        metrics.READINGS_DROPPED.inc(batch.dropped)
        for reject in (rejects := batch.rejects):
            metrics.READINGS_REJECTED.labels(reject.stage, reject.reason).inc(reject.readings)
        rejects.sort(key=_place)
        for (index, message), group in groupby(rejects, _place):
            entry = entries[index]
            self._park(entry, message, messages.rejected(entry, list(group)))
        self._waiting += [
            (messages.message(entries[one.entry], one.message), one) for one in batch.waiting
        ]

    def _park(self, entry: Entry, message: int, letter: DeadLetter) -> None:
        """Keep the letter of a message until its entry is settled."""
        self._letters[entry[0]][messages.key(entry, message)] = letter

    async def _commit(self, batch: Batch, *, divisible: bool) -> BaseException | None:
        """Commit, however long PostgreSQL is away; an error blames the batch. Raises `Stopping`."""
        backoff = Backoff(most_s=5.0)
        while True:
            try:
                await self._station.writer.commit(batch, again=self._again)
            except Exception as error:
                if is_refusal(error) or (divisible and is_too_slow(error)):
                    return error
                if not (is_transient(error) or isinstance(error, StoreUnavailable)):
                    raise
                metrics.WRITE_FAILURES.labels("transient").inc()
                self._station.trouble("PostgreSQL (readings)", error)
                self._again = True  # the commit may have passed and only its reply got lost
                await self._hold()
                await self._pause(backoff.next_s())
            else:
                self._station.well("PostgreSQL (readings)")
                return None

    async def _settle(self) -> None:
        """Settle the entries of which no message waits."""
        waiting = {entry[0] for entry, _ in self._waiting}
        done = [entry_id for entry_id in self._letters if entry_id not in waiting]
        letters = [letter for entry_id in done for letter in self._letters.pop(entry_id).values()]
        if not done:
            return
        try:
            with metrics.STAGE_SECONDS.labels("settle").time():
                await self._station.streams.settle(
                    self._lane.tenant,
                    Settlement(ids=done, letters=letters),
                    feed=self._lane.feed,
                )
        except StoreUnavailable as error:
            # Perhaps it passed and the reply got lost: to repeat it could double the letters.
            # If it did not, the entries are pending still, and claimed when they are idle.
            self._station.trouble("Redis", error)
            return
        for letter in letters:
            metrics.DEAD_LETTERS.labels(letter.stage).inc()

    async def _hold(self) -> None:
        with suppress(StoreUnavailable):
            await self._station.streams.hold(
                self._lane.tenant,
                self._lane.consumer,
                list(self._letters),
                feed=self._lane.feed,
            )

    async def _pause(self, seconds: float) -> None:
        await self._station.pause(seconds)
        if self._station.stopping.is_set():
            raise Stopping


def _divisible(entries: Sequence[Entry]) -> bool:
    return len(entries) > 1 or len(messages.single(entries)) > 1


def _place(reject: Reject) -> tuple[int, int]:
    return reject.entry, reject.message
