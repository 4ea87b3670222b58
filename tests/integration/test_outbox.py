"""The outbox and the channels, on a real Redis."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio

from iotistica import keys
from iotistica.errors import StoreUnavailable
from iotistica.streams import Outgoing, Streams, outgoing

HELLO = Outgoing("i/t/a/a/jobs/notify", b'{"hello":1}')
RETAINED = Outgoing("i/t/a/a/target", b"\x00\xff", retain=True)


async def test_messages_come_out_as_they_went_in_and_in_order(streams: Streams) -> None:
    await streams.outbox.put([HELLO, RETAINED])
    found = await streams.outbox.read("one", count=10)
    assert [outgoing(fields) for _, fields in found] == [HELLO, RETAINED]
    assert await streams.outbox.waiting() == 2
    await streams.outbox.done([entry_id for entry_id, _ in found])
    assert await streams.outbox.waiting() == 0
    assert await streams.outbox.read("one", count=10) == []


async def test_what_was_read_and_not_finished_comes_again(streams: Streams) -> None:
    await streams.outbox.put([HELLO])
    (first,) = await streams.outbox.read("one", count=10)
    assert await streams.outbox.read("one", count=10) == []
    assert await streams.outbox.read("one", count=10, again=True) == [first]


async def test_messages_of_a_dead_consumer_are_claimed(streams: Streams) -> None:
    await streams.outbox.put([HELLO])
    (first,) = await streams.outbox.read("dead", count=10)
    assert await streams.outbox.claim("alive", min_idle_ms=60_000, count=10) == []
    assert await streams.outbox.claim("alive", min_idle_ms=0, count=10) == [first]
    assert await streams.outbox.read("dead", count=10, again=True) == []


async def test_a_full_outbox_refuses_and_forgets_nothing(redis_url: str) -> None:
    streams = Streams(redis_url, outbox_most=3)
    try:
        await streams.outbox.put([HELLO, HELLO])
        with pytest.raises(StoreUnavailable, match="holds 2 messages for agents, at most 3"):
            await streams.outbox.put([HELLO, HELLO])
        await streams.outbox.put([RETAINED])
        found = await streams.outbox.read("one", count=10)
        assert [outgoing(fields) for _, fields in found] == [HELLO, HELLO, RETAINED]
    finally:
        await streams.close()


async def test_a_reader_that_waits_is_woken(streams: Streams) -> None:
    await streams.outbox.read("one", count=1)
    waiting = asyncio.create_task(streams.outbox.read("one", count=1, block_ms=4000))
    await streams.outbox.put([HELLO])
    ((_, fields),) = await waiting
    assert outgoing(fields) == HELLO


@pytest.mark.parametrize("topic", ["", "i/+/a", "i/#", "a\0b", "x" * 65_536])
def test_a_topic_that_no_broker_takes_is_refused_to_the_sender(topic: str) -> None:
    with pytest.raises(ValueError, match="is not one to publish on"):
        Outgoing(topic, b"")


async def test_channels_reach_who_listens(streams: Streams, redis_url: str) -> None:
    client = redis.asyncio.from_url(redis_url)
    listening = client.pubsub()
    state, logs = keys.state_channel("t", "u"), keys.logs_channel("t", "u")
    assert (state, logs) == ("tenant:{t}:device:u:state", "tenant:{t}:device:u:logs")
    await listening.subscribe(state, logs)
    for _ in range(2):
        assert (await listening.get_message(timeout=5))["type"] == "subscribe"
    await streams.channels.publish_many([(state, b"1"), (logs, b"2"), (state, b"3")])
    found = [await listening.get_message(timeout=5) for _ in range(3)]
    assert [one["data"] for one in found] == [b"1", b"2", b"3"]
    assert [one["channel"] for one in found] == [state.encode(), logs.encode(), state.encode()]
    await listening.aclose()
    await client.aclose()
