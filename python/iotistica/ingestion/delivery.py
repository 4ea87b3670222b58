"""One batch of stream entries on its way: encode → commit → settle.

An entry is settled when the last of its messages is committed, has its dead letter, moved to the
backfill stream or is parked, or when the entry is on disk; never before. What fails until then
stays where it came from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby

from iotistica import log, metrics
from iotistica._native import Batch, Reject, Waiting
from iotistica.backoff import Backoff
from iotistica.dictionaries import Wanted
from iotistica.encoder import Learned, wanted
from iotistica.errors import DatabaseUnavailable, StoreUnavailable
from iotistica.ingestion import messages, tally
from iotistica.ingestion.origin import FromStream, Origin
from iotistica.ingestion.station import Lane
from iotistica.ingestion.tally import Book
from iotistica.keys import Feed
from iotistica.spool import SpoolFull
from iotistica.store.pool import is_outage, is_refusal, is_too_slow, is_transient
from iotistica.streams import DeadLetter, Entry

_LOG = log.get(__name__)
_occasional = log.Occasional(_LOG)
_FULL_PAUSE_S = 1.0
DATABASE = "PostgreSQL (readings)"


class Stopping(Exception):
    """The process ends; what is in hand stays pending."""


class Away(Exception):
    """PostgreSQL is not to be asked now; the entries wait on disk."""


class Failure(Exception):
    """PostgreSQL does not take a batch, and the batch is to blame."""

    def __init__(self, reason: str, error: BaseException, attempts: int) -> None:
        super().__init__(str(error) or type(error).__name__)
        self.reason = reason
        self.attempts = attempts


class Delivery:
    """Entries in hand until each is settled. `again`: some rows may be stored already."""

    def __init__(
        self, lane: Lane, entries: Sequence[Entry], *, again: bool, origin: Origin | None = None
    ) -> None:
        self._lane = lane
        self._station = lane.station
        self._origin = origin or FromStream(lane)
        self._entries = {entry[0]: entry for entry in entries}
        """Those that are not settled."""
        self._again = again
        self._books: dict[bytes, Book] = {}
        self._waiting: list[tuple[Entry, Waiting]] = []
        self.readings = 0
        """Readings seen until now."""

    async def store(self) -> None:
        """Commit and settle all that can be decided at once. Raises `Stopping`."""
        while self._entries:
            self._waiting = []
            self._books = {entry_id: Book() for entry_id in self._entries}
            try:
                await self._round(list(self._entries.values()), final=False)
                await self._settle()
            except Away:
                await self._put_away()
            else:
                return

    async def finish(self) -> None:
        """Go on until no message waits for its agent, its dictionary or room in a batch.

        Raises `Stopping`.
        """
        backoff = Backoff(most_s=5.0)
        while self._waiting:
            try:
                await self._decide(await self._look_up())
            except StoreUnavailable as error:
                _occasional.warning("look-up failed, messages wait", error=str(error))
                await self._origin.hold(list(self._entries))
                await self._pause(backoff.next_s())
            except Away:
                await self._put_away()
                async with self._station.slots:
                    await self.store()

    async def _look_up(self) -> Learned:
        try:
            return await self._lane.encoder.look_up([one for _, one in self._waiting])
        except DatabaseUnavailable as error:
            self._fail(error)
            if not self._station.breaker.is_closed:
                raise Away from None
            raise

    async def _decide(self, learned: Learned) -> None:
        """Encode again the messages for which something changed; park the others."""
        rounds: dict[bool, list[Entry]] = {True: [], False: []}
        for entry, one in self._waiting:
            if learned.helps(one):
                rounds[False].append(entry)
            elif learned.stranger(one) or not self._park(entry, wanted(one)):
                rounds[True].append(entry)
        self._waiting = []
        async with self._station.slots:
            for final, entries in rounds.items():
                if entries:
                    await self._round(entries, final=final)
        await self._settle()

    def _park(self, entry: Entry, wanted: Wanted) -> bool:
        """Let a message wait for its dictionary elsewhere, where there is room for it."""
        tenant = self._lane.tenant
        if not self._station.attendant.admits(tenant, size=sum(map(len, entry[1]))):
            return False
        self._books[entry[0]].parked.setdefault(wanted, []).extend(entry[1])
        metrics.PARKED.labels(tenant).inc()
        return True

    async def _round(self, entries: Sequence[Entry], *, final: bool) -> None:
        batch = await self._lane.encoder.encode(
            entries, final=final, divert=self._origin.diverts and not final
        )
        parts = messages.single(entries) if len(entries) == 1 else entries
        try:
            inserted = await self._commit(batch, is_single=len(parts) == 1)
        except Failure as failure:
            if len(parts) > 1:
                metrics.WRITE_FAILURES.labels("divided").inc()
                parts = messages.single(entries)
                middle = len(parts) // 2
                await self._round(parts[:middle], final=final)
                await self._round(parts[middle:], final=final)
            else:
                self._condemn(entries[0], batch, failure)
            return
        tally.count(
            self._books,
            entries,
            batch,
            inserted,
            again=self._again,
            late=self._lane.feed is Feed.BACKFILL,
        )
        self._note(entries, batch)

    def _condemn(self, entry: Entry, batch: Batch, failure: Failure) -> None:
        """A single message, and PostgreSQL does not take it."""
        metrics.WRITE_FAILURES.labels(failure.reason).inc()
        _LOG.error("PostgreSQL refuses a message", error=str(failure), entry=entry[0])
        letter = messages.refused(
            entry,
            failure,
            reason=failure.reason,
            attempts=failure.attempts,
            readings=batch.readings,
        )
        self._keep_letter(entry, 0, letter)
        tally.refuse(self._books[entry[0]], letter, batch)
        self._station.alarm.decided(self._lane.tenant, messages=1, dead=1)

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
        dead = 0
        for (index, message), group in groupby(rejects, _place):
            entry = entries[index]
            self._keep_letter(entry, message, messages.rejected(entry, list(group)))
            dead += 1
        self._station.alarm.decided(self._lane.tenant, messages=batch.messages, dead=dead)
        for one in batch.waiting:
            entry = messages.message(entries[one.entry], one.message)
            if one.needs == "backfill":
                metrics.DIVERTED.inc()
                self._books[entry[0]].backfill += entry[1]
            else:
                self._waiting.append((entry, one))

    def _keep_letter(self, entry: Entry, message: int, letter: DeadLetter) -> None:
        """Keep the letter of a message until its entry is settled."""
        self._books[entry[0]].letters[messages.key(entry, message)] = letter

    async def _commit(self, batch: Batch, *, is_single: bool) -> dict[str, int] | None:
        """Rows inserted by agent, None for all. Raises `Failure`, `Away`, `Stopping`.

        A batch is to blame for what PostgreSQL says about its data; for anything else only when it
        failed several times while PostgreSQL took other batches in between. Never for an outage:
        with few connections left, some batches pass while the same ones fail again and again.
        """
        breaker, backoff = self._station.breaker, Backoff(most_s=5.0)
        attempts, passed = 0, -1
        while batch.copy.rows:
            if not breaker.permits():
                raise Away
            try:
                inserted = await self._station.writer.commit(batch, again=self._again)
            except Exception as error:
                if is_refusal(error):
                    breaker.succeeded()
                    raise Failure("refused_by_database", error, attempts) from None
                if not (is_transient(error) or isinstance(error, StoreUnavailable)):
                    breaker.failed()
                    raise
                self._fail(error)
                self._again = True  # the commit may have passed and only its reply got lost
                attempts += breaker.passed > passed and not is_outage(error)
                passed = breaker.passed
                if attempts >= self._station.settings.max_insert_attempts or (
                    is_too_slow(error) and not is_single
                ):
                    raise Failure("insert_failed", error, attempts) from None
                await self._origin.hold(list(self._entries))
                await self._pause(backoff.next_s())
            else:
                breaker.succeeded()
                self._station.well(DATABASE)
                return inserted
        return None

    def _fail(self, error: BaseException) -> None:
        metrics.WRITE_FAILURES.labels("transient").inc()
        self._station.breaker.failed()
        self._station.trouble(DATABASE, error)

    async def _put_away(self) -> None:
        """Make what is in hand safe on disk; returns when it is, or when PostgreSQL may be asked
        again. Raises `Stopping`.
        """
        while True:
            try:
                settlement = await self._origin.put_away(
                    list(self._entries.values()), again=self._again
                )
                break
            except SpoolFull as error:
                # Nothing is deleted to make room: reading stops here, and Redis holds the rest.
                _occasional.warning("the spool is full, entries wait in Redis", error=str(error))
                await self._origin.hold(list(self._entries))
                await self._pause(_FULL_PAUSE_S)
                if not self._station.breaker.retry_after_s():
                    return
        if settlement is not None:
            metrics.SPOOLED_ENTRIES.inc(len(self._entries))
            await self._until_redis_answers(lambda: self._origin.settle_as(settlement))
        self._entries, self._books, self._waiting = {}, {}, []

    async def _settle(self) -> None:
        """Settle the entries of which no message waits."""
        waiting = {entry[0] for entry, _ in self._waiting}
        done = {entry_id: book for entry_id, book in self._books.items() if entry_id not in waiting}
        if not done:
            return
        with metrics.STAGE_SECONDS.labels("settle").time():
            await self._until_redis_answers(lambda: self._origin.settle(done))
        for entry_id, book in done.items():
            del self._books[entry_id], self._entries[entry_id]
            for letter in book.letters.values():
                metrics.DEAD_LETTERS.labels(letter.stage).inc()

    async def _until_redis_answers(self, call: Callable[[], Awaitable[object]]) -> None:
        """Repeat a settlement: it does nothing the second time. Raises `Stopping`."""
        backoff = Backoff(most_s=5.0)
        while True:
            try:
                await call()
            except StoreUnavailable as error:
                self._station.trouble("Redis", error)
                await self._pause(backoff.next_s())
            else:
                return

    async def _pause(self, seconds: float) -> None:
        await self._station.pause(seconds)
        if self._station.stopping.is_set():
            raise Stopping


def _place(reject: Reject) -> tuple[int, int]:
    return reject.entry, reject.message
