"""Telemetry that waits for its dictionary: parked, sent on, given up; on both storage profiles."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
import pytest
import redis.asyncio
from tests.dictionaries import learn, library
from tests.integration.test_ingestion import (
    Fleet,
    at_least,
    count,
    ingestion,
    letters,
    settled,
    until,
)

from iotistica import keys, ledger
from iotistica._native import format_topic
from iotistica.audit.auditor import Auditor
from iotistica.dictionaries import Wanted, read_dictionary
from iotistica.dictionaries.library import RESYNC, Library
from iotistica.embedded.ports import free_port
from iotistica.encoder import Encoder
from iotistica.errors import DatabaseUnavailable
from iotistica.ingestion.attendant import Attendant
from iotistica.ingestion.letter_alarm import LetterAlarm
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.ledger import LedgerStore
from iotistica.store.pool import Pool, open_pool
from iotistica.streams import Bay, Settlement, Streams, outgoing


@dataclass
class Yard:
    """One tenant with one agent that compacts what it sends."""

    fleet: Fleet
    pool: Pool
    raw: redis.asyncio.Redis
    connection: asyncpg.Connection

    def compact(self, number: int = 0, *, version: int = 1, **more: Any) -> bytes:
        """A reading of the metric c at a time of its own, whose value is `number`."""
        pairs = [[0, self.fleet.start_ms + number], [1, "d"], [2, "c"], [3, float(number)]]
        return orjson.dumps({"v": version, "p": pairs, **more})

    async def send(self, *payloads: bytes) -> None:
        """One entry, counted as the bridge does."""
        fields: list[bytes] = []
        for sequence, payload in enumerate(payloads):
            header = b"%d-%d %s" % (self.fleet.start_ms, sequence, self.fleet.topic)
            fields += [header, payload]
        accepted = ledger.field(self.fleet.agent, ledger.ACCEPTED)
        await self.fleet.streams.add(self.fleet.tenant, fields, counts={accepted: len(payloads)})

    async def learn(self, **parts: Any) -> None:
        fleet = self.fleet
        await learn(self.pool, fleet.streams, fleet.tenant, fleet.agent, **parts)

    async def parked(self) -> int:
        return sum(
            one.messages for one in await self.fleet.streams.parking.parked(self.fleet.tenant)
        )

    async def values(self) -> list[float]:
        query = "SELECT value FROM readings WHERE metric_name = 'c' ORDER BY time"
        return [row["value"] for row in await self.connection.fetch(query)]

    async def stored(self, number: int) -> None:
        async def there() -> bool:
            return len(await self.values()) >= number

        await until(there)

    async def waiting(self, number: int) -> None:
        async def parked() -> bool:
            return await self.parked() == number

        await until(parked)

    async def audit(self) -> Any:
        auditor = Auditor(self.fleet.streams.ledger, LedgerStore(self.pool))
        return (await auditor.report(self.fleet.tenant)).total

    async def balanced(self) -> None:
        async def holds() -> bool:
            return (await self.audit()).balanced is True

        await until(holds)

    async def requests(self) -> list[Any]:
        """What was put into the outbox for the agent."""
        entries = await self.raw.xrange(keys.OUTBOX)
        found = [outgoing([part for pair in fields.items() for part in pair])
                 for _, fields in entries]  # fmt: skip
        topic = format_topic(self.fleet.tenant, self.fleet.agent, RESYNC)
        assert {one.topic for one in found} <= {topic}
        return [orjson.loads(one.payload) for one in found]


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def yard(
    streams: Streams,
    tenant: str,
    pool: Pool,
    raw: redis.asyncio.Redis,
    connection: asyncpg.Connection,
) -> Yard:
    fleet = Fleet(streams, tenant)
    await fleet.register(pool)
    return Yard(fleet, pool, raw, connection)


async def test_a_message_waits_for_its_dictionary_and_its_neighbors_do_not(
    database: str, redis_url: str, yard: Yard
) -> None:
    """In the reference an unknown version is dropped with an error (section 2)."""
    await yard.send(yard.compact(0), yard.fleet.payload(2), yard.compact(1))
    async with ingestion(database, redis_url):
        await until(lambda: at_least(yard.connection, 2))
        await settled(yard.fleet)
        await yard.waiting(2)
        await yard.balanced()
        assert (await yard.audit()).in_flight == 2
        await yard.learn()
        await yard.stored(2)
        await settled(yard.fleet)
        assert await yard.values() == [0.0, 1.0]
        await yard.balanced()
    assert await yard.parked() == 0
    assert await letters(yard.raw, yard.fleet.tenant) == []
    assert (await yard.audit()).in_flight == 0


async def test_parked_messages_do_not_hold_back_others(
    database: str, redis_url: str, yard: Yard
) -> None:
    for number in range(60):
        await yard.send(yard.compact(number))
    await yard.fleet.send(yard.fleet.payload(3))
    async with ingestion(database, redis_url, read_max_entries=1):
        await until(lambda: at_least(yard.connection, 3))
        await yard.waiting(60)
        await yard.learn()
        await yard.stored(60)
    assert await yard.values() == [float(number) for number in range(60)]


async def test_a_message_is_read_with_the_dictionary_that_it_was_written_with(
    database: str, redis_url: str, yard: Yard
) -> None:
    """In the reference only the newest version is known."""
    await yard.learn(version=1)
    await yard.learn(version=2, fields=["value", "metric", "deviceName", "timestamp"])
    async with ingestion(database, redis_url):
        new = [[0, 1.0], [1, "c"], [2, "d"], [3, yard.fleet.start_ms + 1]]
        await yard.send(orjson.dumps({"v": 2, "p": new}))
        await yard.stored(1)
        await yard.send(yard.compact(0, version=1))
        await yard.stored(2)
        await yard.send(orjson.dumps({"v": 2, "p": [[0, 2.0], *new[1:3], [3, new[3][1] + 1]]}))
        await yard.stored(3)
    assert await yard.values() == [0.0, 1.0, 2.0]


async def test_after_a_reset_the_version_alone_does_not_say_which(
    database: str, redis_url: str, yard: Yard
) -> None:
    await yard.learn(hash="old")
    async with ingestion(database, redis_url):
        await yard.send(yard.compact(0, h="old"))
        await yard.stored(1)
        new = [[0, 1.0], [1, "c"], [2, "d"], [3, yard.fleet.start_ms + 1]]
        await yard.send(orjson.dumps({"v": 1, "p": new, "h": "new"}))
        await yard.waiting(1)
        await yard.learn(fields=["value", "metric", "deviceName", "timestamp"], hash="new")
        await yard.stored(2)
        await yard.send(yard.compact(2, h="old"))
        await yard.stored(3)
    assert await yard.values() == [0.0, 1.0, 2.0]


async def test_after_a_reset_messages_without_a_hash_are_read_with_the_new_dictionary(
    database: str, redis_url: str, yard: Yard
) -> None:
    await yard.learn()
    async with ingestion(database, redis_url):
        await yard.send(yard.compact(0))
        await yard.stored(1)
        await yard.learn(fields=["value", "metric", "deviceName", "timestamp"])

        async def read_anew() -> bool:
            new = [[0, 1.0], [1, "c"], [2, "d"], [3, yard.fleet.start_ms + 1]]
            await yard.send(orjson.dumps({"v": 1, "p": new}))
            return 1.0 in await yard.values()

        await until(read_anew)


async def test_a_redis_that_lost_its_data_is_warmed_from_postgresql(
    database: str, redis_url: str, yard: Yard
) -> None:
    await yard.learn(metrics={"modbus": {"c": 1}})
    before = {key: await yard.raw.get(key) for key in await yard.raw.keys("dict:*")}
    assert len(before) == 7
    await yard.raw.flushall()
    await yard.send(yard.compact(0))
    async with ingestion(database, redis_url):
        await yard.stored(1)
    after = {key: await yard.raw.get(key) for key in await yard.raw.keys("dict:*")}
    assert after == before
    assert 29 * 86_400 < await yard.raw.ttl(f"dict:{yard.fleet.agent}") <= 30 * 86_400


async def test_a_redis_that_was_away_gets_a_dictionary_later(
    database: str, redis_url: str, yard: Yard, unused_tcp_port: int
) -> None:
    away = Streams(f"redis://127.0.0.1:{unused_tcp_port}")
    await yard.learn(version=1)
    await learn(yard.pool, away, yard.fleet.tenant, yard.fleet.agent, version=2)
    await away.close()
    version = f"dict:{yard.fleet.agent}:version"
    assert await yard.raw.get(version) == b"1"
    async with ingestion(database, redis_url):

        async def there() -> bool:
            return await yard.raw.get(version) == b"2"

        await until(there)


async def test_an_older_commit_does_not_replace_a_newer_one_in_redis(
    streams: Streams, raw: redis.asyncio.Redis
) -> None:
    agent, version = str(uuid.uuid4()), "dict:%s:version"
    newer, older = (read_dictionary({"version": v, "fields": ["a"]}) for v in (1, 7))
    await streams.dictionaries.put([(agent, newer, 12)])
    await streams.dictionaries.put([(agent, older, 11)])
    assert await raw.get(version % agent) == b"1"
    await streams.dictionaries.put([(agent, older, 13)])
    assert await raw.get(version % agent) == b"7"


async def test_a_dictionary_that_somebody_broke_in_redis_comes_from_postgresql(
    database: str, redis_url: str, yard: Yard
) -> None:
    await yard.learn()
    await yard.raw.set(f"dict:{yard.fleet.agent}", b"nonsense")
    await yard.send(yard.compact(0))
    async with ingestion(database, redis_url):
        await yard.stored(1)


async def test_what_waits_in_vain_becomes_a_dead_letter(
    database: str, redis_url: str, yard: Yard
) -> None:
    payloads = [yard.compact(0, version=7, h="ab"), yard.compact(1, version=7, h="ab")]
    await yard.send(*payloads, yard.fleet.payload(2))
    async with ingestion(database, redis_url, parked_max_s=0.5):
        await until(lambda: two_letters(yard))
        await yard.balanced()
    found = await letters(yard.raw, yard.fleet.tenant)
    assert [letter[b"data"] for letter in found] == payloads
    for letter in found:
        assert letter[b"topic"] == yard.fleet.topic
        assert (letter[b"stage"], letter[b"reason"]) == (b"expand", b"dictionary_missing")
        assert letter[b"error"] == (
            b"field v: dictionary version 7 with hash ab of the agent did not come within 0.5 s"
        )
        assert letter[b"agent"] == yard.fleet.agent.encode()
        assert letter[b"received_ms"] == b"%d" % yard.fleet.start_ms
    assert await yard.parked() == 0
    assert await count(yard.connection) == 2
    counts = await yard.fleet.streams.ledger.counts(yard.fleet.tenant)
    mine = counts[yard.fleet.agent]
    assert (mine["accepted"], mine["settled"], mine["refused:dictionary_missing"]) == (3, 3, 2)


async def test_time_while_postgresql_is_away_does_not_count(
    database: str, redis_url: str, yard: Yard
) -> None:
    """Dictionaries wait at the broker meanwhile."""
    settings = Settings(parked_max_s=0.5)
    fleet = yard.fleet
    wanted = Wanted(fleet.agent, 1)
    header = b"%d-0 %s" % (fleet.start_ms, fleet.topic)
    bay = Bay(wanted=wanted, fields=[header, yard.compact(0)])
    await fleet.streams.settle(fleet.tenant, Settlement(parked=[bay]))
    alarm = LetterAlarm(bound=10, share=1.0)
    attendant = Attendant(settings, fleet.streams, alarm)
    away = await open_pool(Settings(database_url=database), application_name="test")
    away.terminate()
    with ThreadPoolExecutor(1) as executor:

        async def attend(pool: Pool) -> None:
            library = Library.of(settings, pool, fleet.streams)
            encoder = Encoder(
                fleet.tenant,
                settings=settings,
                executor=executor,
                agents=AgentStore(pool),
                library=library,
            )
            await attendant.attend({fleet.tenant: encoder}, library)

        [parked] = await fleet.streams.parking.parked(fleet.tenant)

        async def is_old() -> bool:
            return await fleet.streams.ledger.now_ms() > parked.since_ms + 600

        await until(is_old)
        with pytest.raises(DatabaseUnavailable):
            await attend(away)
        await attend(yard.pool)  # only now the time begins
        assert await yard.parked() == 1

        async def given_up() -> bool:
            await attend(yard.pool)
            return await yard.parked() == 0

        await until(given_up)
        assert len(await letters(yard.raw, fleet.tenant)) == 1


async def two_letters(yard: Yard) -> bool:
    return len(await letters(yard.raw, yard.fleet.tenant)) == 2


@pytest.mark.parametrize(
    "bound", [{"parked_max_s": 0}, {"parked_max_messages": 0}, {"parked_max_bytes": 10}]
)
async def test_where_there_is_no_room_a_message_becomes_a_dead_letter_at_once(
    database: str, redis_url: str, yard: Yard, bound: dict[str, Any]
) -> None:
    await yard.send(yard.compact(0), yard.compact(1), yard.fleet.payload(1))
    async with ingestion(database, redis_url, **bound):
        await settled(yard.fleet)
        await yard.balanced()
    found = await letters(yard.raw, yard.fleet.tenant)
    assert [letter[b"reason"] for letter in found] == [b"dictionary_missing"] * 2
    assert await count(yard.connection) == 1


async def test_a_killed_process_loses_and_doubles_nothing_that_is_parked(
    database: str, redis_url: str, yard: Yard, spool_dir: Any
) -> None:
    environment = os.environ | {
        "DATABASE_URL": database,
        "REDIS_URL": redis_url,
        "IOTISTICA_CLAIM_IDLE_MS": "300",
        "IOTISTICA_BACKFILL_AFTER_S": "0",
        "IOTISTICA_INGESTION_PORT": str(free_port()),
    }
    sent = 0
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "iotistica", "ingestion", env=environment
        )
        try:
            before = await yard.parked()
            for _ in range(20):
                await yard.send(*(yard.compact(sent + n) for n in range(10)))
                sent += 10

            async def some(before: int = before) -> bool:
                return await yard.parked() > before

            await until(some)
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    await yard.learn()
    async with ingestion(database, redis_url):
        await yard.stored(sent)
        await settled(yard.fleet)
        await yard.balanced()
    assert await yard.values() == [float(number) for number in range(sent)]
    assert await yard.parked() == 0
    assert await letters(yard.raw, yard.fleet.tenant) == []
    counts = (await yard.fleet.streams.ledger.counts(yard.fleet.tenant))[yard.fleet.agent]
    assert (counts["accepted"], counts["settled"], counts["stored"]) == (sent, sent, sent)


async def test_two_processes_release_what_is_parked_once(
    database: str, redis_url: str, yard: Yard
) -> None:
    async with ingestion(database, redis_url), ingestion(database, redis_url):
        for number in range(0, 100, 10):
            await yard.send(*(yard.compact(number + n) for n in range(10)))
        await yard.waiting(100)
        await yard.learn()
        await yard.stored(100)
        await settled(yard.fleet)
        await yard.balanced()
    counts = (await yard.fleet.streams.ledger.counts(yard.fleet.tenant))[yard.fleet.agent]
    assert (counts["settled"], counts["stored"], counts["readings"]) == (100, 100, 100)


async def test_the_agent_is_asked_for_its_dictionary_once(
    database: str, redis_url: str, yard: Yard
) -> None:
    await yard.send(yard.compact(0, version=4))
    async with ingestion(database, redis_url), ingestion(database, redis_url):
        await until(yard.requests, timeout_s=30)
        await yard.send(yard.compact(1, version=5))
        await yard.waiting(2)
    [request] = await yard.requests()
    assert request.pop("timestamp").endswith("Z")
    assert request == {
        "action": "resync",
        "reason": "dictionary_missing",
        "expectedVersion": 4,
    }
    assert 0 < await yard.raw.ttl(keys.dictionary_asked(yard.fleet.agent)) <= 300


async def test_compaction_that_is_off_is_said_so(database: str, redis_url: str, yard: Yard) -> None:
    await yard.learn()
    payloads = [yard.compact(0), orjson.dumps({"v": 1, "i": [2], "d": [1]})]
    await yard.send(*payloads, yard.fleet.payload(1))
    async with ingestion(database, redis_url, key_compaction=False):
        await settled(yard.fleet)
    found = await letters(yard.raw, yard.fleet.tenant)
    assert [letter[b"data"] for letter in found] == payloads
    for letter in found:
        assert (letter[b"stage"], letter[b"reason"]) == (b"expand", b"compaction_off")
        assert b"USE_KEY_COMPACTION_POC" in letter[b"error"]
    assert await count(yard.connection) == 1


async def test_what_another_tenants_agent_of_the_same_name_says_is_not_used(
    database: str, redis_url: str, yard: Yard
) -> None:
    """R7: only the agent itself, below its tenant's topics, has a say about its dictionary."""
    other = "".join(reversed(yard.fleet.tenant))
    await yard.connection.execute("INSERT INTO tenants VALUES ($1, $1)", other)
    wanted = Wanted(yard.fleet.agent, 1)
    await yard.learn()

    own = library(yard.pool, yard.fleet.streams)
    assert wanted in await own.find(yard.fleet.tenant, [wanted], cached=False)
    assert await own.find(other, [wanted], cached=False) == {}
    assert await own.all(other, yard.fleet.agent) == []


async def test_settling_parks_in_the_same_step(streams: Streams, tenant: str) -> None:
    await streams.ensure_group(tenant)
    entry_id = await streams.add(tenant, [b"1-0 i/x/a/y/endpoints/z", b"p"])
    await streams.read(tenant, "one", count=1, block_ms=0)
    wanted = Wanted(str(uuid.uuid4()), 3, "ab")
    bay = Bay(wanted=wanted, fields=[b"1-0 i/x/a/y/endpoints/z", b"p"])
    settlement = Settlement(ids=[entry_id], parked=[bay])
    assert await streams.settle(tenant, settlement) == []
    assert await streams.settle(tenant, settlement) == [entry_id]
    [parked] = await streams.parking.parked(tenant)
    assert (parked.wanted, parked.messages, parked.size) == (wanted, 1, 24)
    assert (await streams.depth(tenant)).entries == 0
    assert await streams.parking.release(tenant, [parked.id, "1-1"]) == 1
    assert await streams.parking.release(tenant, [parked.id]) == 0
    [(_, fields)] = await streams.read(tenant, "one", count=9, block_ms=0)
    assert fields == bay.fields
    assert await streams.parking.parked(tenant) == []
