"""`sequences.lua` in a real Redis does what `sequences.py` does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib import resources

import pytest
import redis

from iotistica import sequences
from iotistica.sequences import AGE_MS, MOST_NUMBER, Numbering, Range, merge, run_text
from iotistica.streams import Settlement, Streams

AGENT = "0a8b3b0e-5c1e-4f0e-9d55-0242ac120002"
SCRIPT = resources.files("iotistica.streams").joinpath("sequences.lua").read_text()
SEEDS = range(60)
MERGE = f"{SCRIPT}\nreturn merge_sequences(ARGV[1], ARGV[2], tonumber(ARGV[3]))"


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def vector(seed: int) -> Iterator[tuple[list[Range], int]]:
    """What an agent might send, and when: in order, but for gaps, repetitions and beginnings."""
    dice = random.Random(seed)
    at, now_ms = dice.choice((0, 1, 4711, MOST_NUMBER - 100_000)), 1_795_453_097_011
    again, gap, late = 0.03, dice.choice((0.2, 0.8)), 0.1
    for _ in range(dice.randint(1, 150)):
        ranges = []
        for _ in range(dice.randint(0, 3)):
            if dice.random() < again:
                at = dice.choice((0, 1))
            elif dice.random() < gap:
                at += dice.randint(1, 300)
            elif dice.random() < late:
                at = max(at - dice.randint(1, 600), 0)
            end = min(at + dice.choice((0, 0, 5, 150)), MOST_NUMBER)
            ranges.append((at, end))
            at = end + 1 if end < MOST_NUMBER else 1
        dice.shuffle(ranges)
        now_ms += dice.choice((0, 1, AGE_MS // 3, AGE_MS, -AGE_MS))
        yield ranges, now_ms


@pytest.mark.parametrize("seed", SEEDS)
def test_lua_agrees_with_python(raw: redis.Redis, seed: int) -> None:
    state, text = Numbering(), ""
    for ranges, now_ms in vector(seed):
        state = merge(state, ranges, now_ms)
        text = raw.eval(MERGE, 0, text, run_text(ranges), now_ms)
        assert text == sequences.text(state)


def test_the_vectors_reach_every_branch() -> None:
    ends = []
    for seed in SEEDS:
        state = Numbering()
        for ranges, now_ms in vector(seed):
            state = merge(state, ranges, now_ms)
        ends.append(state)
    assert any(state.restarts > 1 and state.missed for state in ends)
    assert any(state.forgotten for state in ends)
    assert any(state.settled for state in ends)
    assert any(len(state.previous) > 1 for state in ends)


async def test_settling_merges_the_numbers_of_its_messages(
    streams: Streams, raw: redis.Redis, tenant: str
) -> None:
    await streams.ensure_group(tenant)
    for ranges in ([(1, 3)], [(7, 7), (4, 4)]):
        entry = await streams.add(tenant, [b"1-0 t", b"p"])
        await streams.read(tenant, "c", count=1, block_ms=10)
        settlement = Settlement(ids=[entry], sequences={AGENT: ranges})
        assert await streams.settle(tenant, settlement) == []
        assert await streams.settle(tenant, settlement) == [entry]
    text = raw.hget(f"tenant:{{{tenant}}}:ledger:sequences", AGENT)
    state = sequences.parse(text)
    assert (state.seen, state.current, state.restarts) == (5, ((1, 4), (7, 7)), 0)
    seconds, microseconds = raw.time()
    assert 0 <= seconds * 1000 + microseconds // 1000 - state.mark_ms < 60_000
    assert await streams.ledger.sequences(tenant) == {AGENT: text}


async def test_numbers_that_can_be_no_count_are_left_out(streams: Streams, tenant: str) -> None:
    times = [(-1, 3), (MOST_NUMBER + 1, MOST_NUMBER + 1), (5, 4)]
    await streams.settle(tenant, Settlement(sequences={AGENT: times}))
    assert await streams.ledger.sequences(tenant) == {}


async def test_nothing_is_merged_where_redis_lost_its_data(streams: Streams, tenant: str) -> None:
    await streams.settle(tenant, Settlement(ids=[b"1-1"], sequences={AGENT: [(1, 3)]}))
    assert await streams.ledger.sequences(tenant) == {}
