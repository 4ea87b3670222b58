"""The writer on both storage profiles: every way of a batch keeps each reading once, and counts."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import asyncpg
import orjson
import pytest

from iotistica import metrics
from iotistica._native import Batch, Context, encode_batch, format_topic
from iotistica.ingestion.writer import Writer
from iotistica.store.pool import Pool
from iotistica.store.readings import ReadingStore

TENANT = "73eddd385ce8"
AGENTS = sorted(str(uuid.UUID(int=number << 64)) for number in range(1, 5))
NOW_MS = time.time_ns() // 1_000_000
START_MS = NOW_MS - 600_000
METRICS = ("a", "b")
SAMPLES = 30  # of each metric in a message


@dataclass(frozen=True)
class Message:
    """Readings of both metrics at successive times; `start` counts samples, across messages."""

    agent: str
    start: int
    metrics: Sequence[str] = METRICS
    samples: int = SAMPLES
    value: float = 1.0

    @property
    def keys(self) -> set[tuple[str, str, int]]:
        times = range(self.start, self.start + self.samples)
        return {(self.agent, metric, time) for metric in self.metrics for time in times}

    def payload(self) -> bytes:
        readings = [
            {"metric": metric, "value": self.value, "timestamp": START_MS + time}
            for _, metric, time in sorted(self.keys)
        ]
        return orjson.dumps({"deviceName": "d", "readings": readings})


def batch(*messages: Message) -> Batch:
    return encode(*((message.agent, message.payload()) for message in messages))


def encode(*messages: tuple[str, bytes]) -> Batch:
    """Encode payloads of agents."""
    context = Context(TENANT)
    context.add_agents(AGENTS)
    fields: list[bytes] = []
    for number, (agent, payload) in enumerate(messages):
        topic = format_topic(TENANT, agent, "endpoints/modbus")
        fields += [f"{NOW_MS}-{number} {topic}".encode(), payload]
    return encode_batch([(b"1-0", fields)], context, now_ms=NOW_MS)


def fleet(start: int = 0, *, rounds: int = 5, **others: float) -> list[Message]:
    """Messages of all agents, more than a small batch."""
    return [
        Message(agent, start + lap * SAMPLES, **others) for lap in range(rounds) for agent in AGENTS
    ]


@dataclass
class Ledger:
    """A writer, its clock, and what must be in the table after all that it committed."""

    writer: Writer
    now_s: list[float]
    stored: dict[tuple[str, str, int], float] = field(default_factory=dict)

    async def commit(self, *messages: Message, again: bool = False) -> str:
        """Commit, check what is said about it; the ways that were taken."""
        before = ways()
        inserted = await self.writer.commit(batch(*messages), again=again)
        given = {key: message.value for message in messages for key in message.keys}
        new = given.keys() - self.stored.keys()
        expected = Counter(agent for agent, _, _ in new)
        assert inserted == (None if len(new) == len(given) else expected)
        self.stored = given | self.stored
        return "+".join(sorted((ways() - before).elements()))


def ways() -> Counter[str]:
    value = metrics.REGISTRY.get_sample_value
    names = ("fresh", "split", "merged")
    counts = {name: value("iotistica_ingestion_writes_total", {"path": name}) for name in names}
    return Counter({name: int(count or 0) for name, count in counts.items()})


@pytest.fixture
def ledger(pool: Pool) -> Ledger:
    now_s = [1000.0]
    return Ledger(Writer(ReadingStore(pool), clock=lambda: now_s[0]), now_s)


async def rows(connection: asyncpg.Connection) -> dict[tuple[str, str, int], float]:
    found = await connection.fetch(
        "SELECT agent_uuid::text, metric_name, value, extract(epoch FROM time) * 1000 AS ms "
        "FROM readings"
    )
    return {(row[0], row[1], int(row["ms"]) - START_MS): row["value"] for row in found}


async def test_new_rows_are_copied(ledger: Ledger, connection: asyncpg.Connection) -> None:
    assert await ledger.commit(*fleet()) == "fresh"
    assert await rows(connection) == ledger.stored


async def test_few_rows_are_merged_at_once(ledger: Ledger, connection: asyncpg.Connection) -> None:
    message = Message(AGENTS[0], 0, samples=20)
    assert await ledger.commit(message) == "merged"
    assert await ledger.commit(message, Message(AGENTS[1], 0, samples=20)) == "merged"
    assert await rows(connection) == ledger.stored


async def test_messages_stored_before_are_set_apart(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await ledger.commit(*fleet())
    old = [Message(AGENTS[0], 0, value=2.0), Message(AGENTS[3], SAMPLES, value=2.0)]
    assert await ledger.commit(*fleet(1000), *old) == "split"
    assert await rows(connection) == ledger.stored


async def test_all_of_a_batch_stored_before(ledger: Ledger, connection: asyncpg.Connection) -> None:
    await ledger.commit(*fleet(rounds=9))
    assert await ledger.commit(*fleet(rounds=9, value=2.0)) == "split"
    assert await rows(connection) == ledger.stored


async def test_a_message_whose_first_rows_are_stored(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await ledger.commit(*fleet())
    longer = Message(AGENTS[1], 0, samples=1000, value=2.0)
    assert await ledger.commit(*fleet(1000), longer) == "split"
    assert await rows(connection) == ledger.stored


async def test_a_message_whose_first_row_is_new_and_later_ones_are_stored(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await ledger.commit(*fleet(10))
    overlapping = Message(AGENTS[1], 9, value=2.0)
    assert await ledger.commit(*fleet(1000), overlapping) == "merged"
    assert await rows(connection) == ledger.stored
    known = Message(AGENTS[2], 10, value=3.0)
    overlapping = Message(AGENTS[1], 8, metrics=("b",), value=3.0)
    assert await ledger.commit(*fleet(2000), known, overlapping) == "merged"
    assert await rows(connection) == ledger.stored


async def test_messages_of_few_readings_are_not_asked_for_one_by_one(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    single = [Message(AGENTS[0], time, metrics="a", samples=1) for time in range(1200)]
    assert await ledger.commit(*single) == "fresh"
    assert await ledger.commit(*single[600:], *fleet(5000)) == "merged"
    assert await rows(connection) == ledger.stored


async def test_doubt_lasts_a_while_and_ends(ledger: Ledger, connection: asyncpg.Connection) -> None:
    await ledger.commit(*fleet())
    assert await ledger.commit(*fleet(1000), Message(AGENTS[0], 0)) == "split"
    ledger.now_s[0] += 59
    assert await ledger.commit(*fleet(2000), Message(AGENTS[0], 0)) == "split"
    ledger.now_s[0] += 59
    assert await ledger.commit(*fleet(3000)) == "fresh"
    ledger.now_s[0] += 2
    doubled = metrics.REGISTRY.get_sample_value("iotistica_readings_duplicate_total") or 0.0
    assert await ledger.commit(*fleet(4000), Message(AGENTS[0], 0)) == "split"
    after = metrics.REGISTRY.get_sample_value("iotistica_readings_duplicate_total") or 0.0
    assert after - doubled == len(METRICS) * SAMPLES
    assert await rows(connection) == ledger.stored


async def test_a_redelivered_batch_that_is_new_is_copied_and_known_parts_are_merged(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    assert await ledger.commit(*fleet(), again=True) == "fresh"
    assert await ledger.commit(*fleet(rounds=8), again=True) == "split"
    assert await rows(connection) == ledger.stored


async def test_late_rows_of_many_days_are_found_as_well(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    day_ms = 86_400_000
    old = [Message(AGENTS[0], -day_ms * days) for days in range(1, 40)]
    await ledger.commit(*old)
    assert await ledger.commit(*fleet(), *old[:20], again=True) == "merged"
    assert await rows(connection) == ledger.stored


async def test_rows_in_compressed_chunks_are_found(
    postgres_url: str, ledger: Ledger, database: str, connection: asyncpg.Connection
) -> None:
    if database == postgres_url:
        pytest.skip("the plain profile compresses nothing")
    start = -86_400_000 * 10
    await ledger.commit(*fleet(start))
    await connection.execute("SELECT compress_chunk(chunk) FROM show_chunks('readings') AS chunk")
    known = Message(AGENTS[1], start, value=2.0)
    assert await ledger.commit(*fleet(start + 10_000), known) == "split"
    assert await rows(connection) == ledger.stored


async def test_writers_with_the_same_messages_at_once_store_each_reading_once(
    pool: Pool, connection: asyncpg.Connection
) -> None:
    everything = fleet(rounds=20)
    inserted: Counter[str] = Counter()

    async def commit(messages: Iterable[Message]) -> None:
        encoded = batch(*messages)
        counts = await Writer(ReadingStore(pool)).commit(encoded, again=False)
        inserted.update(encoded.copy.agents() if counts is None else counts)

    shares = [random.Random(seed).sample(everything, 50) for seed in range(6)]
    await asyncio.gather(*map(commit, shares))
    keys = {key for share in shares for message in share for key in message.keys}
    assert (await rows(connection)).keys() == keys
    assert inserted == Counter(agent for agent, _, _ in keys)


async def test_latest_values_are_right_after_duplicates(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await ledger.commit(*fleet(value=1.0))
    await ledger.commit(*fleet(-1000, value=2.0), *fleet(rounds=1, value=3.0))
    await ledger.commit(Message(AGENTS[0], 9000, value=4.0))
    latest = await connection.fetch(
        "SELECT agent_uuid::text, metric_name, value FROM readings_latest ORDER BY 1, 2"
    )
    newest = {(agent, metric): 1.0 for agent in AGENTS for metric in METRICS}
    newest |= {(AGENTS[0], metric): 4.0 for metric in METRICS}
    assert {(row[0], row[1]): row[2] for row in latest} == newest


async def test_a_clean_part_that_fails_leaves_nothing_of_the_rest(
    pool: Pool, connection: asyncpg.Connection
) -> None:
    store = ReadingStore(pool)
    await store.commit_fresh(batch(Message(AGENTS[0], 0)))
    both = batch(Message(AGENTS[0], 0), Message(AGENTS[1], 0))
    clean, suspect = both.split([1])
    with pytest.raises(asyncpg.UniqueViolationError):
        await store.commit_split(both, clean, suspect)
    assert await connection.fetchval("SELECT count(*) FROM readings") == len(METRICS) * SAMPLES


NASTY = [
    {"metric": 'quote " backslash \\ brace {a,b} NULL', "value": 5e-324, "unit": "NULL"},
    {"metric": "umlaut ä 漢字 🜁 \u007f \t\n", "value": -0.0, "unit": '"'},
    {"metric": "m1", "value": 1.7976931348623157e308, "unit": "\\"},
    {"metric": "m2", "value": 0.1 + 0.2, "unit": "\\N", "note": 'a "text" \\ with {braces}'},
    {"metric": "m3", "value": None, "quality": "bad", "list": [1, {"a": "b\\"}, None]},
    {"metric": "m4", "value": 1, "anomaly_score": -1.5e-9, "anomaly_threshold": 2.25},
    {"metric": "m5", "value": 2, "timestamp": f"{time.strftime('%Y')}-01-01T00:00:00.000001Z"},
    {"metric": "m6", "value": 3, "deviceName": 'device "\\{},', "protocol": "opcua"},
]


async def test_few_rows_are_written_as_many_are(pool: Pool, connection: asyncpg.Connection) -> None:
    copied, merged = AGENTS[:2]
    store = ReadingStore(pool)

    def nasty(agent: str) -> Batch:
        return encode(*((agent, orjson.dumps({"readings": [one]})) for one in NASTY))

    await store.commit_fresh(nasty(copied))
    assert await store.commit_again(nasty(merged)) == {merged: len(NASTY)}
    sql = "SELECT to_jsonb(readings) - 'agent_uuid' FROM readings WHERE agent_uuid = $1 ORDER BY 1"
    by_copy, by_arrays = [await connection.fetch(sql, agent) for agent in (copied, merged)]
    assert len(by_copy) == len(NASTY)
    assert by_copy == by_arrays
