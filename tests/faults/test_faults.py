"""The short set: each fault once, for its shortest time, on one rig; and that the rig can fail."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio
from tests import books
from tests.faults.account import auditor
from tests.faults.episode import Outcome, play
from tests.faults.injections import FAULTS, OPEN
from tests.faults.injections.network import MANNERS
from tests.faults.load import Crew, Load, muster
from tests.faults.rig import LINKS, Options, Rig, running
from tests.faults.run import plan

from iotistica import keys, ledger

OPTIONS = Options()
# Left to the long run: what a test of the same part and manner shows as well.
LONG = {
    *(
        "stop api",
        "stop web",
        "stop control",
        "stop door",
        "one more api",
        "spool bound reached",
        "api spool bound reached",
    ),
    *(f"api-postgres {manner}" for manner in MANNERS),
    *(f"{link} {manner}" for link in LINKS for manner in ("cut", "slow")),
    *("api-broker stalled", "ingestion-redis stalled"),
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Stage:
    """A rig that runs, and its agents."""

    rig: Rig
    crew: Crew

    async def play(self, name: str) -> Outcome:
        try:
            return await play(self.rig, self.crew, FAULTS[name], rng=random.Random(name))
        except BaseException:
            await self.rig.heal()
            raise


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    """One platform for all; at its end nothing may be left running."""
    async with running(OPTIONS) as rig:
        yield Stage(rig, await muster(plan(), rig.target))


def case(name: str) -> object:
    marks = [pytest.mark.skip(reason=why)] if (why := FAULTS[name].lacks(OPTIONS)) else []
    if name in OPEN:
        # Known to fail, after half a minute each.
        marks.append(pytest.mark.xfail(reason=OPEN[name], run=False))
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [case(name) for name in FAULTS if name not in LONG])
async def test_nothing_is_lost_or_doubled(stage: Stage, name: str) -> None:
    outcome = await stage.play(name)
    verdict, pardoned = outcome.account.verdict, outcome.account.pardoned
    assert outcome.wrong == [], "\n".join(outcome.wrong)
    assert verdict.clean
    assert verdict.sent > 1000
    # What is pardoned may be dead letters as well.
    assert 0 <= verdict.sent - verdict.stored <= pardoned


async def test_the_comparison_finds_what_is_lost_changed_and_added(stage: Stage) -> None:
    load = Load(stage.crew)
    async with auditor(stage.rig, stage.crew.plan.readings) as books:
        after = await books.newest()
        load.start()
        await load.more(100)
        ledgers = await load.finish()
        well = await books.settle(ledgers, after=after, patience_s=20.0)
        assert (well.verdict.lost, well.verdict.doubled, well.differences) == (0, 0, [])

        agent, metric = ledgers[2].agent, "co2"
        connection = await stage.rig.sql()
        try:
            rows = await connection.fetch(
                "SELECT time FROM readings WHERE agent_uuid = $1 AND metric_name = $2 "
                "AND value IS NOT NULL ORDER BY time DESC LIMIT 3",
                *(agent, metric),
            )
            gone, changed, copied = (row["time"] for row in rows)
            where = "agent_uuid = $1 AND metric_name = $2 AND time = $3"
            await connection.execute(f"DELETE FROM readings WHERE {where}", agent, metric, gone)
            await connection.execute(
                f"UPDATE readings SET value = value + 1 WHERE {where}", agent, metric, changed
            )
            await connection.execute(
                "INSERT INTO readings SELECT time + '1 microsecond', agent_uuid, metric_name, "
                f"value, quality, unit, protocol FROM readings WHERE {where}",
                *(agent, metric, copied),
            )
        finally:
            await connection.close()
        ill = await books.settle(ledgers, after=after, patience_s=1.0)
    # A changed value is lost, and stands where nobody put it; so is the copy.
    assert (ill.verdict.lost, ill.verdict.doubled) == (2, 2)
    assert ill.verdict.stored == well.verdict.stored
    missing, surplus = ill.differences
    assert missing.startswith(f"agent 2 ({agent}), metric {metric}: 2 missing, from 2")
    assert surplus.startswith(f"agent 2 ({agent}), metric {metric}: 2 too many, from 2")
    assert gone.isoformat(timespec="milliseconds") in missing


async def test_what_a_fault_may_destroy_is_pardoned_and_nothing_else(stage: Stage) -> None:
    load = Load(stage.crew)
    async with auditor(stage.rig, stage.crew.plan.readings) as books:
        after = await books.newest()
        load.start()
        await load.more(60)
        marks = load.marks()
        await load.more(60)
        ledgers = await load.finish()
        await books.settle(ledgers, after=after, patience_s=20.0)
        first, last = (list(ledgers[0].sent)[place].start_us for place in (0, -1))
        connection = await stage.rig.sql()
        try:
            for at_us in (first, last):
                await connection.execute(
                    "DELETE FROM readings WHERE agent_uuid = $1 AND time = to_timestamp($2 / 1e6)",
                    *(ledgers[0].agent, at_us),
                )
        finally:
            await connection.close()
        account = await books.settle(ledgers, after=after, pardoned=marks, patience_s=1.0)
    assert (account.verdict.lost, account.pardoned, account.verdict.doubled) == (5, 5, 0)


async def test_a_process_that_dies_by_itself_is_found(stage: Stage) -> None:
    async def secretly_kill(scene: object) -> None:
        await stage.rig.kill("web")

    fault = replace(FAULTS["nothing"], inject=secretly_kill)
    outcome = await play(stage.rig, stage.crew, fault, rng=random.Random(1))
    assert [sentence.partition(",")[0] for sentence in outcome.wrong] == ["web was replaced"]


async def test_a_ledger_that_does_not_add_up_is_found(stage: Stage) -> None:
    agent = stage.crew.plan.agent(stage.crew.tenant, 3)

    async def cook_the_books(scene: object) -> None:
        async with stage.rig.redis_client() as redis:
            book = keys.ledger(stage.rig.tenant)
            await books.counts(stage.rig.redis.url, stage.rig.tenant)  # none is in the journal
            assert int(await redis.hget(book, ledger.field(agent, ledger.ACCEPTED)) or 0) > 0
            await redis.hincrby(book, ledger.field(agent, ledger.ACCEPTED), 1)
            await redis.hincrby(book, ledger.field(agent, ledger.STORED), -20)

    fault = replace(FAULTS["nothing"], inject=cook_the_books)
    outcome = await play(stage.rig, stage.crew, fault, rng=random.Random(1))
    assert outcome.wrong == [
        f"the ledger of agent {agent} is 1 messages and 20 readings off; it was (0, 0) before"
    ]
