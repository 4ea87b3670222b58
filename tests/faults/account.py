"""The comparison of what the broker acknowledged with what the table holds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from tests import books
from tests.faults.load import Marks, since
from tests.faults.rig import Rig

from iotistica import ledger
from iotistica.settings import Settings
from iotistica.simulator.ledger import AgentLedger, digest
from iotistica.simulator.payloads import widths
from iotistica.simulator.series import Series
from iotistica.simulator.verify import Verdict, Verifier
from iotistica.store.census import CensusStore
from iotistica.store.pool import open_pool
from iotistica.streams import Streams

_PAGE = 500
_FATES = (
    *(ledger.STORED, ledger.DUPLICATE, ledger.COLLIDED, ledger.REDELIVERED),
    *(ledger.DROPPED, ledger.REJECTED),
)


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter."""

    digest: int
    agent: str
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the readings of one episode."""

    verdict: Verdict
    pardoned: int
    """Lost, and the fault was allowed to destroy them."""
    at_s: float
    """When the verdict was reached, monotonic."""
    letters: Sequence[Letter]
    differences: Sequence[str]


class Auditor:
    """Compares, over connections of its own that avoid every proxy."""

    def __init__(self, rig: Rig, readings: int, census: CensusStore, streams: Streams) -> None:
        self._tenant, self._readings = rig.tenant, readings
        self._census, self._streams = census, streams

    async def settle(
        self,
        ledgers: list[AgentLedger],
        *,
        after: bytes,
        pardoned: Marks | None = None,
        patience_s: float,
    ) -> Account:
        """Wait until everything is accounted for, or nothing moves for `patience_s`."""
        verifier = Verifier(
            self._tenant, self._readings, census=self._census, letters=self._streams, since=after
        )
        owed = ledgers if pardoned is None else since(ledgers, pardoned)
        verdict = await verifier.wait(owed, patience_s)
        at_s = time.monotonic()
        whole = verdict if pardoned is None else await verifier.compare(ledgers)
        return Account(
            verdict=Verdict(
                sent=whole.sent,
                stored=whole.stored,
                lost=verdict.lost,
                doubled=max(verdict.doubled, whole.doubled),
                rejected=whole.rejected,
            ),
            pardoned=whole.lost - verdict.lost,
            at_s=at_s,
            letters=[letter async for letter in self.letters(after)],
            differences=[] if verdict.clean else await self.differences(owed),
        )

    async def newest(self) -> bytes:
        """Id of the youngest dead letter."""
        return await self._streams.last_dead_letter(self._tenant)

    async def letters(self, after: bytes) -> AsyncIterator[Letter]:
        """Dead letters younger than an id."""
        last = after
        while page := await self._streams.dead_letters(self._tenant, after=last, count=_PAGE):
            last = page[-1][0]
            for _, fields in page:
                named = dict(zip(fields[::2], fields[1::2], strict=True))
                yield Letter(
                    digest(named[b"data"]),
                    *(named[key].decode() for key in (b"agent", b"stage", b"reason")),
                )

    async def differences(self, ledgers: Sequence[AgentLedger]) -> list[str]:
        """Which series miss what and hold what too much."""
        return [line for one in ledgers for line in await self._differences(one)]

    async def _differences(self, account: AgentLedger) -> list[str]:
        series, shape, lines = Series(account.agent, account.index), widths(self._readings), []
        ranges = account.ranges(len(shape))
        for metric, name in enumerate(series.metrics):
            rows = Counter(await self._census.rows(account.agent, name, ranges))
            sent = account.sent.times(shape, metric)
            expected = {(at, series.value(metric, at)) for at in sent}
            allowed = account.uncertain().times(shape, metric)
            missing = [at for at, value in expected if (at, value) not in rows]
            surplus = [
                at
                for (at, value), count in rows.items()
                for _ in range(count - ((at, value) in expected))
                if at not in allowed and at >= account.began_us
            ]
            where = f"agent {account.index} ({account.agent}), metric {name}"
            lines += [f"{where}: {len(missing)} missing, {_stretch(missing)}"] if missing else []
            lines += [f"{where}: {len(surplus)} too many, {_stretch(surplus)}"] if surplus else []
        return lines


def _stretch(times_us: list[int]) -> str:
    first, last = (
        datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="milliseconds")
        for at in (min(times_us), max(times_us))
    )
    return f"from {first} to {last}"


async def imbalance(rig: Rig) -> dict[str, tuple[int, int]]:
    """For each agent, how far the ledger is from its two equations (`iotistica.ledger`): messages
    and readings. Messages in a stream are still to be settled, so ask when all is quiet."""
    found = await books.counts(rig.redis.url, rig.tenant)
    return {
        agent: (
            ledger.count(of, ledger.ACCEPTED)
            - ledger.count(of, ledger.SETTLED)
            - ledger.count(of, ledger.SPOOLED),
            ledger.count(of, ledger.READINGS) - sum(ledger.count(of, fate) for fate in _FATES),
        )
        for agent, of in found.items()
    }


@asynccontextmanager
async def auditor(rig: Rig, readings: int) -> AsyncIterator[Auditor]:
    """An auditor on fresh connections."""
    settings = Settings(database_url=rig.postgres.url, database_pool_size=2)
    pool = await open_pool(settings, application_name="rig")
    streams = Streams(rig.redis.url)
    try:
        yield Auditor(rig, readings, CensusStore(pool), streams)
    finally:
        await streams.close()
        pool.terminate()
