"""Streams against a real Redis."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest
import redis.asyncio

from iotistica.errors import ConfigError, StoreUnavailable
from iotistica.keys import Feed
from iotistica.streams import FIRST, DeadLetter, Entry, Settlement, StreamDepth, Streams

AGENT = "0a8b3b0e-5c1e-4f0e-9d55-0242ac120002"
FIELDS = [b"1795453097011-0 i/T/a/A/endpoints/x", b"\x78\x9c\x00\xff", b"1795453097011-1 y", b""]


def letter(original_id: bytes) -> DeadLetter:
    return DeadLetter(
        data=b"\x78\x9c\x00\xff",
        topic=b"i/T/a/A/endpoints/x",
        original_id=original_id,
        error="payload is not JSON",
        reason="not_json",
        stage="decode",
        agent=AGENT,
        attempts=1,
        readings=7,
        received_ms=1795453097002,
        failed_at=datetime(2026, 11, 20, 12, tzinfo=UTC),
    )


@pytest.fixture
async def raw(redis_url: str) -> redis.asyncio.Redis:
    client = redis.asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


async def test_entry_comes_back_as_the_flat_list_that_was_added(
    streams: Streams, tenant: str
) -> None:
    await streams.ensure_group(tenant)
    entry_id = await streams.add(tenant, FIELDS)
    assert await streams.read(tenant, "one", count=10, block_ms=10) == [(entry_id, FIELDS)]


async def test_group_begins_with_entries_older_than_itself(streams: Streams, tenant: str) -> None:
    entry_id = await streams.add(tenant, FIELDS)
    await streams.ensure_group(tenant)
    assert [entry[0] for entry in await streams.read(tenant, "one", count=10, block_ms=10)] == [
        entry_id
    ]


async def test_empty_stream_is_waited_for(streams: Streams, tenant: str) -> None:
    await streams.ensure_group(tenant)
    reading = asyncio.create_task(streams.read(tenant, "one", count=10, block_ms=4000))
    entry_id = await streams.add(tenant, FIELDS)
    assert [entry[0] for entry in await reading] == [entry_id]
    started = time.monotonic()
    assert await streams.read(tenant, "one", count=10, block_ms=50) == []
    assert time.monotonic() - started < 2


async def test_two_consumers_never_read_the_same_entry(streams: Streams, tenant: str) -> None:
    ids = [await streams.add(tenant, FIELDS) for _ in range(20)]
    await streams.ensure_group(tenant)
    first = await streams.read(tenant, "one", count=7, block_ms=10)
    second = await streams.read(tenant, "two", count=100, block_ms=10)
    assert [entry[0] for entry in first + second] == ids


async def test_settled_entry_is_gone_and_its_neighbor_stays(streams: Streams, tenant: str) -> None:
    first, _second = [await streams.add(tenant, FIELDS) for _ in range(2)]
    await streams.ensure_group(tenant)
    await streams.read(tenant, "one", count=10, block_ms=10)
    await streams.settle(tenant, Settlement(ids=[first]))
    assert await streams.depth(tenant) == StreamDepth(entries=1, lag=0, pending=1, dead_letters=0)


async def test_unread_entries_survive_any_settling(streams: Streams, tenant: str) -> None:
    await streams.ensure_group(tenant)
    read = await streams.add(tenant, FIELDS)
    await streams.read(tenant, "one", count=1, block_ms=10)
    unread = await streams.add(tenant, FIELDS)
    await streams.settle(tenant, Settlement(ids=[read]))
    assert await streams.depth(tenant) == StreamDepth(entries=1, lag=1, pending=0, dead_letters=0)
    assert [entry[0] for entry in await streams.read(tenant, "one", count=9, block_ms=10)] == [
        unread
    ]


async def test_dead_letter_holds_every_field_by_value(
    streams: Streams, tenant: str, raw: redis.asyncio.Redis
) -> None:
    await streams.ensure_group(tenant)
    entry_id = await streams.add(tenant, FIELDS)
    await streams.read(tenant, "one", count=10, block_ms=10)
    await streams.settle(tenant, Settlement(ids=[entry_id], letters=[letter(entry_id)]))
    [(_, fields)] = await raw.xrange(f"tenant:{{{tenant}}}:agent:devices:dlq")
    assert fields == {
        b"data": b"\x78\x9c\x00\xff",
        b"topic": b"i/T/a/A/endpoints/x",
        b"original_id": entry_id,
        b"error": b"payload is not JSON",
        b"reason": b"not_json",
        b"stage": b"decode",
        b"attempts": b"1",
        b"failed_at": b"2026-11-20T12:00:00+00:00",
        b"tenant": tenant.encode(),
        b"agent": AGENT.encode(),
        b"readings": b"7",
        b"replays": b"0",
        b"received_ms": b"1795453097002",
    }
    assert await streams.depth(tenant) == StreamDepth(entries=0, lag=0, pending=0, dead_letters=1)


async def test_dead_letter_needs_no_entry(streams: Streams, tenant: str) -> None:
    await streams.dead_letter(tenant, [letter(b""), letter(b"")])
    assert (await streams.depth(tenant)).dead_letters == 2


async def test_idle_entries_are_claimed_and_held_ones_are_not(
    streams: Streams, tenant: str
) -> None:
    ids = [await streams.add(tenant, FIELDS) for _ in range(2)]
    await streams.ensure_group(tenant)
    await streams.read(tenant, "dead", count=10, block_ms=10)
    assert await streams.claim(tenant, "heir", min_idle_ms=60_000, count=10) == ([], FIRST)
    claimed: list[Entry] = []
    while not claimed:
        await streams.hold(tenant, "dead", ids[:1])
        claimed, _ = await streams.claim(tenant, "heir", min_idle_ms=50, count=10)
    assert claimed == [(ids[1], FIELDS)]


async def test_lost_group_is_made_again_and_nothing_is_skipped(
    streams: Streams, tenant: str, raw: redis.asyncio.Redis
) -> None:
    entry_id = await streams.add(tenant, FIELDS)
    assert await streams.read(tenant, "one", count=10, block_ms=10) == []  # made it
    assert len(await streams.read(tenant, "one", count=10, block_ms=10)) == 1
    await raw.xgroup_destroy(
        f"tenant:{{{tenant}}}:agent:devices:ingestion", f"{tenant}:device-writers"
    )
    assert await streams.claim(tenant, "one", min_idle_ms=0, count=10) == ([], FIRST)  # made it
    again = await streams.read(tenant, "one", count=10, block_ms=10)
    assert [entry[0] for entry in again] == [entry_id]


async def test_every_page_of_idle_entries_is_claimed(streams: Streams, tenant: str) -> None:
    ids = [await streams.add(tenant, FIELDS) for _ in range(7)]
    await streams.ensure_group(tenant)
    await streams.read(tenant, "dead", count=10, block_ms=10)
    claimed: list[bytes] = []
    start, pages = FIRST, 0
    while pages == 0 or start != FIRST:
        page, start = await streams.claim(tenant, "heir", min_idle_ms=0, count=3, start=start)
        claimed += [entry[0] for entry in page]
        pages += 1
    assert claimed == ids
    assert pages == 3


async def test_of_several_who_miss_a_group_one_makes_it(streams: Streams, tenant: str) -> None:
    assert await streams.ensure_group(tenant)
    assert not await streams.ensure_group(tenant)


async def test_a_group_that_was_lost_is_told(
    streams: Streams, tenant: str, raw: redis.asyncio.Redis
) -> None:
    lost: list[tuple[str, Feed]] = []
    streams.on_lost = lambda tenant, feed: lost.append((tenant, feed))
    await streams.ensure_group(tenant, Feed.BACKFILL)
    assert lost == []
    await raw.flushall()
    assert await streams.read(tenant, "one", count=1, block_ms=0, feed=Feed.BACKFILL) == []
    await streams.restore_group(tenant, Feed.BACKFILL)
    assert lost == [(tenant, Feed.BACKFILL)]


async def test_consumers_that_hold_entries_are_never_removed(
    streams: Streams, tenant: str, raw: redis.asyncio.Redis
) -> None:
    await streams.ensure_group(tenant)
    entry_id = await streams.add(tenant, FIELDS)
    await streams.read(tenant, "holder", count=1, block_ms=0)
    for name in ("gone", "ours"):
        await raw.xgroup_createconsumer(
            f"tenant:{{{tenant}}}:agent:devices:ingestion", f"{tenant}:device-writers", name
        )
    assert await streams.remove_consumers(tenant, min_idle_ms=60_000) == []
    assert await streams.remove_consumers(tenant, min_idle_ms=0, keep="ours") == [b"gone"]
    assert await streams.remove_consumers(tenant, min_idle_ms=0, only="holder") == []
    await streams.settle(tenant, Settlement(ids=[entry_id]))
    assert await streams.remove_consumers(tenant, min_idle_ms=0, only="holder") == [b"holder"]
    assert await streams.remove_consumers(tenant, min_idle_ms=0) == [b"ours"]


async def test_consumers_of_a_stream_that_is_gone_are_none(streams: Streams, tenant: str) -> None:
    assert await streams.remove_consumers(tenant, min_idle_ms=0) == []


async def test_dead_letters_of_many_tenants_are_counted_at_once(
    streams: Streams, tenant: str
) -> None:
    await streams.dead_letter(tenant, [letter(b""), letter(b"")])
    tenants = [f"t{number}" for number in range(300)]
    counts = await streams.dead_letter_counts([*tenants, tenant])
    assert counts == {**dict.fromkeys(tenants, 0), tenant: 2}


async def test_depth_of_nothing_is_zero(streams: Streams, tenant: str) -> None:
    nothing = StreamDepth(entries=0, lag=0, pending=0, dead_letters=0)
    assert await streams.depth(tenant) == nothing


async def test_redis_away_is_unavailable_whatever_is_asked(
    tenant: str, unused_tcp_port: int
) -> None:
    streams = Streams(f"redis://127.0.0.1:{unused_tcp_port}")
    calls = [
        streams.ping(),
        streams.add(tenant, FIELDS),
        streams.ensure_group(tenant),
        streams.read(tenant, "one", count=1, block_ms=1),
        streams.claim(tenant, "one", min_idle_ms=0, count=1),
        streams.settle(tenant, Settlement(ids=[b"1-1"])),
        streams.depth(tenant),
        streams.dictionaries.find([AGENT]),
        streams.parking.parked(tenant),
        streams.parking.release(tenant, ["1-1"]),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="Redis could not"):
            await call
    await streams.close()


async def test_wrong_password_is_unavailable(redis_url: str, tenant: str) -> None:
    streams = Streams(redis_url.replace("@", "x@"))
    with pytest.raises(StoreUnavailable, match="Redis could not"):
        await streams.add(tenant, FIELDS)
    await streams.close()


def test_malformed_url_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="REDIS_URL is not a Redis URL"):
        Streams("http://127.0.0.1")


async def test_settling_twice_does_nothing_the_second_time(
    streams: Streams, raw: redis.asyncio.Redis, tenant: str
) -> None:
    await streams.ensure_group(tenant)
    entry_id = await streams.add(tenant, [b"1-0 t", b"p"], counts={"a|accepted": 1})
    await streams.read(tenant, "c", count=1, block_ms=10)
    done = Settlement(ids=[entry_id], letters=[letter(entry_id)], counts={"a|settled": 1})
    assert await streams.settle(tenant, done) == []
    assert await streams.settle(tenant, done) == [entry_id]
    assert (await streams.depth(tenant)).dead_letters == 1
    ledger = await raw.hgetall(f"tenant:{{{tenant}}}:ledger")
    assert ledger == {b"a|accepted": b"1", b"a|settled": b"1"}


async def test_a_full_redis_still_settles(
    streams: Streams, raw: redis.asyncio.Redis, tenant: str
) -> None:
    await streams.ensure_group(tenant)
    entry_id = await streams.add(tenant, [b"1-0 t", b"p"])
    await streams.read(tenant, "c", count=1, block_ms=10)
    before = (await raw.config_get("maxmemory"))["maxmemory"]
    await raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await streams.add(tenant, [b"1-1 t", b"p"], counts={"a|accepted": 1})
        done = Settlement(ids=[entry_id], letters=[letter(entry_id)], counts={"a|settled": 1})
        assert await streams.settle(tenant, done) == []
    finally:
        await raw.config_set("maxmemory", before)
    assert (await streams.depth(tenant)).entries == 0
    assert await raw.hgetall(f"tenant:{{{tenant}}}:ledger") == {b"a|settled": b"1"}


async def test_after_redis_lost_its_data_dead_letters_are_kept_and_nothing_counted(
    streams: Streams, raw: redis.asyncio.Redis, tenant: str
) -> None:
    done = Settlement(ids=[b"1-1"], letters=[letter(b"1-1")], counts={"a|settled": 1})
    assert await streams.settle(tenant, done) == []
    assert (await streams.depth(tenant)).dead_letters == 1
    assert await raw.exists(f"tenant:{{{tenant}}}:ledger") == 0


async def test_a_batch_on_disk_is_counted_once(
    streams: Streams, raw: redis.asyncio.Redis, tenant: str
) -> None:
    await streams.ensure_group(tenant)
    entry_id = await streams.add(tenant, [b"1-0 t", b"p"])
    await streams.read(tenant, "c", count=1, block_ms=10)
    await streams.settle(
        tenant, Settlement(ids=[entry_id], spooled="batch", counts={"a|spooled": 1})
    )
    done = Settlement(
        letters=[letter(entry_id)],
        counts={"a|settled": 1},
        unspooled="batch",
        unspooled_counts={"a|spooled": -1},
    )
    assert await streams.settle(tenant, done) == []
    assert await streams.settle(tenant, done) == [b"batch"]
    assert (await streams.depth(tenant)).dead_letters == 1
    ledger = await raw.hgetall(f"tenant:{{{tenant}}}:ledger")
    assert ledger == {b"a|spooled": b"0", b"a|settled": b"1"}
    await streams.forget_spooled(tenant, "batch")
    assert await raw.exists(f"tenant:{{{tenant}}}:ledger:spooled") == 0


async def test_a_batch_on_disk_takes_entries_that_were_not_settled_when_it_was_written(
    streams: Streams, raw: redis.asyncio.Redis, tenant: str
) -> None:
    await streams.ensure_group(tenant)
    entry_id = await streams.add(tenant, [b"1-0 t", b"p"], counts={"a|accepted": 1})
    await streams.read(tenant, "c", count=1, block_ms=10)
    done = Settlement(
        ids=[entry_id],
        counts={"a|settled": 1},
        unspooled="batch",
        unspooled_counts={"a|spooled": -1},
    )
    assert await streams.settle(tenant, done) == []
    assert (await streams.depth(tenant)).entries == 0
    # The consumer that had claimed them comes too late.
    late = Settlement(ids=[entry_id], counts={"a|settled": 1})
    assert await streams.settle(tenant, late) == [entry_id]
    ledger = await raw.hgetall(f"tenant:{{{tenant}}}:ledger")
    assert ledger == {b"a|accepted": b"1", b"a|settled": b"1"}


async def test_a_batch_on_disk_whose_entries_were_settled_meanwhile_is_not_counted(
    streams: Streams, raw: redis.asyncio.Redis, tenant: str
) -> None:
    await streams.ensure_group(tenant)
    entry_id = await streams.add(tenant, [b"1-0 t", b"p"], counts={"a|accepted": 1})
    await streams.read(tenant, "c", count=1, block_ms=10)
    await streams.settle(tenant, Settlement(ids=[entry_id], counts={"a|settled": 1}))
    done = Settlement(ids=[entry_id], counts={"a|settled": 1}, unspooled="batch")
    assert await streams.settle(tenant, done) == []
    ledger = await raw.hgetall(f"tenant:{{{tenant}}}:ledger")
    assert ledger == {b"a|accepted": b"1", b"a|settled": b"1"}
