"""Dead letters replayed against a real PostgreSQL and Redis, on both storage profiles."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest
import redis.asyncio
from tests.dictionaries import NAMES, learn

from iotistica import keys, ledger
from iotistica._native import format_topic
from iotistica.api.again import Again
from iotistica.errors import BadRequest, StoreUnavailable
from iotistica.redrive import Proof, Redrive, Result, Step, Totals
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.dictionaries import DictionaryStore
from iotistica.store.pool import Pool
from iotistica.streams import DeadLetter, Filter, Letter, Streams
from iotistica.streams.letters import Letters

START_MS = time.time_ns() // 1_000_000 - 3_600_000
FAILED = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Office:
    """One tenant's dead letters, and what replays them."""

    def __init__(
        self,
        tenant: str,
        *,
        pool: Pool,
        streams: Streams,
        raw: redis.asyncio.Redis,
        executor: ThreadPoolExecutor,
    ) -> None:
        self.tenant = tenant
        self.agent = str(uuid.uuid4())
        self.pool = pool
        self.streams = streams
        self.letters: Letters = streams.letters
        self.raw = raw
        self.executor = executor
        self.settings = Settings()

    async def register(self, *agents: str) -> None:
        store = AgentStore(self.pool)
        await store.ensure_tenant(self.tenant)
        await store.add_agents(self.tenant, [(agent, "test") for agent in agents or [self.agent]])

    async def learn(self, **parts: Any) -> None:
        await learn(self.pool, self.streams, self.tenant, self.agent, **parts)

    async def known(self) -> dict[int, list[str]]:
        """Names in the agent's dictionaries by version; of two of the same, the last one."""
        kept = await DictionaryStore(self.pool).shelf(self.tenant, self.agent)
        return {
            one.dictionary.version: list(one.dictionary.fields.values()) for one in reversed(kept)
        }

    def dead(self, data: bytes, **changes: Any) -> DeadLetter:
        """A letter of the agent, received an hour ago."""
        return dataclasses.replace(
            DeadLetter(
                data=data,
                topic=format_topic(self.tenant, self.agent, "endpoints/modbus").encode(),
                original_id=f"{START_MS + 9}-7",
                error="as it was",
                reason="unknown_agent",
                stage="topic",
                failed_at=FAILED,
                agent=self.agent,
                received_ms=START_MS,
            ),
            **changes,
        )

    async def park(self, *letters: DeadLetter, tenant: str | None = None) -> list[str]:
        """Write letters; their ids."""
        tenant = tenant or self.tenant
        before = await self.letters.newest(tenant)
        await self.streams.dead_letter(tenant, letters)
        page = await self.letters.page(tenant, Filter(), after=before)
        return [letter.id for letter in page.letters]

    async def left(self, tenant: str | None = None) -> list[Letter]:
        """Letters that are there, whole."""
        tenant = tenant or self.tenant
        page = await self.letters.page(tenant, Filter())
        return await self.letters.whole(tenant, [letter.id for letter in page.letters])

    def redrive(self, *, dry_run: bool = False) -> Redrive:
        return Redrive(
            settings=self.settings,
            pool=self.pool,
            streams=self.streams,
            executor=self.executor,
            families=Again(
                settings=self.settings,
                pool=self.pool,
                streams=self.streams,
                executor=self.executor,
            ),
            dry_run=dry_run,
        )

    async def steps(
        self, where: Filter | None = None, *, dry_run: bool = False, **options: Any
    ) -> list[Step]:
        options = {"tenant": self.tenant, **options}
        run = self.redrive(dry_run=dry_run).run(where=where or Filter(), **options)
        return [step async for step in run]

    async def replay(self, where: Filter | None = None, **options: Any) -> list[Proof]:
        return [proof for step in await self.steps(where, **options) for proof in step.proofs]

    async def rehearse(self, where: Filter | None = None, **options: Any) -> list[Proof]:
        return await self.replay(where, dry_run=True, **options)

    async def ledger(self, tenant: str | None = None) -> dict[str, int]:
        counts = await self.raw.hgetall(keys.ledger(tenant or self.tenant))
        return {name.decode(): int(count) for name, count in counts.items()}


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def office(
    tenant: str,
    pool: Pool,
    streams: Streams,
    raw: redis.asyncio.Redis,
    executor: ThreadPoolExecutor,
) -> Office:
    return Office(tenant, pool=pool, streams=streams, raw=raw, executor=executor)


def reading(number: int, value: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"metric": "m", "value": value, "timestamp": START_MS + number, **more}


def payload(*readings: dict[str, Any]) -> bytes:
    return orjson.dumps({"messages": [{"deviceName": "d", "readings": list(readings)}]})


async def rows(connection: asyncpg.Connection) -> list[tuple[int, float]]:
    found = await connection.fetch("SELECT time, value FROM readings ORDER BY time, metric_name")
    return [(round(row["time"].timestamp() * 1000) - START_MS, row["value"]) for row in found]


def balanced(counts: dict[str, int]) -> bool:
    """The two equations of the ledger, summed over agents; nothing is spooled or in a stream."""
    sums: Counter[str] = Counter()
    for name, count in counts.items():
        _, counter, _ = ledger.parse(name)
        sums[counter] += count
    done = ("stored", "duplicate", "collided", "redelivered", "dropped", "rejected")
    return sums["accepted"] == sums["settled"] and sums["readings"] == sum(
        sums[counter] for counter in done
    )


def figures(proof: Proof) -> tuple[Result, int, int, int]:
    return proof.result, proof.inserted, proof.duplicate, proof.rejected


async def test_a_letter_of_an_agent_that_is_known_now_passes(
    office: Office, connection: asyncpg.Connection
) -> None:
    [letter_id] = await office.park(office.dead(payload(*(reading(n) for n in range(5)))))
    await office.register()
    assert await office.replay() == [
        Proof(
            id=letter_id,
            tenant=office.tenant,
            agent=office.agent,
            result=Result.PASSED,
            inserted=5,
            counts={
                f"{office.agent}|accepted": 1,
                f"{office.agent}|settled": 1,
                f"{office.agent}|readings": 5,
                f"{office.agent}|stored": 5,
            },
        )
    ]
    assert await rows(connection) == [(n, 1.0) for n in range(5)]
    assert await office.left() == []
    assert await office.ledger() == {
        f"{office.agent}|accepted": 1,
        f"{office.agent}|settled": 1,
        f"{office.agent}|readings": 5,
        f"{office.agent}|stored": 5,
    }
    latest = await connection.fetchrow("SELECT time, device_name FROM readings_latest")
    assert (latest["time"].timestamp() * 1000, latest["device_name"]) == (START_MS + 4, "d")


async def test_a_letter_whose_dictionary_has_come_passes(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    compact = {"v": 3, "p": [[0, START_MS], [1, "d"], [2, "late"], [3, 7.5]]}
    await office.park(
        office.dead(orjson.dumps(compact), stage="expand", reason="dictionary_missing")
    )
    [proof] = await office.replay()
    assert (proof.result, proof.faults[0].reason) == (Result.STILL_BAD, "dictionary_missing")
    await office.learn(version=3)
    [proof] = await office.replay()
    assert figures(proof) == (Result.PASSED, 1, 0, 0)
    assert await rows(connection) == [(0, 7.5)]
    assert await office.left() == []
    assert balanced(await office.ledger())


async def test_a_broken_dictionary_does_not_hang_the_replay(
    office: Office, raw: redis.asyncio.Redis
) -> None:
    await office.register()
    await raw.set(keys.dictionary(office.agent), b"nonsense")
    await raw.set(f"{keys.dictionary(office.agent)}:version", b"1")
    await office.park(office.dead(orjson.dumps({"v": 1, "p": [[0, START_MS]]})))
    [proof] = await office.replay()
    assert proof.result is Result.STILL_BAD


async def test_a_letter_still_bad_is_replaced_with_the_newest_reason(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    given = office.dead(b"{", attempts=2, readings=9, received_ms=0)
    [before] = await office.park(given)
    [proof] = await office.replay()
    assert (proof.result, proof.id) == (Result.STILL_BAD, before)
    assert (proof.faults[0].stage, proof.faults[0].reason) == ("decode", "json")
    [left] = await office.left()
    assert left.id > before
    assert left.dead.failed_at > FAILED
    assert dataclasses.replace(left.dead, failed_at=FAILED) == dataclasses.replace(
        given,
        stage="decode",
        reason="json",
        error=proof.error,
        readings=0,
        replays=1,
        received_ms=START_MS + 9,
    )
    assert proof.error.startswith("payload is not JSON")
    await office.replay()
    [again] = await office.left()
    assert again.dead.replays == 2
    assert await office.ledger() == {
        f"{office.agent}|accepted": 2,
        f"{office.agent}|settled": 2,
        f"{office.agent}|refused:json": 2,
    }
    assert await rows(connection) == []


async def test_good_readings_of_a_bad_letter_are_stored_once_and_the_letter_stays(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    bad = reading(2) | {"timestamp": "not a time"}
    await office.park(office.dead(payload(reading(0), reading(1), bad), readings=1))
    [proof] = await office.replay()
    assert figures(proof) == (Result.STILL_BAD, 2, 0, 1)
    [left] = await office.left()
    assert (left.dead.readings, left.dead.reason) == (1, "time_invalid")
    [proof] = await office.replay()
    assert figures(proof) == (Result.STILL_BAD, 0, 2, 1)
    assert await rows(connection) == [(0, 1.0), (1, 1.0)]
    counts = await office.ledger()
    assert counts == {
        f"{office.agent}|accepted": 2,
        f"{office.agent}|settled": 2,
        f"{office.agent}|readings": 6,
        f"{office.agent}|stored": 2,
        f"{office.agent}|redelivered": 2,
        f"{office.agent}|rejected:time_invalid": 2,
    }
    assert balanced(counts)


async def test_readings_that_are_there_already_are_duplicates(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    await office.park(office.dead(payload(reading(0), reading(1))))
    await office.replay()
    twice = payload(reading(1), reading(2), reading(2, value=5.0), reading(3))
    await office.park(office.dead(twice))
    [proof] = await office.replay()
    assert figures(proof) == (Result.PASSED, 2, 2, 0)
    assert await rows(connection) == [(0, 1.0), (1, 1.0), (2, 5.0), (3, 1.0)]
    assert balanced(await office.ledger())


async def test_readings_without_a_time_get_the_same_one_at_every_replay(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    timeless = {"metric": "timeless", "value": 4.0}
    bad = reading(0) | {"timestamp": "not a time"}
    data = orjson.dumps({"messages": [{"deviceName": "d", "readings": [timeless, bad]}]})
    for changes in ({}, {"received_ms": 0}, {"received_ms": 0, "original_id": ""}):
        await office.park(office.dead(data, **changes))
    first = await office.replay()
    second = await office.replay()
    assert [proof.inserted for proof in first] == [1, 1, 1]  # 3 times of reception
    assert [proof.inserted for proof in second] == [0, 0, 0]
    times = [
        row["time"]
        for row in await connection.fetch(
            "SELECT time FROM readings WHERE metric_name = 'timeless'"
        )
    ]
    assert len(times) == 3
    assert FAILED in times


async def test_a_row_that_the_database_refuses_costs_its_letter_alone(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    await connection.execute("ALTER TABLE readings ADD CONSTRAINT odd CHECK (value <> 666)")
    await office.park(
        office.dead(payload(reading(0))),
        office.dead(payload(reading(1), reading(2, value=666))),
        office.dead(payload(reading(3))),
    )
    for dry_run in (True, False):
        proofs = await office.replay(dry_run=dry_run)
        assert [proof.result for proof in proofs] == [
            Result.PASSED,
            Result.STILL_BAD,
            Result.PASSED,
        ]
        assert figures(proofs[1]) == (Result.STILL_BAD, 0, 0, 2)
    assert await rows(connection) == [(0, 1.0), (3, 1.0)]
    [left] = await office.left()
    assert (left.dead.stage, left.dead.reason) == ("commit", "refused_by_database")
    assert 'violates check constraint "' in left.dead.error
    assert (left.dead.readings, left.dead.replays) == (2, 1)
    assert balanced(await office.ledger())
    await connection.execute("ALTER TABLE readings DROP CONSTRAINT odd")
    assert figures((await office.replay())[0]) == (Result.PASSED, 2, 0, 0)
    assert await office.left() == []


async def test_a_dry_run_foretells_and_changes_nothing(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    await office.park(office.dead(payload(reading(0))))
    await office.replay()
    old = reading(0) | {"timestamp": START_MS - 400 * 86_400_000}
    await office.park(
        office.dead(payload(reading(0), reading(1))),
        office.dead(b"{"),
        office.dead(payload(old)),
    )

    async def state() -> list[Any]:
        tables = await connection.fetch("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')")
        latest = await connection.fetch("SELECT * FROM readings_latest")
        return [
            await rows(connection), await office.left(), await office.ledger(), latest,
            sorted(row["relname"] for row in tables),
        ]  # fmt: skip

    before = await state()
    foretold = await office.rehearse()
    assert await state() == before
    assert [figures(proof) for proof in foretold] == [
        (Result.PASSED, 1, 1, 0),
        (Result.STILL_BAD, 0, 0, 0),
        (Result.PASSED, 1, 0, 0),
    ]
    assert foretold == await office.rehearse()
    assert await office.replay() == foretold


async def test_twice_the_same_replay_doubles_nothing(
    office: Office, connection: asyncpg.Connection
) -> None:
    """As by two operators, or after a crash between commit and removal."""
    await office.register()
    given = [office.dead(payload(*(reading(10 * n + k) for k in range(10)))) for n in range(20)]
    await office.park(*given)
    await office.replay()
    await office.park(*given)
    assert [proof.inserted for proof in await office.replay()] == [0] * 20
    assert len(await rows(connection)) == 200
    assert await office.left() == []


async def test_a_crash_between_commit_and_removal_is_harmless(
    office: Office, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.register()
    await office.park(*(office.dead(payload(reading(n))) for n in range(3)))

    class Crash(Exception):
        pass

    async def crash(*_: Any, **__: Any) -> bool:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Letters, "resolve", crash)
        with pytest.raises(Crash):
            await office.replay()
    stored = len(await rows(connection))
    assert stored > 0
    assert len(await office.left()) == 3
    assert await office.ledger() == {}
    totals = Totals()
    totals.add(await office.replay())
    assert (totals.passed, totals.inserted, totals.duplicate) == (3, 3 - stored, stored)
    assert len(await rows(connection)) == 3
    assert await office.left() == []
    assert balanced(await office.ledger())


@pytest.mark.parametrize("dry_run", [True, False])
async def test_each_letter_of_many_is_told_exactly(
    office: Office, connection: asyncpg.Connection, dry_run: bool
) -> None:
    """However they are written together: some rows are there, some refused, some bad."""
    await office.register()
    await connection.execute("ALTER TABLE readings ADD CONSTRAINT odd CHECK (value <> 666)")
    await office.park(office.dead(payload(*(reading(10 * n) for n in range(0, 30, 2)))))
    await office.replay()
    given, expected = [], []
    for n in range(30):
        there = int(n % 2 == 0)
        if n % 10 == 3:
            given.append(payload(reading(10 * n), reading(10 * n + 1, value=666)))
            expected.append((Result.STILL_BAD, 0, 0, 2))
        elif n % 10 == 4:
            bad = reading(0) | {"timestamp": "not a time"}
            given.append(payload(reading(10 * n), reading(10 * n + 1), bad))
            expected.append((Result.STILL_BAD, 2 - there, there, 1))
        else:
            given.append(payload(reading(10 * n), reading(10 * n + 1)))
            expected.append((Result.PASSED, 2 - there, there, 0))
    ids = await office.park(*(office.dead(data) for data in given))
    proofs = await office.replay(dry_run=dry_run)
    assert [(proof.id, *figures(proof)) for proof in proofs] == [
        (letter_id, *figure) for letter_id, figure in zip(ids, expected, strict=True)
    ]
    inserted = sum(figure[1] for figure in expected)
    assert len(await rows(connection)) == 15 + (0 if dry_run else inserted)
    assert balanced(await office.ledger())


async def test_letters_that_hold_the_same_reading_store_it_once(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    await office.park(
        office.dead(payload(reading(0, value=1.0), reading(1))),
        office.dead(payload(reading(0, value=2.0))),
    )
    proofs = await office.replay()
    assert [figures(proof) for proof in proofs] == [
        (Result.PASSED, 1, 1, 0),
        (Result.PASSED, 1, 0, 0),
    ]
    assert await rows(connection) == [(0, 2.0), (1, 1.0)]
    assert balanced(await office.ledger())


async def test_only_what_matches_is_replayed(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    ids = await office.park(
        office.dead(payload(reading(0)), reason="a"),
        office.dead(payload(reading(1)), reason="b"),
        office.dead(payload(reading(2)), reason="b", stage="commit"),
    )
    await office.replay(Filter(reason="b", stage="commit"))
    assert await rows(connection) == [(2, 1.0)]
    await office.replay(Filter(ids=frozenset([ids[0], "5-5"])))
    assert await rows(connection) == [(0, 1.0), (2, 1.0)]
    assert [left.id for left in await office.left()] == [ids[1]]


async def test_a_long_replay_goes_on_from_its_cursor_and_meets_no_letter_twice(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    await office.park(*(office.dead(payload(reading(n)) if n % 2 else b"{") for n in range(150)))
    cursor, seen, tried = None, [], []
    while True:
        steps = await office.steps(cursor=cursor, limit=40)
        seen += [proof.id for step in steps for proof in step.proofs]
        tried.append(sum(len(step.proofs) for step in steps))
        cursor = steps[-1].cursor
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 150
    assert tried[:3] == [40, 40, 40]
    assert len(await rows(connection)) == 75
    left = await office.left()
    assert [letter.dead.replays for letter in left] == [1] * 75
    with pytest.raises(BadRequest, match="cursor 'x' is not one that an earlier answer gave"):
        await office.steps(cursor="x")


async def test_an_entry_of_the_reference_is_replayed_in_its_own_form(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    record = {
        "deviceUuid": office.agent,
        "deviceName": "d",
        "timestamp": START_MS,
        "data": {"metric": "m", "value": 4.5},
        "metadata": {"protocol": "opcua"},
    }
    packed = base64.b64encode(gzip.compress(orjson.dumps([record])))
    form = (b"compressed", b"1", b"encoding", b"gzip", b"payload_b64", b"")
    plain = orjson.dumps([record | {"timestamp": START_MS + 1}])
    await office.park(
        office.dead(packed, topic="", form=form, received_ms=0),
        office.dead(plain, topic="", form=(b"data", b"", b"source", b""), received_ms=0),
    )
    proofs = await office.replay()
    assert [figures(proof) for proof in proofs] == [(Result.PASSED, 1, 0, 0)] * 2
    assert await rows(connection) == [(0, 4.5), (1, 4.5)]
    assert balanced(await office.ledger())


async def test_an_entry_with_records_of_several_agents_learns_all_of_them(
    office: Office, connection: asyncpg.Connection
) -> None:
    agents = [str(uuid.uuid4()) for _ in range(3)]
    await office.register(*agents[:2])
    data = orjson.dumps(
        [{"deviceUuid": agent, "timestamp": START_MS, "data": {"metric": "m", "value": 1}}
         for agent in agents]
    )  # fmt: skip
    await office.park(office.dead(data, topic="", form=(b"data", b"")))
    [proof] = await office.replay()
    assert (proof.result, proof.inserted) == (Result.STILL_BAD, 2)
    assert proof.error == f'agent {agents[2]} is not one of tenant "{office.tenant}"'
    await office.register(agents[2])
    assert figures((await office.replay())[0]) == (Result.PASSED, 1, 2, 0)
    assert len(await rows(connection)) == 3
    assert balanced(await office.ledger())


# Strays: letters of messages that belonged to no tenant


async def test_a_stray_whose_tenant_exists_now_is_stored_there(
    office: Office, connection: asyncpg.Connection
) -> None:
    stray = office.dead(payload(reading(0)), stage="bridge", reason="unknown_tenant")
    await office.park(stray, tenant=keys.STRAY)
    [proof] = await office.replay(tenant=keys.STRAY)
    assert (proof.result, proof.error) == (
        *(Result.STILL_BAD, f"tenant {office.tenant!r} does not exist"),
    )
    [left] = await office.left(keys.STRAY)
    assert (left.dead.replays, left.dead.reason) == (1, "unknown_tenant")
    await office.register()
    [proof] = await office.rehearse(tenant=keys.STRAY)
    assert figures(proof) == (Result.PASSED, 1, 0, 0)
    assert await office.left(keys.STRAY) == [left]
    [proof] = await office.replay(tenant=keys.STRAY)
    assert (proof.id, proof.tenant) == (left.id, office.tenant)
    assert figures(proof) == (Result.PASSED, 1, 0, 0)
    assert await rows(connection) == [(0, 1.0)]
    assert await office.left(keys.STRAY) == await office.left() == []
    assert (await office.ledger())[f"{office.agent}|stored"] == 1
    assert balanced(await office.ledger(keys.STRAY))


async def test_a_stray_still_bad_waits_with_its_own_tenant(office: Office) -> None:
    await office.register(str(uuid.uuid4()))  # the tenant, but not the agent
    await office.park(office.dead(payload(reading(0))), tenant=keys.STRAY)
    [proof] = await office.replay(tenant=keys.STRAY)
    assert proof.faults[0].reason == "unknown_agent"
    assert await office.left(keys.STRAY) == []
    [left] = await office.left()
    assert (left.dead.reason, left.dead.replays) == ("unknown_agent", 1)


async def test_a_stray_without_a_topic_stays_with_its_reason(office: Office) -> None:
    given = office.dead(
        b"x", topic=b"i/\xff", stage="bridge", reason="invalid_topic", error="no topic"
    )
    await office.park(given, tenant=keys.STRAY)
    await office.replay(tenant=keys.STRAY)
    [left] = await office.left(keys.STRAY)
    assert (left.dead.reason, left.dead.error, left.dead.topic) == (
        *("invalid_topic", "no topic", b"i/\xff"),
    )


async def test_a_stray_dictionary_is_stored_before_the_message_that_needs_it(
    office: Office, connection: asyncpg.Connection
) -> None:
    await office.register()
    compact = {"v": 1, "p": [[0, START_MS], [1, "d"], [2, "m"], [3, 7.5]]}
    message = orjson.dumps({"version": 1, "fields": NAMES})
    topic = format_topic(office.tenant, office.agent, "meta/dictionary")
    await office.park(
        office.dead(orjson.dumps(compact)), office.dead(message, topic=topic), tenant=keys.STRAY
    )
    proofs = await office.replay(tenant=keys.STRAY)
    assert [proof.result for proof in proofs] == [Result.PASSED, Result.PASSED]
    assert await rows(connection) == [(0, 7.5)]
    assert await office.known() == {1: NAMES}


async def test_an_older_dictionary_does_not_replace_a_newer_one(office: Office) -> None:
    await office.register()
    topic = format_topic(office.tenant, office.agent, "meta/dictionary")
    for version in (5, 6):
        message = orjson.dumps({"version": version, "fields": NAMES})
        await office.park(office.dead(message, topic=topic))
    await office.learn(version=6, fields=["x"])
    assert [proof.result for proof in await office.replay()] == [Result.PASSED] * 2
    [current] = await DictionaryStore(office.pool).current([office.agent])
    assert (current.dictionary.version, list(current.dictionary.fields.values())) == (6, ["x"])
    # What it was written with can be read all the same.
    assert await office.known() == {5: NAMES, 6: ["x"]}


@pytest.mark.parametrize(
    ("message", "reason"), [(b"{", "invalid_dictionary"), (None, "unknown_agent")]
)
async def test_a_dictionary_that_cannot_be_taken_stays(
    office: Office, message: bytes | None, reason: str
) -> None:
    await office.register(str(uuid.uuid4()))
    good = orjson.dumps({"version": 1, "fields": NAMES})
    topic = format_topic(office.tenant, office.agent, "meta/dictionary")
    await office.park(office.dead(message or good, topic=topic))
    [proof] = await office.replay()
    assert (proof.result, proof.faults[0].reason) == (Result.STILL_BAD, reason)
    assert await office.known() == {}
    assert len(await office.left()) == 1


# Servers that fail


async def test_a_database_that_is_away_ends_the_replay_and_costs_no_letter(
    office: Office, executor: ThreadPoolExecutor
) -> None:
    given = [office.dead(payload(reading(n))) for n in range(3)]
    await office.register()
    await office.park(*given)
    before = await office.left()
    office.pool.terminate()
    with pytest.raises(StoreUnavailable):
        await office.replay()
    assert await office.left() == before
    assert await office.ledger() == {}


async def test_what_was_done_before_a_failure_is_reported(
    office: Office, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.register()
    await office.park(*(office.dead(payload(reading(n))) for n in range(70)))
    whole = office.letters.whole

    async def fails_later(tenant: str, ids: list[str]) -> list[Letter]:
        if len(ids) < 64:
            office.pool.terminate()
        return await whole(tenant, ids)

    monkeypatch.setattr(office.letters, "whole", fails_later)
    totals = Totals()

    async def run() -> None:
        async for step in office.redrive().run(office.tenant, Filter()):
            totals.add(step.proofs)

    with pytest.raises(StoreUnavailable):
        await run()
    assert (totals.passed, totals.inserted) == (64, 64)
    assert len(await rows(connection)) == 64


async def test_a_statement_that_the_server_gives_up_leaves_the_letter(
    office: Office, connection: asyncpg.Connection, database: str
) -> None:
    await office.register()
    slow, _ = await office.park(
        office.dead(payload(reading(0, value=666))), office.dead(payload(reading(1)))
    )
    await connection.execute(
        """
        CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.value = 666 THEN PERFORM pg_sleep(30); END IF; RETURN NEW; END $$;
        CREATE TRIGGER doze BEFORE INSERT ON readings FOR EACH ROW EXECUTE FUNCTION doze();
        """
    )
    await connection.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = 300', "
        "current_database()); END $$"
    )
    pool = await asyncpg.create_pool(database, min_size=0, max_size=4)
    office.pool = pool
    proofs = await office.replay()
    assert [proof.result for proof in proofs] == [Result.FAILED, Result.PASSED]
    assert proofs[0].faults[0].reason == "undecided"
    [left] = await office.left()
    assert (left.id, left.dead.replays) == (slow, 0)
    assert await rows(connection) == [(1, 1.0)]
    await pool.close()
