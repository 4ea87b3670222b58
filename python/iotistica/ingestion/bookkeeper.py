"""Keeps the loss ledger where it survives the loss of Redis, and notices that loss.

Every process runs one; for each tenant the first to come holds the ledger and takes its snapshots
until it stops. Snapshots of a large tenant are taken less often, so that they take at most a
twentieth of the time.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from iotistica import ledger, log, metrics
from iotistica.ledger import Counts
from iotistica.store.ledger import LedgerStore, Loss, Record
from iotistica.streams import Ledger

_LOG = log.get(__name__)

_LEAST_LEASE_S = 30.0
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
            if now < book.due:
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
        if epoch != book.epoch:
            book.kept.clear()
            book.counted_at = 0.0
        counts = await self._streams.counts(tenant)
        numbers = await self._streams.sequences(tenant)
        # In a thread: a hundred thousand agents would hold up the batches for a second.
        prints, total = await asyncio.to_thread(_digest, counts, numbers, book.kept)
        changed = [agent for agent, mark in prints.items() if book.kept.get(agent) != mark]
        # What was read page by page may be torn; a snapshot must not be.
        exact = await self._streams.exact(tenant, {one: counts.get(one, {}) for one in changed})
        if await self._streams.epoch(tenant) != epoch:
            return  # lost just now: the next snapshot will tell
        losses = await self._store.keep(
            tenant,
            self._name,
            epoch=epoch,
            changed={
                agent: Record(exact.get(agent, {}), numbers.get(agent, "")) for agent in changed
            },
            accepted_per_s=_rate(book, total.get(ledger.ACCEPTED, 0)),
        )
        if losses is None:
            return  # it took so long that another process holds the ledger
        book.epoch, book.kept = epoch, prints
        for loss in losses:
            _report(tenant, loss)
        _show(tenant, total)

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


def _digest(
    counts: Mapping[str, Counts], numbers: Mapping[str, str], agents: Iterable[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """A hash of what there is of each agent, also of `agents` that have vanished; the total."""
    prints = {
        agent: hash((frozenset(counts.get(agent, {}).items()), numbers.get(agent)))
        for agent in {*counts, *numbers, *agents}
    }
    return prints, ledger.added(*counts.values())


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


def _report(tenant: str, loss: Loss) -> None:
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
