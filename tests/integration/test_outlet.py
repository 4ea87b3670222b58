"""Redis away, full, or too deep: the bridge's disk spool, and the broker behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests import books
from tests.integration.test_bridge import World, subscribed, until, world

from iotistica import keys, ledger
from iotistica.api.bridge import Bridge
from iotistica.embedded.ports import free_port
from iotistica.spool import inventory

__all__ = ["world"]  # a fixture

PAYLOADS = [b"%d" % number for number in range(500)]


@pytest.fixture
def nowhere() -> str:
    """URL of a Redis that refuses."""
    return f"redis://127.0.0.1:{free_port()}/0"


def on_disk(world: World) -> int:
    found = inventory.holdings(world.settings.spool_root("api").parent)
    return sum(one.messages.get(world.tenant, 0) for one in found)


async def spooled(world: World, messages: int) -> bool:
    return on_disk(world) == messages


async def stored(world: World, messages: int) -> bool:
    return len(await world.stored()) >= messages


async def counted(world: World) -> dict[str, int]:
    found = await books.counts(world.settings.require("redis_url"), world.tenant)
    return {
        ledger.field(agent, counter): number
        for agent, counters in found.items()
        for counter, number in counters.items()
    }


async def test_without_redis_messages_are_safe_on_disk_and_acknowledged(
    world: World, nowhere: str
) -> None:
    async with world.bridge(redis_url=nowhere) as bridge, world.publisher() as agent:
        await subscribed(bridge)
        await agent.publish_many((world.topic(), payload) for payload in PAYLOADS)
        await until(lambda: spooled(world, 500))
        assert any("Redis could not" in reason for reason in bridge.reasons())
    # Another process, later: the broker has nothing left to give, the disk has all of it.
    async with world.bridge() as bridge:
        await until(lambda: stored(world, 500))
        await until(lambda: spooled(world, 0))
        await until(lambda: ready(bridge))
    assert sorted(payload for _, payload in await world.stored()) == sorted(PAYLOADS)
    assert await counted(world) == {ledger.field(world.agent, ledger.ACCEPTED): 500}


async def ready(bridge: Bridge) -> bool:
    return not bridge.reasons()


async def test_letters_wait_on_disk_too(world: World, nowhere: str) -> None:
    async with (
        world.bridge(redis_url=nowhere, max_message_bytes=1000) as bridge,
        world.publisher() as agent,
    ):
        await subscribed(bridge)
        await agent.publish(world.topic(), bytes(2000))
        await until(lambda: spooled(world, 1))
    async with world.bridge():
        [letter] = await until(lambda: world.letters(world.tenant))
        await until(lambda: spooled(world, 0))
    assert letter[b"reason"] == b"too_large"
    assert letter[b"data"] == bytes(2000)
    assert await counted(world) == {
        ledger.field(world.agent, ledger.ACCEPTED): 1,
        ledger.field(world.agent, ledger.SETTLED): 1,
        ledger.field(world.agent, ledger.REFUSED, "too_large"): 1,
    }


async def test_a_redis_at_maxmemory_is_survived(world: World) -> None:
    before = (await world.redis.config_get("maxmemory"))["maxmemory"]
    async with world.bridge() as bridge, world.publisher() as agent:
        await subscribed(bridge)
        await world.redis.config_set("maxmemory", 1)
        try:
            await agent.publish_many((world.topic(), payload) for payload in PAYLOADS)
            await until(lambda: spooled(world, 500))
        finally:
            await world.redis.config_set("maxmemory", before)
        await until(lambda: stored(world, 500))
    assert sorted(payload for _, payload in await world.stored()) == sorted(PAYLOADS)


@pytest.fixture
async def deep(world: World) -> World:
    """A stream that is longer than its mark."""
    for _ in range(10):
        await world.redis.xadd(keys.ingestion_stream(world.tenant), {"1-0 x": "y"})
    return world


async def test_a_stream_past_its_mark_gets_nothing_more_until_it_is_shorter(deep: World) -> None:
    world = deep
    async with world.bridge(stream_high_entries=10) as bridge, world.publisher() as agent:
        await subscribed(bridge)

        async def is_high() -> bool:
            await agent.publish(world.topic(), b"0")
            return any("more than 10 entries" in reason for reason in bridge.reasons())

        await until(is_high)
        before = await world.redis.xlen(keys.ingestion_stream(world.tenant))
        await agent.publish_many((world.topic(), payload) for payload in PAYLOADS)

        async def all_on_disk() -> bool:
            return on_disk(world) >= len(PAYLOADS)

        await until(all_on_disk)
        assert await world.redis.xlen(keys.ingestion_stream(world.tenant)) == before
        await world.redis.delete(keys.ingestion_stream(world.tenant))
        await until(lambda: spooled(world, 0))
        await until(lambda: ready(bridge))
    # The earlier ones were deleted with the stream; none of these was.
    assert sorted({p for _, p in await world.stored()} | {b"0"}) == sorted(PAYLOADS)


async def test_a_full_spool_holds_the_broker_back_and_says_so(world: World, nowhere: str) -> None:
    payloads = [b"%08d" % number + bytes(20_000) for number in range(100)]
    bound = {"api_spool_max_bytes": 1 << 20}
    async with world.bridge(redis_url=nowhere, **bound) as bridge, world.publisher() as agent:
        await subscribed(bridge)
        await agent.publish_many((world.topic(), payload) for payload in payloads)

        async def is_full() -> bool:
            return any("its bound is 1048576" in reason for reason in bridge.reasons())

        await until(is_full)
    async with world.bridge(**bound):
        await until(lambda: all_there(world, payloads))


async def all_there(world: World, payloads: list[bytes]) -> bool:
    return {payload for _, payload in await world.stored()} == set(payloads)


async def test_what_a_dead_process_left_is_adopted(world: World, nowhere: str) -> None:
    async with world.bridge(redis_url=nowhere) as bridge, world.publisher() as agent:
        await subscribed(bridge)
        async with world.bridge("bridge-1", redis_url=nowhere) as other:
            await subscribed(other)
            await agent.publish_many((world.topic(), payload) for payload in PAYLOADS)
            await until(lambda: spooled(world, 500))
    async with world.bridge():
        await until(lambda: stored(world, 500))
    assert sorted(payload for _, payload in await world.stored()) == sorted(PAYLOADS)


async def test_nothing_doubles_when_a_replay_is_interrupted(world: World, nowhere: str) -> None:
    async with world.bridge(redis_url=nowhere) as bridge, world.publisher() as agent:
        await subscribed(bridge)
        await agent.publish_many((world.topic(), payload) for payload in PAYLOADS)
        await until(lambda: spooled(world, 500))
    before = (await world.redis.config_get("maxmemory"))["maxmemory"]
    async with world.bridge():
        for limit in (1, before) * 5:
            await world.redis.config_set("maxmemory", limit)
            await asyncio.sleep(0)
        await until(lambda: stored(world, 500))
    assert sorted(payload for _, payload in await world.stored()) == sorted(PAYLOADS)


async def test_what_is_over_quota_goes_to_the_backfill_stream(world: World) -> None:
    async with (
        world.bridge(quota_messages_per_s=10.0) as bridge,
        world.publisher() as agent,
    ):
        await subscribed(bridge)
        # Ten seconds are saved up, and one batch may run into debt.
        await agent.publish_many((world.topic(), payload) for payload in PAYLOADS)
        await until(lambda: taken(world, 500))
        await agent.publish_many((world.topic(), payload) for payload in PAYLOADS)
        await until(lambda: taken(world, 1000))
    live = len(await world.stored())
    assert 100 <= live <= 500
    assert live + await backfilled(world) == 1000
    assert await counted(world) == {ledger.field(world.agent, ledger.ACCEPTED): 1000}


async def backfilled(world: World) -> int:
    stream = keys.ingestion_stream(world.tenant, keys.Feed.BACKFILL)
    entries = await world.redis.execute_command("XRANGE", stream, "-", "+")
    return sum(len(fields) // 2 for _, fields in entries)


async def taken(world: World, messages: int) -> bool:
    return len(await world.stored()) + await backfilled(world) >= messages


def test_a_mark_does_not_flap() -> None:
    from iotistica.api.pressure import Mark

    mark = Mark(100)
    levels: list[tuple[float, Any]] = [(99, False), (100, True), (81, True), (79, False)]
    assert [mark.see(level) for level, _ in levels] == [high for _, high in levels]
    assert not mark.see(99)
