"""Compares what the broker acknowledged with what the table holds, reading by reading."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from iotistica.simulator.ledger import AgentLedger, Malformed, digest
from iotistica.simulator.payloads import widths
from iotistica.simulator.series import Series
from iotistica.store.census import Census, Range
from iotistica.streams import Entry, StreamDepth

_PAGE = 200
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """All in readings; always `stored == sent - lost + doubled` while nothing was malformed."""

    sent: int
    """In messages that the broker acknowledged, copies and malformed ones not counted."""
    stored: int
    """Rows of this run."""
    lost: int
    """Acknowledged, and neither in the table with their value nor, if malformed, dead letters."""
    doubled: int
    """Rows that no reading accounts for: a key twice, a changed value, a time nobody sent."""
    rejected: int
    """In malformed messages that were found among the dead letters."""

    @property
    def clean(self) -> bool:
        """Whether nothing is lost or doubled."""
        return self.lost == 0 and self.doubled == 0


class Letters(Protocol):
    """What the verifier asks of Redis."""

    async def depth(self, tenant: str) -> StreamDepth:
        """How full the tenant's streams are."""

    async def dead_letters(self, tenant: str, *, after: bytes, count: int) -> list[Entry]:
        """Dead letters younger than an id, oldest first."""


class Verifier:
    """Judges one run. `since` is the id of the last dead letter before it."""

    def __init__(
        self, tenant: str, readings: int, *, census: Census, letters: Letters, since: bytes
    ) -> None:
        self._tenant, self._readings = tenant, readings
        self._census, self._letters, self._since = census, letters, since
        self._widths = widths(readings)

    async def wait(self, ledgers: Sequence[AgentLedger], patience_s: float) -> Verdict:
        """The verdict once it is clean, or when nothing has moved for `patience_s`.

        An empty stream is not enough: the broker may still hold what it has acknowledged.
        """
        verdict: Verdict | None = None
        seen, moved_at = (-1, -1), time.monotonic()
        while True:
            depth = await self._letters.depth(self._tenant)
            waiting = depth.lag + depth.pending
            if waiting == 0:
                verdict = await self.compare(ledgers)
                if verdict.clean:
                    return verdict
            state = (waiting, verdict.lost if verdict else -1)
            if state != seen:
                seen, moved_at = state, time.monotonic()
            elif time.monotonic() - moved_at > patience_s:
                return verdict or await self.compare(ledgers)
            await asyncio.sleep(_PAUSE_S)

    async def compare(self, ledgers: Sequence[AgentLedger]) -> Verdict:
        """The verdict as things stand."""
        tallies = [await self._agent(ledger) for ledger in ledgers]
        stored, lost, doubled = (sum(column) for column in zip(*tallies, strict=True))
        found, vanished = await self._malformed(ledgers)
        return Verdict(
            sent=self._readings * sum(len(ledger.sent) for ledger in ledgers),
            stored=stored,
            lost=lost + vanished * self._readings,
            doubled=doubled,
            rejected=found * self._readings,
        )

    async def _agent(self, ledger: AgentLedger) -> tuple[int, int, int]:
        series = Series(ledger.agent, ledger.index)
        names = list(series.metrics)
        ranges = ledger.ranges(len(self._widths))
        # Older ranges may hold late rows of earlier runs; in a live one every row must be ours.
        live = [bounds for bounds in ranges if bounds[0] >= ledger.began_us]
        foreign = set(await self._census.metrics(ledger.agent, live)) - set(names)
        extra = [len(await self._census.rows(ledger.agent, name, live)) for name in foreign]
        stored, lost, doubled = sum(extra), 0, sum(extra)
        for metric, name in enumerate(names):
            rows = await self._census.rows(ledger.agent, name, ranges)
            tally = self._series(series, metric, ledger, rows)
            stored, lost, doubled = stored + tally[0], lost + tally[1], doubled + tally[2]
        return stored, lost, doubled

    def _series(
        self,
        series: Series,
        metric: int,
        ledger: AgentLedger,
        rows: Sequence[tuple[int, float | None]],
    ) -> tuple[int, int, int]:
        missing = ledger.sent.times(self._widths, metric)
        sent = len(missing)
        allowed = ledger.uncertain().times(self._widths, metric)
        doubled = 0
        for time_us, value in rows:
            if time_us in missing and value == series.value(metric, time_us):
                missing.discard(time_us)
            elif time_us not in allowed and time_us >= ledger.began_us:
                doubled += 1
        return sent - len(missing) + doubled, len(missing), doubled

    async def _malformed(self, ledgers: Sequence[AgentLedger]) -> tuple[int, int]:
        """Malformed messages that are dead letters, and those that left no trace."""
        expected = [(ledger, message) for ledger in ledgers for message in ledger.malformed]
        if not expected:
            return 0, 0
        letters = await self._digests()
        found, vanished = 0, 0
        for ledger, message in expected:
            if letters[message.digest]:
                letters[message.digest] -= 1
                found += 1
            elif not await self._left_rows(ledger, message):
                vanished += 1
        return found, vanished

    async def _digests(self) -> Counter[int]:
        digests: Counter[int] = Counter()
        last = self._since
        while page := await self._letters.dead_letters(self._tenant, after=last, count=_PAGE):
            for _, fields in page:
                digests[digest(fields[fields.index(b"data") + 1])] += 1
            last = page[-1][0]
        return digests

    async def _left_rows(self, ledger: AgentLedger, message: Malformed) -> bool:
        """Whether ingestion found something good in it after all."""
        first = message.span.start_us
        bounds: Range = (first, first + message.span.step_us * (len(self._widths) - 1))
        return bool(await self._census.metrics(ledger.agent, [bounds]))
