"""The fleet against a real broker, and the verifier against a real table."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from iotistica import mqtt
from iotistica.errors import ConfigError, StoreUnavailable
from iotistica.settings import Settings
from iotistica.simulator.agent import Clock
from iotistica.simulator.fleet import Fleet
from iotistica.simulator.ledger import AgentLedger, digest
from iotistica.simulator.plan import Format, Plan
from iotistica.simulator.run import provisioned
from iotistica.simulator.target import BrokerFiles, Target, connector, exclusive, from_directory
from iotistica.simulator.verify import Verdict, Verifier
from iotistica.store.migrate import migrate
from iotistica.streams import DeadLetter, Settlement, Streams

READINGS = 12


@pytest.fixture
def target(broker: Any, tenant: str) -> Target:
    """The test broker, with the right to add users to it."""
    directory = broker.server.directory
    return Target(
        tenant=tenant,
        database_url="",
        redis_url="",
        mqtt_url=broker.bridge_url,
        broker=BrokerFiles(
            passwords=directory / "passwords", acl=directory / "acl", pid=broker.server.child.pid
        ),
    )


@dataclass
class Inbox:
    """What a subscriber has received, by topic."""

    session: mqtt.Session
    seen: Counter[tuple[str, bytes]] = field(default_factory=Counter)

    async def until(self, count: int) -> None:
        """Wait until so many messages have come."""
        async with asyncio.timeout(20):
            while self.seen.total() < count:
                messages = await self.session.receive()
                self.seen.update((message.topic, message.payload) for message in messages)
                self.session.acknowledge(messages)


@asynccontextmanager
async def inbox(url: str, topic_filter: str) -> AsyncIterator[Inbox]:
    async with mqtt.connect(mqtt.parse_url(url, client_id="inbox", clean_start=True)) as session:
        await session.subscribe(topic_filter)
        yield Inbox(session)


def topic_of(agent: str, tenant: str, rest: str) -> str:
    def short(identifier: str) -> str:
        raw = bytes.fromhex(identifier.replace("-", ""))
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    return f"i/{short(tenant)}/a/{short(agent)}/{rest}"


def published(seen: Counter[tuple[str, bytes]]) -> Counter[tuple[str, bytes]]:
    return Counter({key: count for key, count in seen.items() if "/endpoints/" in key[0]})


async def test_what_is_acknowledged_has_been_published(broker: Any, target: Target) -> None:
    plan = Plan(agents=3, messages=100, readings=READINGS, duplicates=0.3, malformed=0.2, late=0.2)
    fleet = Fleet(plan, target.tenant)
    connect = await connector(target, [agent.uuid for agent in fleet.agents])
    async with inbox(broker.bridge_url, "i/+/a/+/#") as received:
        ledgers = await fleet.run(connect)
        progress = fleet.progress()
        # A dictionary from each agent comes first.
        await received.until(progress.published + len(ledgers))
    messages = published(received.seen)
    assert messages.total() == progress.published
    assert sum(len(ledger.sent) + len(ledger.malformed) for ledger in ledgers) == 100
    assert all(len(ledger.doubtful) == 0 for ledger in ledgers)
    assert sum(count - 1 for count in messages.values()) == progress.published - 100
    assert [len(ledger.sent) + len(ledger.malformed) for ledger in ledgers] == [34, 33, 33]


async def test_an_agent_publishes_its_dictionary_retained(broker: Any, target: Target) -> None:
    fleet = Fleet(Plan(agents=1, messages=1, form=Format.COMPACT), target.tenant)
    agent = fleet.agents[0].uuid
    await fleet.run(await connector(target, [agent]))
    topic = topic_of(agent, target.tenant, "meta/dictionary")
    async with inbox(broker.bridge_url, topic) as received:
        await received.until(1)
    ((_, payload),) = received.seen
    assert orjson.loads(payload)["format_version"] == 2


async def test_agents_keep_the_pace(target: Target) -> None:
    fleet = Fleet(Plan(agents=4, messages=40, rate=40, readings=READINGS), target.tenant)
    connect = await connector(target, [agent.uuid for agent in fleet.agents])
    began = time.monotonic()
    await fleet.run(connect)
    # The first message leaves at once, the last 39 intervals later.
    assert 0.97 <= time.monotonic() - began < 2.5


async def test_a_duration_ends_the_run(target: Target) -> None:
    fleet = Fleet(Plan(agents=2, duration_s=0.5, rate=100, readings=READINGS), target.tenant)
    ledgers = await fleet.run(await connector(target, [agent.uuid for agent in fleet.agents]))
    assert sum(len(ledger.sent) for ledger in ledgers) == 50


async def test_stop_ends_a_run_without_end(target: Target) -> None:
    fleet = Fleet(Plan(agents=2, rate=200, readings=READINGS), target.tenant)
    connect = await connector(target, [agent.uuid for agent in fleet.agents])

    def stop_soon(progress: Any) -> None:
        if progress.published >= 10:
            fleet.stop()

    ledgers = await fleet.run(connect, stop_soon)
    assert sum(len(ledger.sent) for ledger in ledgers) == fleet.progress().published >= 10
    assert all(len(ledger.doubtful) == 0 for ledger in ledgers)


async def test_a_lost_connection_loses_no_message(broker: Any, target: Target) -> None:
    fleet = Fleet(Plan(agents=1, messages=300, rate=300, readings=READINGS), target.tenant)
    agent = fleet.agents[0]
    connect = await connector(target, [agent.uuid])
    async with inbox(broker.bridge_url, "i/+/a/+/endpoints/#") as received:
        running = asyncio.create_task(fleet.run(connect))
        while agent.acknowledged < 50:
            await asyncio.sleep(0.01)
        # A second session under the same client id ends the first (MQTT 5.0 section 3.1.4).
        async with connect(agent.uuid):
            pass
        (ledger,) = await running
        assert agent.sessions == 2
        assert len(ledger.sent) == 300
        await received.until(300)
        while len(published(received.seen)) < 300:
            await received.until(received.seen.total() + 1)
    assert len(published(received.seen)) == 300


async def test_a_broker_that_is_away_is_one_sentence(tmp_path: Path, tenant: str) -> None:
    target = Target(
        tenant=tenant, database_url="", redis_url="", mqtt_url="mqtt://u:secret@127.0.0.1:1"
    )
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1") as raised:
        await connector(target, ["0e6f3c1e-5b52-5a0e-8e0e-9d6a9b1f7c01"])
    assert "secret" not in str(raised.value)


def test_a_directory_without_a_stack_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no stack runs in {tmp_path}"):
        from_directory(tmp_path)


def test_one_fleet_at_a_time_has_a_seed(tmp_path: Path) -> None:
    with exclusive(tmp_path, "a/b"):
        with exclusive(tmp_path, "other"):
            pass
        with pytest.raises(ConfigError, match="seed a/b"), exclusive(tmp_path, "a/b"):
            pass
    with exclusive(tmp_path, "a/b"):
        pass


# Verification


@dataclass
class Recorder:
    """In the place of a session: keeps what is published, acknowledges at once."""

    payloads: list[tuple[str, bytes]] = field(default_factory=list)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.payloads.append((topic, payload))


@dataclass
class Run:
    """A finished run whose readings stand in the table, written by plain SQL."""

    verifier: Verifier
    ledgers: list[AgentLedger]
    connection: asyncpg.Connection[asyncpg.Record]
    streams: Streams
    malformed: list[bytes]
    tenant: str

    async def verdict(self) -> Verdict:
        return await self.verifier.compare(self.ledgers)


_INSERT = """
INSERT INTO readings (time, agent_uuid, metric_name, value, quality, unit, protocol)
VALUES ($1, $2, $3, $4, 'good', $5, $6)
"""


def rows_of(agent: str, payload: bytes) -> list[tuple[Any, ...]]:
    return [
        (
            datetime.fromisoformat(reading["timestamp"]),
            UUID(agent),
            reading["metric"],
            reading["value"],
            reading["unit"],
            reading["protocol"],
        )
        for part in orjson.loads(payload)["messages"]
        for reading in part["readings"]
    ]


@pytest.fixture
async def finish(
    postgres_url: str, redis_url: str, tenant: str
) -> AsyncIterator[Callable[..., Any]]:
    """Runs a plan, stores what it published, and gives the `Run`."""
    await migrate(postgres_url)
    target = Target(tenant=tenant, database_url=postgres_url, redis_url=redis_url, mqtt_url="")
    connection = await asyncpg.connect(postgres_url)
    streams = Streams(redis_url)
    await streams.ensure_group(tenant)
    async with asyncio.timeout(60):
        stack: list[Any] = []

        async def run(**options: Any) -> Run:
            plan = Plan(**({"agents": 2, "messages": 40, "form": Format.JSON} | options))
            fleet = Fleet(plan, tenant)
            context = provisioned(fleet, plan.readings, target, Settings.load())
            verifier = await context.__aenter__()
            stack.append(context)
            recorders = {agent.uuid: Recorder() for agent in fleet.agents}

            @asynccontextmanager
            async def connect(agent: str) -> AsyncIterator[Recorder]:
                yield recorders[agent]

            ledgers = await fleet.run(connect)
            broken = await store(connection, ledgers, recorders)
            return Run(verifier, ledgers, connection, streams, broken, tenant)

        yield run
        for context in stack:
            await context.__aexit__(None, None, None)
    await streams.close()
    await connection.close()


async def store(
    connection: asyncpg.Connection[asyncpg.Record],
    ledgers: list[AgentLedger],
    recorders: dict[str, Recorder],
) -> list[bytes]:
    """Insert the rows of every good message once; the malformed payloads are returned."""
    rows, broken = set(), []
    for ledger in ledgers:
        bad = {message.digest for message in ledger.malformed}
        for _, payload in recorders[ledger.agent].payloads:
            if digest(payload) in bad:
                broken.append(payload)
            else:
                rows.update(rows_of(ledger.agent, payload))
    days = {(row[0] - datetime(1970, 1, 1, tzinfo=UTC)).days for row in rows}
    await connection.execute("SELECT readings_make_days($1)", sorted(days))
    await connection.executemany(_INSERT, sorted(rows, key=lambda row: row[:3]))
    return broken


async def change(run: Run, statement: str) -> None:
    """Change exactly one row that carries a value and is not late."""
    row = await run.connection.fetchrow(
        "SELECT agent_uuid, metric_name, time FROM readings WHERE value IS NOT NULL "
        "ORDER BY time DESC OFFSET 7 LIMIT 1"
    )
    done = await run.connection.execute(
        f"{statement} WHERE (agent_uuid, metric_name, time) = ($1, $2, $3)", *row
    )
    assert done.endswith(" 1")


async def test_a_table_that_holds_everything_is_clean(finish: Callable[..., Any]) -> None:
    run = await finish(late=0.3, duplicates=0.3)
    assert await run.verdict() == Verdict(sent=2400, stored=2400, lost=0, doubled=0, rejected=0)
    assert (await run.verdict()).clean


@pytest.mark.parametrize("readings", [1, 4, 5, 7, 60])
async def test_messages_of_any_size_are_counted(finish: Callable[..., Any], readings: int) -> None:
    run = await finish(readings=readings)
    sent = 40 * readings
    assert await run.verdict() == Verdict(sent, sent, 0, 0, 0)


async def test_a_deleted_row_is_lost(finish: Callable[..., Any]) -> None:
    run = await finish()
    await change(run, "DELETE FROM readings")
    assert await run.verdict() == Verdict(sent=2400, stored=2399, lost=1, doubled=0, rejected=0)


async def test_a_row_with_another_value_is_lost_and_doubled(finish: Callable[..., Any]) -> None:
    run = await finish()
    await change(run, "UPDATE readings SET value = value + 0.01")
    assert await run.verdict() == Verdict(sent=2400, stored=2400, lost=1, doubled=1, rejected=0)


async def test_a_row_without_its_value_is_lost_and_doubled(finish: Callable[..., Any]) -> None:
    run = await finish()
    await change(run, "UPDATE readings SET value = NULL")
    assert await run.verdict() == Verdict(sent=2400, stored=2400, lost=1, doubled=1, rejected=0)


async def test_a_row_at_another_time_is_lost_and_doubled(finish: Callable[..., Any]) -> None:
    run = await finish()
    await change(run, "UPDATE readings SET time = time - interval '1 microsecond'")
    verdict = await run.verdict()
    assert (verdict.lost, verdict.doubled, verdict.stored) == (1, 1, 2400)


async def test_a_row_under_another_metric_is_lost_and_doubled(finish: Callable[..., Any]) -> None:
    run = await finish()
    await change(run, "UPDATE readings SET metric_name = 'other'")
    assert await run.verdict() == Verdict(sent=2400, stored=2400, lost=1, doubled=1, rejected=0)


async def test_a_key_that_is_there_twice_is_doubled(finish: Callable[..., Any]) -> None:
    run = await finish()
    constraint = await run.connection.fetchval(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'readings'::regclass AND contype = 'p'"
    )
    await run.connection.execute(f"ALTER TABLE readings DROP CONSTRAINT {constraint}")
    await run.connection.execute(
        "INSERT INTO readings SELECT * FROM readings ORDER BY time DESC LIMIT 1"
    )
    assert await run.verdict() == Verdict(sent=2400, stored=2401, lost=0, doubled=1, rejected=0)


async def test_a_lost_late_row_is_found(finish: Callable[..., Any]) -> None:
    run = await finish(late=1.0)
    await run.connection.execute(
        "DELETE FROM readings WHERE time = (SELECT min(time) FROM readings) "
        "AND agent_uuid = (SELECT agent_uuid FROM readings ORDER BY time LIMIT 1)"
    )
    assert await run.verdict() == Verdict(sent=2400, stored=2395, lost=5, doubled=0, rejected=0)


async def test_rows_of_an_earlier_run_do_not_count(finish: Callable[..., Any]) -> None:
    await finish()
    run = await finish()
    assert await run.verdict() == Verdict(sent=2400, stored=2400, lost=0, doubled=0, rejected=0)


async def letter(run: Run, payload: bytes) -> None:
    await run.streams.dead_letter(
        run.tenant,
        [
            DeadLetter(
                data=payload,
                topic="",
                original_id="0-1",
                error="",
                reason="",
                stage="",
                failed_at=datetime.now(UTC),
            )
        ],
    )


async def test_malformed_messages_are_looked_up_among_the_dead_letters(
    finish: Callable[..., Any],
) -> None:
    run = await finish(malformed=0.25)
    count = sum(len(ledger.malformed) for ledger in run.ledgers)
    sent = 2400 - 60 * count
    assert 0 < count < 25
    assert await run.verdict() == Verdict(sent, sent, 60 * count, 0, 0)
    for payload in run.malformed:
        await letter(run, payload)
    assert await run.verdict() == Verdict(sent, sent, 0, 0, 60 * count)


async def test_the_verifier_waits_for_an_empty_stream(finish: Callable[..., Any]) -> None:
    run = await finish()
    entry = await run.streams.add(run.tenant, [b"header", b"payload"])

    async def settle_soon() -> None:
        await run.streams.read(run.tenant, "test", count=1, block_ms=100)
        await run.streams.settle(run.tenant, Settlement(ids=[entry]))

    waiting = asyncio.create_task(run.verifier.wait(run.ledgers, 30.0))
    done, _ = await asyncio.wait([waiting], timeout=0.8)
    assert not done
    await settle_soon()
    assert (await waiting).clean


async def test_the_verifier_gives_up_when_nothing_moves(finish: Callable[..., Any]) -> None:
    run = await finish()
    await change(run, "DELETE FROM readings")
    began = time.monotonic()
    verdict = await run.verifier.wait(run.ledgers, 1.0)
    assert verdict.lost == 1
    assert time.monotonic() - began < 10


def test_a_clock_never_repeats_itself_and_never_runs_ahead() -> None:
    now = 1_790_000_000_000_000
    clock = Clock(now)
    last = now
    for pause_us in (0, 1, 11, 12, 500, 12_000, 61_234_567, 7, 3_600_000_000, 0):
        now += pause_us
        span = clock.span(12, now)
        assert span.start_us > last
        last = span.start_us + 11 * span.step_us
        assert last <= now + 12 * 10


def test_the_fleet_of_a_seed_is_always_the_same(tenant: str) -> None:
    plan = Plan(agents=3, seed="x")
    agents = [plan.agent(tenant, index) for index in range(3)]
    assert agents == [Plan(agents=9, seed="x").agent(tenant, index) for index in range(3)]
    assert not set(agents) & {Plan(agents=9, seed="y").agent(tenant, index) for index in range(9)}
    assert all(UUID(agent).version == 5 for agent in agents)


def test_a_wrong_plan_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"--late is 1.5; a share lies between 0 and 1"):
        Plan(agents=1, late=1.5)
    with pytest.raises(ConfigError, match="exclude each other"):
        Plan(agents=1, late=0.6, malformed=0.6)
    with pytest.raises(ConfigError, match="--rate is 0"):
        Plan(agents=1, rate=0)
