"""Keeps the loss ledger where it survives the loss of Redis, and notices that loss.

Every process runs one; for each tenant the first to come holds the ledger and takes its snapshots
until it stops. Snapshots of a large tenant are taken less often, so that they take at most a
twentieth of the time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from iotistica import ledger, log, metrics
from iotistica.ledger import Counts
from iotistica.store.ledger import LedgerStore, Loss, Record
from iotistica.streams import Ledger
from iotistica.streams.ledger import Page

_LOG = log.get(__name__)

_LEAST_LEASE_S = 30.0
_PAGE_AGENTS = 5000
_MESSAGES = (ledger.ACCEPTED, ledger.SETTLED, ledger.SPOOLED)
_READINGS = (ledger.READINGS, *ledger.OUTCOMES, ledger.LATE)


@dataclass(slots=True)
class _Book:
    """What is remembered of a tenant's ledger while it is ours."""

    ours_until: float = 0.0
    epoch: str = ""
    kept: dict[str, int] = field(default_factory=dict)
    """A hash of what was stored of each agent."""
    due: float = 0.0
    counted_at: float = 0.0
    accepted: int = 0


@dataclass(slots=True)
class _Reading:
    """One reading of a ledger: a hash for each agent, and the sums."""

    prints: dict[str, int] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)

    def add(self, page: Page) -> None:
        prints, total = self.prints, self.total
        for agent, counter, number in page:
            prints[agent] = prints.get(agent, 0) ^ hash((counter, number))
            total[counter] = total.get(counter, 0) + number


class Bookkeeper:
    """Takes the snapshots of one process."""

    def __init__(
        self, streams: Ledger, store: LedgerStore, *, period_s: float, most_share: float = 0.05
    ) -> None:
        self._streams = streams
        self._store = store
        self._period_s = period_s
        self._most_share = most_share
        self._name = secrets.token_hex(8)
        self._books: dict[str, _Book] = {}

    async def run_once(self, tenants: Iterable[str]) -> None:
        """Take the snapshots that are due. Raises `StoreUnavailable`."""
        books = {tenant: self._books.setdefault(tenant, _Book()) for tenant in tenants}
        now, lease_s = time.monotonic(), max(_LEAST_LEASE_S, 4 * self._period_s)
        leased = await self._store.lease(list(books), self._name, seconds=lease_s)
        for tenant, book in books.items():
            known = leased.get(tenant)
            if known is None:
                self._hand_over(tenant)
                continue
            if now > book.ours_until or book.epoch != known:
                book.kept.clear()  # others may have written meanwhile
            book.ours_until = now + lease_s
            # That Redis has lost its data is noticed at once, whatever the next snapshot costs.
            if now < book.due and await self._streams.epoch(tenant) == book.epoch:
                continue
            started = time.monotonic()
            with metrics.LEDGER_SNAPSHOT_SECONDS.time():
                await self._keep(tenant, book)
            took_s = time.monotonic() - started
            book.due = started + max(self._period_s * 0.9, took_s / self._most_share)

    async def close(self) -> None:
        """Leave the ledgers to the other processes. Raises `StoreUnavailable`."""
        await self._store.release(self._name)

    async def _keep(self, tenant: str, book: _Book) -> None:
        """Store what changed since the last snapshot."""
        epoch = await self._epoch(tenant)
        losses = await self._store.begin(tenant, self._name, epoch)
        if losses is None:
            return  # another process holds the ledger by now
        _report(tenant, losses)
        if epoch != book.epoch:
            book.epoch, book.counted_at = epoch, 0.0
            book.kept.clear()
        found = await self._read(tenant, book)
        back = 0
        for start in range(0, len(found.changed), _PAGE_AGENTS):
            page = found.changed[start : start + _PAGE_AGENTS]
            gone = await self._keep_some(tenant, epoch, page, found.total)
            if gone is None:
                return  # lost just now, to another process or with Redis: the next run will tell
            back += gone
            book.kept.update((agent, found.prints[agent]) for agent in page)
        rate = _rate(book, found.total.get(ledger.ACCEPTED, 0))
        _report(
            tenant,
            await self._store.finish(tenant, self._name, epoch, accepted_per_s=rate, back=back),
        )
        _show(tenant, found.total)

    async def _read(self, tenant: str, book: _Book) -> _Reading:
        """Read the ledger once, and keep no more of it than what tells changes."""
        found = _Reading()
        async for page in self._streams.pages(tenant):
            found.add(page)
        numbers = await self._streams.sequences(tenant)
        for agent, text in numbers.items():
            found.prints[agent] = found.prints.get(agent, 0) ^ hash(text)
        for agent in book.kept.keys() - found.prints.keys():
            found.prints[agent] = 0  # it has vanished
        found.changed = [
            agent for agent, mark in found.prints.items() if book.kept.get(agent) != mark
        ]
        return found

    async def _keep_some(
        self, tenant: str, epoch: str, agents: Sequence[str], counters: Collection[str]
    ) -> int | None:
        # What was read page by page may be torn; a snapshot must not be.
        counts = await self._streams.exact(tenant, agents, counters)
        numbers = await self._streams.sequences_of(tenant, agents)
        if await self._streams.epoch(tenant) != epoch:
            return None
        records = {agent: Record(counts[agent], numbers[agent]) for agent in agents}
        return await self._store.keep(tenant, self._name, epoch, records)

    async def _epoch(self, tenant: str) -> str:
        # HSETNX is refused by a Redis that is full; asked first, a ledger that is there is kept.
        return await self._streams.epoch(tenant) or await self._streams.begin(
            tenant, secrets.token_hex(8)
        )

    def _hand_over(self, tenant: str) -> None:
        """Another process shows the tenant's figures from now on."""
        self._books[tenant] = _Book()
        for gauge, counters in (
            (metrics.LEDGER_MESSAGES, _MESSAGES),
            (metrics.LEDGER_READINGS, _READINGS),
        ):
            for counter in counters:
                gauge.remove(tenant, counter)


def _rate(book: _Book, accepted: int) -> float:
    """Messages accepted in a second since the last snapshot."""
    now = time.monotonic()
    since, before = book.counted_at, book.accepted
    book.counted_at, book.accepted = now, accepted
    return max(accepted - before, 0) / (now - since) if since else 0.0


def _show(tenant: str, total: Counts) -> None:
    for counter in _MESSAGES:
        metrics.LEDGER_MESSAGES.labels(tenant, counter).set(ledger.count(total, counter))
    for counter in _READINGS:
        metrics.LEDGER_READINGS.labels(tenant, counter).set(ledger.count(total, counter))


def _report(tenant: str, losses: Iterable[Loss]) -> None:
    for loss in losses:
        metrics.LEDGER_LOSSES.labels(tenant).inc()
        metrics.LEDGER_LOST.labels(tenant).inc(loss.in_flight_at_most)
        metrics.LEDGER_UNSEEN.labels(tenant).inc(loss.unseen_estimate)
        _LOG.error(
            "Redis lost its data",
            tenant=tenant,
            kind=loss.kind,
            in_flight_at_most=loss.in_flight_at_most,
            unseen_estimate=loss.unseen_estimate,
            snapshot_at=loss.snapshot_at.isoformat(),
        )
