"""Dead letters on a real Redis: found, counted, removed, replaced."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis.asyncio

from iotistica import keys
from iotistica.errors import StoreUnavailable
from iotistica.streams import DeadLetter, Filter, Streams
from iotistica.streams.letters import PAGE, Letters, Resolution, portions

FAILED = datetime(2026, 11, 20, 12, tzinfo=UTC)


def dead(number: int = 0, **changes: Any) -> DeadLetter:
    return dataclasses.replace(
        DeadLetter(
            data=b"payload %d" % number,
            topic=b"i/T/a/A/endpoints/x",
            original_id="1-0",
            error="payload is not JSON",
            reason="json",
            stage="decode",
            agent="a",
            readings=3,
            failed_at=FAILED,
        ),
        **changes,
    )


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def letters(streams: Streams) -> Letters:
    return streams.letters


async def fill(raw: redis.asyncio.Redis, tenant: str, *given: DeadLetter, ms: int = 1) -> list[str]:
    """Letters with the ids `{ms}-1`, `{ms + 1}-1` and so on."""
    pipeline = raw.pipeline(transaction=False)
    stream = keys.dead_letter_stream(tenant)
    for at, letter in enumerate(given):
        pipeline.execute_command("XADD", stream, f"{ms + at}-1", *letter.fields(tenant))
    return [found.decode() for found in await pipeline.execute()]


async def everything(letters: Letters, tenant: str, where: Filter) -> list[str]:
    return [one.id async for page in letters.pages(tenant, where) for one in page.letters]


async def test_a_page_has_everything_but_the_payloads(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    given = [dead(1), dead(2, data=b"\x00" * 5000, form=(b"data", b"", b"source", b"x"))]
    await fill(raw, tenant, *given)
    page = await letters.page(tenant, Filter())
    assert (page.examined, page.cursor) == (2, None)
    assert [letter.size for letter in page.letters] == [9, 5000]
    assert [letter.dead.data for letter in page.letters] == [b"", b""]
    assert (await letters.get(tenant, "2-1")).dead == given[1]
    assert page.letters[1].dead == dataclasses.replace(given[1], data=b"")


async def test_pages_are_bounded_in_number_and_bytes_and_miss_nothing(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    small = [dead() for _ in range(PAGE + 1)]
    large = [dead(data=bytes(1_000_000)) for _ in range(40)]
    ids = await fill(raw, tenant, *small, *large)
    pages = [page async for page in letters.pages(tenant, Filter())]
    assert [one.id for page in pages for one in page.letters] == ids
    assert pages[0].examined == PAGE
    assert max(sum(one.size for one in page.letters) for page in pages) < 25_000_000
    assert len(pages) >= 3


@pytest.mark.parametrize("newest_first", [False, True])
async def test_the_cursor_leads_on_in_both_directions(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str, newest_first: bool
) -> None:
    ids = await fill(raw, tenant, *(dead() for _ in range(7)))
    found, after = [], None
    while True:
        page = await letters.page(tenant, Filter(), after=after, newest_first=newest_first, size=3)
        found += [letter.id for letter in page.letters]
        after = page.cursor
        if after is None:
            break
    assert found == (ids[::-1] if newest_first else ids)


async def test_letters_written_later_than_the_end_are_left_alone(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    ids = await fill(raw, tenant, *(dead() for _ in range(3)), ms=10)
    found = [one.id async for page in letters.pages(tenant, Filter(), upto=ids[1])
             for one in page.letters]  # fmt: skip
    assert found == ids[:2]
    until = datetime.fromtimestamp(0.010, UTC)
    page = await letters.page(tenant, Filter(until=until), upto=ids[1])
    assert [one.id for one in page.letters] == ids[:1]


async def test_every_filter_chooses(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    await fill(
        raw,
        tenant,
        *(dead(), dead(reason="utf8"), dead(stage="commit"), dead(agent="b"), dead()),
        ms=1000,
    )
    second = datetime.fromtimestamp(1.001, UTC)
    wanted = {
        Filter(): [0, 1, 2, 3, 4],
        Filter(reason="utf8"): [1],
        Filter(stage="commit"): [2],
        Filter(agent="b"): [3],
        Filter(since=second): [1, 2, 3, 4],
        Filter(until=second): [0, 1],
        Filter(since=second, until=second): [1],
        Filter(ids=frozenset({"1000-1", "1004-1", "9-9"})): [0, 4],
        Filter(ids=frozenset({"1001-1", "1002-1"}), reason="utf8"): [1],
        Filter(reason="json", stage="decode", agent="a", until=second): [0],
        Filter(agent="nobody"): [],
    }
    for where, places in wanted.items():
        ids = [f"{1000 + place}-1" for place in places]
        assert await everything(letters, tenant, where) == ids, where
        assert [one.id for one in (await letters.listed(tenant, where, limit=10)).letters] == ids[
            ::-1
        ], where


async def test_a_list_ends_at_its_limit_and_goes_on_from_its_cursor(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    ids = await fill(raw, tenant, *(dead(reason=f"r{n % 2}") for n in range(10)))
    where, found, after = Filter(reason="r1"), [], None
    lengths = []
    while True:
        page = await letters.listed(tenant, where, limit=2, after=after)
        found += [one.id for one in page.letters]
        lengths.append(len(page.letters))
        after = page.cursor
        if after is None:
            break
    assert found == ids[1::2][::-1]
    assert lengths == [2, 2, 1]


async def test_a_list_in_which_little_matches_stops_searching(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    await fill(raw, tenant, *(dead() for _ in range(3 * PAGE)))
    page = await letters.listed(tenant, Filter(reason="none"), limit=5, most=PAGE + 1)
    assert (page.letters, page.examined) == ([], 2 * PAGE)
    assert page.cursor == f"{PAGE + 1}-1"


async def test_a_summary_counts_by_reason_stage_and_agent(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    many = [dead(reason=f"r{n % 3}", stage=f"s{n % 2}", agent=f"a{n % 5}") for n in range(1500)]
    await fill(raw, tenant, *many)
    summary = await letters.summary(tenant, Filter())
    assert (summary.letters, summary.readings, summary.complete) == (1500, 4500, True)
    assert summary.reasons == Counter({"r0": 500, "r1": 500, "r2": 500})
    assert summary.stages == Counter({"s0": 750, "s1": 750})
    assert summary.agents == Counter({f"a{n}": 300 for n in range(5)})
    some = await letters.summary(tenant, Filter(reason="r0"), most=PAGE)
    assert (some.letters, some.complete) == (167, False)
    assert await letters.count(tenant) == 1500


async def test_nothing_is_found_where_there_is_nothing(letters: Letters, tenant: str) -> None:
    assert await letters.count(tenant) == 0
    assert await letters.newest(tenant) == "0-0"
    assert await everything(letters, tenant, Filter()) == []
    assert await letters.get(tenant, "1-1") is None
    assert (await letters.listed(tenant, Filter(), limit=1)).letters == []
    assert (await letters.summary(tenant, Filter())).letters == 0


async def test_purge_removes_what_matches_and_nothing_else(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    ids = await fill(raw, tenant, *(dead(reason=f"r{n % 2}") for n in range(2 * PAGE + 10)))
    steps = letters.purge(tenant, Filter(reason="r0"), upto=ids[-3])
    assert [(page.examined, removed) async for page, removed in steps] == [
        (PAGE, PAGE // 2),
        (PAGE, PAGE // 2),
        (8, 4),
    ]
    assert await everything(letters, tenant, Filter()) == [*ids[1:-2:2], *ids[-2:]]


async def test_one_tenants_letters_are_not_anothers(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    [letter_id] = await fill(raw, tenant, dead())
    assert await letters.get("other", letter_id) is None
    purged = letters.purge("other", Filter(), upto=letter_id)
    assert [removed async for _, removed in purged] == [0]
    assert await letters.remove("other", [letter_id]) == 0
    assert await letters.count(tenant) == 1


async def test_a_letter_that_passed_is_removed_and_counted_at_once(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    [letter_id, other] = await fill(raw, tenant, dead(), dead())
    assert (
        await letters.resolve(
            tenant, [Resolution(id=letter_id, counts={"a|stored": 2, "a|settled": 1})]
        )
        == 1
    )
    assert await everything(letters, tenant, Filter()) == [other]
    assert await raw.hgetall(keys.ledger(tenant)) == {b"a|stored": b"2", b"a|settled": b"1"}


async def test_a_letter_still_bad_is_replaced_by_value(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    [letter_id, other] = await fill(raw, tenant, dead(), dead())
    newer = dead(replays=1, error="now this", reason="utf8", data=b"\x00\xff")
    resolution = Resolution(id=letter_id, counts={}, instead=newer)
    assert await letters.resolve(tenant, [resolution]) == 1
    first, second = await everything(letters, tenant, Filter())
    assert first == other
    assert (await letters.get(tenant, second)).dead == newer


async def test_a_letter_that_somebody_removed_gets_no_successor(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    resolution = Resolution(id="7-7", counts={"a|stored": 2}, instead=dead())
    assert await letters.resolve(tenant, [resolution]) == 0
    assert await letters.count(tenant) == 0
    assert await raw.hgetall(keys.ledger(tenant)) == {b"a|stored": b"2"}


async def test_a_full_redis_still_resolves(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    [letter_id] = await fill(raw, tenant, dead())
    before = (await raw.config_get("maxmemory"))["maxmemory"]
    await raw.config_set("maxmemory", 1)
    try:
        resolution = Resolution(id=letter_id, counts={"a|x": 1}, instead=dead(replays=1))
        assert await letters.resolve(tenant, [resolution]) == 1
        assert len(await everything(letters, tenant, Filter())) == 1
    finally:
        await raw.config_set("maxmemory", before)


async def test_a_stray_moves_to_its_tenant_with_all_of_its_fields(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    [letter_id] = await fill(raw, keys.STRAY, dead(5, data=b"\x00\xff", replays=3))
    stray = await letters.get(keys.STRAY, letter_id)
    moved = await letters.move(stray, tenant)
    assert await letters.count(keys.STRAY) == 0
    assert await letters.get(tenant, moved.id) == moved
    assert (moved.tenant, moved.dead) == (tenant, stray.dead)
    [(_, fields)] = await raw.xrange(keys.dead_letter_stream(tenant))
    assert fields[b"tenant"] == tenant.encode()


async def test_portions_bound_number_and_bytes(
    letters: Letters, raw: redis.asyncio.Redis, tenant: str
) -> None:
    sizes = [5_000_000, 4_000_000, 9_000_000, 1, *([10] * 100)]
    await fill(raw, tenant, *(dead(data=bytes(size)) for size in sizes))
    heads = [one async for page in letters.pages(tenant, Filter()) for one in page.letters]
    parts = list(portions(heads))
    assert [len(part) for part in parts] == [1, 1, 1, 64, 37]
    assert [letter_id for part in parts for letter_id in part] == [head.id for head in heads]


async def test_redis_away_is_unavailable_whatever_is_asked(
    tenant: str, unused_tcp_port: int
) -> None:
    streams = Streams(f"redis://127.0.0.1:{unused_tcp_port}")
    letters = streams.letters
    for call in (
        letters.count(tenant),
        letters.newest(tenant),
        letters.page(tenant, Filter()),
        letters.get(tenant, "1-1"),
        letters.remove(tenant, ["1-1"]),
        letters.resolve(tenant, [Resolution(id="1-1", counts={})]),
        letters.summary(tenant, Filter()),
    ):
        with pytest.raises(StoreUnavailable, match="Redis could not"):
            await call
    await streams.close()
