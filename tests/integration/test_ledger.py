"""The loss ledger against a real Redis and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
import redis.asyncio

from iotistica import keys, metrics, sequences
from iotistica._native import Accepted, format_topic
from iotistica.audit.auditor import Auditor
from iotistica.errors import StoreUnavailable
from iotistica.ingestion.bookkeeper import Bookkeeper
from iotistica.keys import Feed
from iotistica.ledger import field
from iotistica.store.agents import AgentStore
from iotistica.store.ledger import LedgerStore, Record
from iotistica.store.pool import Pool
from iotistica.streams import Settlement, Streams, acceptance
from iotistica.streams import ledger as streams_ledger
from iotistica.streams.acceptance import Acceptance
from iotistica.streams.ledger import Page

A, B = "0a8b3b0e-5c1e-4f0e-9d55-0242ac120002", "1a8b3b0e-5c1e-4f0e-9d55-0242ac120002"


class Flow:
    """Messages of a tenant on their way, counted as the services count them."""

    def __init__(self, streams: Streams, tenant: str) -> None:
        self.streams = streams
        self.tenant = tenant
        self.sent = 0

    async def accept(self, *agents: str, feed: Feed = Feed.LIVE, age_ms: int = 0) -> bytes:
        """One entry with a message of each agent."""
        await self.streams.ensure_group(self.tenant, feed)
        received_ms = time.time_ns() // 1_000_000 - age_ms
        fields: list[bytes] = []
        for agent in agents:
            topic = format_topic(self.tenant, agent, "endpoints/x")
            fields += [f"{received_ms}-{self.sent} {topic}".encode(), secrets.token_bytes(20)]
            self.sent += 1
        entry = await self.streams.accept(self.tenant, fields, counts=Accepted(fields), feed=feed)
        await self.streams.read(self.tenant, "c", count=100, block_ms=0, feed=feed)
        return entry

    async def settle(
        self, entry: bytes, *agents: str, feed: Feed = Feed.LIVE, **more: Any
    ) -> list[bytes]:
        """All of an entry is stored, five readings a message."""
        counts = {}
        for agent in set(agents):
            number = agents.count(agent)
            counts[field(agent, "settled")] = number
            counts[field(agent, "readings")] = 5 * number
            counts[field(agent, "stored")] = 4 * number
            counts[field(agent, "rejected", "too_old")] = number
        settlement = Settlement(ids=[entry], counts=counts, **more)
        return await self.streams.settle(self.tenant, settlement, feed=feed)


@pytest.fixture
def flow(streams: Streams, tenant: str) -> Flow:
    return Flow(streams, tenant)


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
def store(pool: Pool) -> LedgerStore:
    return LedgerStore(pool)


@pytest.fixture
def auditor(streams: Streams, store: LedgerStore) -> Auditor:
    return Auditor(streams.ledger, store)


@pytest.fixture
def bookkeeper(streams: Streams, store: LedgerStore) -> Callable[[], Bookkeeper]:
    """A bookkeeper of another process each time, to which every snapshot is due."""

    def make() -> Bookkeeper:
        return Bookkeeper(streams.ledger, store, period_s=0.0, most_share=math.inf)

    return make


async def agents_of(connection: asyncpg.Connection) -> dict[str, dict[str, Any]]:
    rows = await connection.fetch("SELECT * FROM ledger_agents")
    return {row["agent"]: dict(row) for row in rows}


def metric(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"iotistica_{name}", labels)


# Accepted messages


def streams_of(redis_url: str, clock: Callable[[], float]) -> Streams:
    """Those of another process, with its own clock."""
    other = Streams(redis_url)
    other._acceptance = Acceptance(clock)
    return other


async def test_accepted_messages_wait_in_a_journal_for_a_second(
    redis_url: str, tenant: str, raw: redis.asyncio.Redis
) -> None:
    now_s = 0.0
    streams = streams_of(redis_url, lambda: now_s)
    flow, book = Flow(streams, tenant), keys.ledger(tenant)
    for _ in range(3):
        await flow.accept(A, B, A)
    assert await raw.hgetall(book) == {}
    assert await raw.hlen(keys.ledger_journal(tenant)) == 3
    now_s = 1.0
    await flow.accept(B)
    # All but the write that counted them.
    assert await raw.hgetall(book) == {field(A, "accepted"): "6", field(B, "accepted"): "3"}
    assert await raw.hlen(keys.ledger_journal(tenant)) == 1
    assert await streams.ledger.counts(tenant) == {A: {"accepted": 6}, B: {"accepted": 4}}
    assert await raw.exists(keys.ledger_journal(tenant)) == 0
    await streams.close()


@pytest.mark.parametrize("bound", ["_MOST_WRITES", "_MOST_FIELDS"])
async def test_a_journal_is_bounded(
    redis_url: str,
    tenant: str,
    raw: redis.asyncio.Redis,
    bound: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptance, bound, 4)
    streams = streams_of(redis_url, lambda: 0.0)
    for _ in range(11):
        await Flow(streams, tenant).accept(*(str(uuid.uuid4()) for _ in range(2)))
        assert await raw.hlen(keys.ledger_journal(tenant)) <= 4
    assert len(await streams.ledger.counts(tenant)) == 22
    await streams.close()


async def test_what_others_have_counted_is_not_counted_again(
    redis_url: str, tenant: str, raw: redis.asyncio.Redis
) -> None:
    now_s = 0.0
    streams, reader = streams_of(redis_url, lambda: now_s), Streams(redis_url)
    flow = Flow(streams, tenant)
    for accepted in range(1, 9):
        await flow.accept(A)
        if accepted in (2, 5):  # before any was counted, and between
            assert await reader.ledger.exact(tenant, [A], ["accepted"]) == {
                A: {"accepted": accepted}
            }
        now_s += 0.4
    assert await reader.ledger.counts(tenant) == {A: {"accepted": 8}}
    now_s += 1
    await flow.accept(A)
    assert await reader.ledger.counts(tenant) == {A: {"accepted": 9}}
    for one in (streams, reader):
        await one.close()


async def test_what_a_process_leaves_in_the_journal_is_counted(
    redis_url: str, tenant: str, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_ledger, "_PAGE_FIELDS", 5)  # in many steps
    for _ in range(30):  # processes that end after one write
        ended = Streams(redis_url)
        await Flow(ended, tenant).accept(A, B, B)
        await ended.close()
    reader = Streams(redis_url)
    assert await reader.ledger.counts(tenant) == {A: {"accepted": 30}, B: {"accepted": 60}}
    assert await raw.exists(keys.ledger_journal(tenant)) == 0
    await reader.close()


async def test_a_write_that_redis_refuses_is_counted_nowhere(
    redis_url: str, tenant: str, raw: redis.asyncio.Redis
) -> None:
    now_s = 0.0
    streams = streams_of(redis_url, lambda: now_s)
    flow = Flow(streams, tenant)
    for _ in range(2):
        await flow.accept(A)
    now_s = 2.0
    before = (await raw.config_get("maxmemory"))["maxmemory"]
    await raw.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await streams.accept(tenant, [b"1-0 t", b"p"], counts=Accepted([b"1-0 t", b"p"]))
        # The ledger can be read meanwhile.
        assert await streams.ledger.exact(tenant, [A], ["accepted"]) == {A: {"accepted": 2}}
        assert await streams.ledger.counts(tenant) == {A: {"accepted": 2}}
    finally:
        await raw.config_set("maxmemory", before)
    await flow.accept(A)
    assert await streams.ledger.counts(tenant) == {A: {"accepted": 3}}
    await streams.close()


async def test_accepted_is_never_less_than_what_became_of_it(
    redis_url: str, tenant: str, raw: redis.asyncio.Redis
) -> None:
    streams, reader = Streams(redis_url), Streams(redis_url)
    flow = Flow(streams, tenant)
    ended = asyncio.Event()

    async def work() -> None:
        for _ in range(200):
            await flow.settle(await flow.accept(A, A), A, A)
        ended.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        while not ended.is_set():
            found = (await reader.ledger.exact(tenant, [A], ["accepted", "settled"]))[A]
            assert 0 <= found.get("accepted", 0) - found.get("settled", 0) <= 2
    assert (await reader.ledger.counts(tenant))[A]["accepted"] == 400
    for one in (streams, reader):
        await one.close()


# Reading Redis


async def test_counters_are_read_by_agent(streams: Streams, flow: Flow, tenant: str) -> None:
    await flow.settle(await flow.accept(A, A, B), A, A, B)
    of_b = {"accepted": 1, "settled": 1, "readings": 5, "stored": 4, "rejected:too_old": 1}
    of_a = {name: 2 * number for name, number in of_b.items()}
    assert await streams.ledger.counts(tenant) == {A: of_a, B: of_b}
    assert await streams.ledger.counts(tenant, B) == {B: of_b}
    assert await streams.ledger.exact(tenant, [A, "x"], ["stored", "late"]) == {
        A: {"stored": 8},
        "x": {},
    }
    assert await streams.ledger.exact(tenant, [A], []) == {A: {}}


async def test_ledgers_of_many_pages_are_read_whole(
    streams: Streams, tenant: str, raw: redis.asyncio.Redis
) -> None:
    agents = [str(uuid.uuid4()) for _ in range(2000)]
    await raw.hset(
        keys.ledger(tenant),
        mapping={field(agent, "accepted"): n for n, agent in enumerate(agents)},
    )
    found = await streams.ledger.counts(tenant)
    assert found == {agent: {"accepted": n} for n, agent in enumerate(agents)}
    assert await streams.ledger.exact(tenant, agents, ["accepted"]) == found


async def test_messages_in_flight_are_counted_by_agent(
    streams: Streams, flow: Flow, tenant: str
) -> None:
    for _ in range(9):
        await flow.accept(A, B, A)
    await flow.accept(B, feed=Feed.BACKFILL, age_ms=60_000)
    await streams.add(tenant, [b"1-0 what/ever", b"p", b"nonsense x", b"p"])
    await streams.add(tenant, [b"data", b"[]", b"source", b""])
    found = await streams.ledger.in_flight(tenant)
    assert found.messages == {A: 18, B: 10, "": 2}
    assert (found.added, found.foreign, found.entries, found.is_counted) == ({}, 1, 12, True)
    now_ms = await streams.ledger.now_ms()
    assert 60_000 <= now_ms - found.oldest_ms[B] < 120_000
    assert now_ms - found.oldest_ms[A] < 60_000


async def test_long_streams_are_not_counted(
    streams: Streams, flow: Flow, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_ledger, "MOST_ENTRIES", 2)
    for _ in range(2):
        await flow.accept(A)
    assert (await streams.ledger.in_flight(tenant)).messages == {A: 2}
    await flow.accept(A)
    found = await streams.ledger.in_flight(tenant)
    assert (found.is_counted, found.entries, found.messages) == (False, 3, {})


async def test_what_moves_to_the_backfill_stream_meanwhile_is_found_again(
    streams: Streams, flow: Flow, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [await flow.accept(A) for _ in range(3)]
    await flow.accept(B, feed=Feed.BACKFILL)
    script = streams.ledger._eval
    moved = []

    async def move_first(lua: str, stream: str, *arguments: Any) -> Any:
        if stream == keys.ingestion_stream(tenant) and arguments and not moved:
            moved.append(entries[0])
            topic = format_topic(tenant, A, "endpoints/x").encode()
            settlement = Settlement(ids=[entries[0]], backfill=[[b"1-0 " + topic, b"p"]])
            await streams.settle(tenant, settlement)
        return await script(lua, stream, *arguments)

    monkeypatch.setattr(streams.ledger, "_eval", move_first)
    found = await streams.ledger.in_flight(tenant)
    assert (found.messages, found.added) == ({A: 2, B: 1}, {A: 1})


# Keeping it in PostgreSQL


async def test_a_snapshot_holds_every_counter_by_value(
    streams: Streams,
    flow: Flow,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    connection: asyncpg.Connection,
) -> None:
    await flow.settle(await flow.accept(A, A), A, A, sequences={A: [(1, 2)]})
    await flow.accept(B)
    await bookkeeper().run_once([tenant])
    kept = await agents_of(connection)
    assert kept[A]["counters"] == (
        '{"stored": 8, "settled": 2, "accepted": 2, "readings": 10, "rejected:too_old": 2}'
    )
    assert kept[B]["counters"] == '{"accepted": 1}'
    assert sequences.parse(kept[A]["sequences"]).current == ((1, 2),)
    assert (kept[A]["past"], kept[A]["past_sequences"]) == ("{}", "")
    head = await connection.fetchrow("SELECT * FROM ledgers")
    assert (head["tenant_id"], head["epoch"]) == (tenant, await streams.ledger.epoch(tenant))
    assert metric("ledger_messages", tenant=tenant, counter="accepted") == 3
    assert metric("ledger_readings", tenant=tenant, counter="rejected") == 2


async def test_a_snapshot_writes_only_the_agents_that_changed(
    flow: Flow,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    connection: asyncpg.Connection,
) -> None:
    keeper = bookkeeper()
    await flow.accept(A, B)
    await keeper.run_once([tenant])
    written = "SELECT agent, xmin::text FROM ledger_agents ORDER BY agent"
    before = dict(await connection.fetch(written))
    await flow.accept(B)
    await keeper.run_once([tenant])
    after = dict(await connection.fetch(written))
    assert before[A] == after[A]
    assert before[B] != after[B]
    # Another process does not know what stands there, and still writes nothing anew.
    await keeper.close()
    await bookkeeper().run_once([tenant])
    assert dict(await connection.fetch(written)) == after


async def test_of_two_processes_one_keeps_the_ledger_until_it_leaves(
    flow: Flow,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    connection: asyncpg.Connection,
) -> None:
    first, second = bookkeeper(), bookkeeper()
    await flow.accept(A)
    await asyncio.gather(first.run_once([tenant]), second.run_once([tenant]))
    holder = await connection.fetchval("SELECT holder FROM ledgers")
    ours, other = (first, second) if holder == first._name else (second, first)
    await flow.accept(A)
    await other.run_once([tenant])
    assert (await agents_of(connection))[A]["counters"] == '{"accepted": 1}'
    await ours.run_once([tenant])
    assert (await agents_of(connection))[A]["counters"] == '{"accepted": 2}'
    await ours.close()
    await flow.accept(A)
    await other.run_once([tenant])
    assert (await agents_of(connection))[A]["counters"] == '{"accepted": 3}'
    await ours.run_once([tenant])
    assert await connection.fetchval("SELECT holder FROM ledgers") == other._name


async def test_a_process_that_died_is_succeeded(
    flow: Flow,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    connection: asyncpg.Connection,
) -> None:
    await bookkeeper().run_once([tenant])
    await flow.accept(A)
    successor = bookkeeper()
    await successor.run_once([tenant])
    assert await agents_of(connection) == {}
    await connection.execute("UPDATE ledgers SET held_until = now() - interval '1 second'")
    await successor.run_once([tenant])
    assert (await agents_of(connection))[A]["counters"] == '{"accepted": 1}'


async def test_a_snapshot_of_one_who_no_longer_holds_the_ledger_is_refused(
    tenant: str, store: LedgerStore, connection: asyncpg.Connection
) -> None:
    some = {A: Record({"accepted": 1})}
    assert await store.lease([tenant], "one", seconds=30) == {tenant: ""}
    assert await store.lease([tenant], "two", seconds=30) == {}
    assert await store.begin(tenant, "two", "e") is None
    assert await store.begin(tenant, "one", "e") == []
    assert await store.keep(tenant, "two", "e", some) is None
    assert await store.keep(tenant, "one", "another", some) is None
    assert await agents_of(connection) == {}
    assert await store.keep(tenant, "one", "e", some) == 0
    assert await store.lease([tenant], "one", seconds=30) == {tenant: "e"}


async def test_a_large_ledger_is_kept_less_often_and_its_loss_noticed_at_once(
    flow: Flow,
    tenant: str,
    streams: Streams,
    store: LedgerStore,
    raw: redis.asyncio.Redis,
    connection: asyncpg.Connection,
) -> None:
    keeper = Bookkeeper(streams.ledger, store, period_s=0.0, most_share=1e-6)
    await flow.accept(A)
    await keeper.run_once([tenant])
    await flow.accept(A)
    await keeper.run_once([tenant])
    assert (await agents_of(connection))[A]["counters"] == '{"accepted": 1}'
    await raw.flushall()
    await keeper.run_once([tenant])
    assert [loss.in_flight_at_most for loss in await store.losses(tenant)] == [1]


# Losing Redis


async def lose(raw: redis.asyncio.Redis, streams: Streams, tenant: str) -> None:
    await raw.flushall()
    for feed in Feed:
        await streams.ensure_group(tenant, feed)


async def test_redis_losing_its_data_is_reported_with_its_bound(
    streams: Streams,
    flow: Flow,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    auditor: Auditor,
    store: LedgerStore,
    raw: redis.asyncio.Redis,
    connection: asyncpg.Connection,
) -> None:
    keeper = bookkeeper()
    await flow.settle(await flow.accept(A, A, A), A, A, A)
    await flow.accept(A, B, B)
    await keeper.run_once([tenant])
    epoch = await streams.ledger.epoch(tenant)
    await lose(raw, streams, tenant)
    await flow.settle(await flow.accept(A), A)

    # The audit sees it before anybody has reported it.
    unreported = await auditor.report(tenant)
    assert [(one.agent, one.lost) for one in unreported.accounts] == [(A, 1), (B, 2)]
    assert unreported.evidence.losses == []
    assert unreported.balanced is True

    await keeper.run_once([tenant])
    [loss] = await store.losses(tenant)
    assert (loss.epoch, loss.kind, loss.accepted, loss.settled, loss.spooled) == (
        *(epoch, "emptied", 6, 3, 0),
    )
    assert (loss.in_flight_at_most, loss.unseen_estimate) == (3, 0)
    assert loss.snapshot_at < loss.detected_at
    assert metric("ledger_losses_total", tenant=tenant) == 1
    assert metric("ledger_lost_messages_total", tenant=tenant) == 3

    found = await auditor.report(tenant)
    assert found.balanced is True
    assert not found.is_clean
    assert found.total.lost == 3
    assert (found.total.counts["accepted"], found.total.counts["stored"]) == (7, 16)
    assert [(one.agent, one.lost, one.in_flight) for one in found.accounts] == [
        (A, 1, 0),
        (B, 2, 0),
    ]

    await keeper.run_once([tenant])
    assert len(await store.losses(tenant)) == 1
    kept = await agents_of(connection)
    assert kept[B]["counters"] == "{}"
    assert kept[B]["past"] == '{"accepted": 2}'


async def test_epochs_add_up(
    streams: Streams,
    flow: Flow,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    auditor: Auditor,
    raw: redis.asyncio.Redis,
) -> None:
    keeper = bookkeeper()
    for _ in range(3):
        await flow.settle(await flow.accept(A), A)
        await flow.accept(A)
        await keeper.run_once([tenant])
        await lose(raw, streams, tenant)
    await flow.settle(await flow.accept(A), A)
    await keeper.run_once([tenant])
    [account] = (await auditor.report(tenant)).accounts
    assert account.counts == {
        "accepted": 7,
        "settled": 4,
        "readings": 20,
        "stored": 16,
        "rejected:too_old": 4,
    }
    assert (account.lost, account.balanced) == (3, True)
    assert metric("ledger_losses_total", tenant=tenant) == 3


async def test_messages_that_came_after_the_snapshot_are_estimated(
    streams: Streams,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    store: LedgerStore,
    flow: Flow,
    raw: redis.asyncio.Redis,
    connection: asyncpg.Connection,
) -> None:
    keeper = bookkeeper()
    await flow.accept(A)
    await keeper.run_once([tenant])
    rate = "SELECT accepted_per_s FROM ledgers"
    assert await connection.fetchval(rate) == 0
    await flow.accept(*[A] * 400)
    await keeper.run_once([tenant])
    assert await connection.fetchval(rate) > 0
    await connection.execute(
        "UPDATE ledgers SET accepted_per_s = 7, snapshot_at = snapshot_at - interval '10 seconds'"
    )
    await lose(raw, streams, tenant)
    await keeper.run_once([tenant])
    [loss] = await store.losses(tenant)
    assert loss.in_flight_at_most == 401
    assert 70 <= loss.unseen_estimate < 140


async def test_a_ledger_without_messages_loses_nothing(
    streams: Streams,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    store: LedgerStore,
    raw: redis.asyncio.Redis,
) -> None:
    keeper = bookkeeper()
    await keeper.run_once([tenant])
    await lose(raw, streams, tenant)
    await keeper.run_once([tenant])
    assert await store.losses(tenant) == []


async def test_redis_coming_back_older_is_a_loss_of_what_is_missing(
    streams: Streams,
    flow: Flow,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    store: LedgerStore,
    raw: redis.asyncio.Redis,
) -> None:
    keeper = bookkeeper()
    await flow.accept(A, A)
    assert await streams.ledger.counts(tenant) == {A: {"accepted": 2}}
    older = await raw.hgetall(keys.ledger(tenant))
    await keeper.run_once([tenant])
    epoch = await streams.ledger.epoch(tenant)
    await flow.accept(A, B, B, B)
    await keeper.run_once([tenant])
    await raw.delete(keys.ledger(tenant))
    await raw.hset(keys.ledger(tenant), mapping={**older, "epoch": epoch})
    await keeper.run_once([tenant])
    [loss] = await store.losses(tenant)
    assert (loss.kind, loss.in_flight_at_most, loss.accepted) == ("rolled_back", 4, 2)
    await keeper.run_once([tenant])
    assert len(await store.losses(tenant)) == 1


async def test_a_ledger_that_vanishes_while_it_is_read_is_not_kept(
    streams: Streams,
    flow: Flow,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    store: LedgerStore,
    raw: redis.asyncio.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeper = bookkeeper()
    await flow.accept(A, A)
    await keeper.run_once([tenant])
    await flow.accept(A)
    read = streams.ledger.exact

    async def lose_now(*arguments: Any) -> dict[str, dict[str, int]]:
        await raw.flushall()
        return await read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(streams.ledger, "exact", lose_now)
        await keeper.run_once([tenant])
    assert await store.losses(tenant) == []
    await keeper.run_once([tenant])
    [loss] = await store.losses(tenant)
    assert (loss.kind, loss.in_flight_at_most) == ("emptied", 2)


async def test_numbers_of_before_and_after_a_loss_are_judged_together(
    streams: Streams,
    flow: Flow,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    auditor: Auditor,
    raw: redis.asyncio.Redis,
) -> None:
    keeper = bookkeeper()
    await flow.settle(await flow.accept(A), A, sequences={A: [(1, 10), (12, 20)]})
    await keeper.run_once([tenant])
    await lose(raw, streams, tenant)
    await flow.settle(await flow.accept(A), A, sequences={A: [(25, 30)]})
    await keeper.run_once([tenant])
    [account] = (await auditor.report(tenant)).accounts
    assert account.gaps.unknown == [(11, 11), (21, 24)]
    assert (account.gaps.seen, account.gaps.highest, account.gaps.missing) == (25, 30, [])


async def test_a_batch_on_disk_when_redis_was_lost_is_counted_nowhere_twice(
    streams: Streams,
    flow: Flow,
    tenant: str,
    bookkeeper: Callable[[], Bookkeeper],
    auditor: Auditor,
    raw: redis.asyncio.Redis,
) -> None:
    keeper = bookkeeper()
    entry = await flow.accept(A, A)
    put = Settlement(ids=[entry], spooled="batch", counts={field(A, "spooled"): 2})
    await streams.settle(tenant, put)
    await keeper.run_once([tenant])
    await lose(raw, streams, tenant)
    taken = {field(A, "settled"): 2, field(A, "spooled"): -2}
    done = Settlement(unspooled="batch", unspooled_counts=taken, sequences={A: [(1, 2)]})
    assert await streams.settle(tenant, done) == []
    assert await streams.settle(tenant, done) == [b"batch"]
    await keeper.run_once([tenant])
    [account] = (await auditor.report(tenant)).accounts
    assert (account.carried, account.lost, account.balanced) == (2, 0, True)
    assert account.counts == {"accepted": 2, "spooled": 2}


async def test_a_batch_on_disk_whose_entries_others_took_in_part_is_counted_by_them(
    streams: Streams, flow: Flow, tenant: str
) -> None:
    ours, others = await flow.accept(A), await flow.accept(A)
    await flow.settle(others, A)
    counts = {field(A, "settled"): 2}
    taken = Settlement(ids=[ours, others], unspooled="batch", counts=counts)
    assert await streams.settle(tenant, taken) == []
    depth = await streams.depth(tenant)
    assert (depth.entries, depth.pending) == (1, 1)
    await flow.settle(ours, A)
    counted = (await streams.ledger.counts(tenant))[A]
    assert (counted["accepted"], counted["settled"]) == (2, 2)


async def test_a_batch_put_on_disk_after_redis_was_lost_is_not_counted(
    streams: Streams, flow: Flow, tenant: str, raw: redis.asyncio.Redis
) -> None:
    entry = await flow.accept(A, A)
    await raw.flushall()
    put = Settlement(ids=[entry], spooled="batch", counts={field(A, "spooled"): 2})
    await streams.settle(tenant, put)
    taken = {field(A, "settled"): 2, field(A, "spooled"): -2}
    await streams.settle(tenant, Settlement(unspooled="batch", unspooled_counts=taken))
    assert await streams.ledger.counts(tenant) == {}


# The audit


async def test_an_audit_names_what_is_not_accounted_for(
    streams: Streams, flow: Flow, tenant: str, auditor: Auditor, raw: redis.asyncio.Redis
) -> None:
    await flow.settle(await flow.accept(A, B), A, B)
    await flow.accept(A, A)
    assert (await auditor.report(tenant)).is_clean
    entry = await flow.accept(B, B, B)
    await raw.xdel(keys.ingestion_stream(tenant), entry)
    found = await auditor.report(tenant)
    assert found.balanced is False
    assert [(one.agent, one.problems) for one in found.accounts] == [
        (B, ["3 messages came that nothing accounts for"]),
        (A, []),
    ]
    assert (found.total.in_flight, found.total.counts["accepted"]) == (2, 7)
    alone = await auditor.report(tenant, agent=A)
    assert [one.agent for one in alone.accounts] == [A]
    assert alone.is_clean


async def test_an_audit_under_load_finds_a_sound_ledger_sound(
    streams: Streams, flow: Flow, tenant: str, auditor: Auditor
) -> None:
    agents = [str(uuid.uuid4()) for _ in range(300)]
    stop = asyncio.Event()

    async def work(number: int) -> None:
        mine = agents[number::3]
        while not stop.is_set():
            entry = await flow.accept(*mine)
            await flow.settle(entry, *mine)

    workers = [asyncio.create_task(work(number)) for number in range(3)]
    for _ in range(20):
        found = await auditor.report(tenant)
        assert found.balanced is True, [one.problems for one in found.accounts if one.problems]
    stop.set()
    await asyncio.gather(*workers)
    found = await auditor.report(tenant)
    assert found.is_clean
    assert found.total.counts["accepted"] == found.total.counts["settled"] > 300


async def test_a_torn_reading_is_looked_at_again(
    streams: Streams,
    flow: Flow,
    tenant: str,
    auditor: Auditor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await flow.accept(A)

    async def torn(_tenant: str, _agent: str | None = None) -> AsyncIterator[Page]:
        yield [(A, "accepted", 0), (A, "spooled", 5)]

    monkeypatch.setattr(streams.ledger, "pages", torn)
    assert (await auditor.report(tenant)).balanced is True


async def test_an_audit_that_redis_is_lost_under_begins_anew(
    streams: Streams,
    flow: Flow,
    tenant: str,
    auditor: Auditor,
    bookkeeper: Callable[[], Bookkeeper],
    raw: redis.asyncio.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await flow.accept(A, A)
    await bookkeeper().run_once([tenant])
    read, times = streams.ledger.in_flight, []

    async def in_flight(tenant: str) -> Any:
        if not times:
            await raw.flushall()
        times.append(1)
        return await read(tenant)

    monkeypatch.setattr(streams.ledger, "in_flight", in_flight)
    found = await auditor.report(tenant)
    assert len(times) == 2
    assert (found.balanced, found.total.lost) == (True, 2)


async def test_rows_are_counted_in_the_table(
    flow: Flow,
    tenant: str,
    pool: Pool,
    auditor: Auditor,
    bookkeeper: Callable[[], Bookkeeper],
    connection: asyncpg.Connection,
) -> None:
    await bookkeeper().run_once([tenant])
    agents = AgentStore(pool)
    await agents.ensure_tenant(tenant)
    await agents.add_agents(tenant, [(A, "a"), (B, "b")])
    if await connection.fetchval("SELECT to_regproc('readings_make_days') IS NOT NULL"):
        await connection.execute("SELECT readings_make_days(ARRAY[20000])")
    insert = """
        INSERT INTO readings (time, agent_uuid, metric_name, protocol)
        SELECT date '1970-01-01' + 20000 + make_interval(secs => n), $1, 'm', 'modbus'
        FROM generate_series(1, $2::integer) AS n
    """
    await connection.execute(insert, A, 5)
    await connection.execute(insert, B, 3)
    await flow.settle(await flow.accept(A, B), A, B)
    rows = {one.agent: one for one in (await auditor.report(tenant, count=True)).accounts}
    assert (rows[A].rows.found, rows[A].rows.difference) == (5, 1)
    assert rows[A].problems == ["1 more rows than the ledger knows"]
    assert (rows[B].rows.found, rows[B].rows.difference) == (3, -1)
    assert rows[B].problems == ["1 rows missing in the table"]
    assert (await auditor.report(tenant)).is_clean


async def test_rows_that_take_too_long_to_count_are_left_open(
    flow: Flow, tenant: str, auditor: Auditor, store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await flow.settle(await flow.accept(A), A)
    monkeypatch.setattr("iotistica.store.ledger._ROWS", "SELECT pg_sleep(20), $1::uuid")
    pool: Any = store._pool
    async with pool.acquire() as connection:
        await connection.execute(
            "ALTER DATABASE " + connection._params.database + " SET statement_timeout = 50"
        )
    await pool.expire_connections()
    [account] = (await auditor.report(tenant, count=True)).accounts
    assert account.rows.found is None
    assert account.problems == []
