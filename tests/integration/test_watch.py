"""What Redis tells a watch, and what a watch sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
import redis.asyncio

from iotistica.errors import StoreUnavailable
from iotistica.keys import Feed, ingestion_stream
from iotistica.streams import GroupDepth, Settlement, Streams, Watch, watching

FIELDS = [b"1795453097011-0 i/T/a/A/endpoints/x", b"{}"]
EMPTY = GroupDepth(entries=0, lag=0, pending=0, consumers=0)


@dataclass
class News:
    """What a watch was told, and a way to wait for it."""

    told: asyncio.Queue[Sequence[bytes] | None] = field(default_factory=asyncio.Queue)

    async def next(self) -> Sequence[bytes] | None:
        return await asyncio.wait_for(self.told.get(), 5)


@pytest.fixture
def news() -> News:
    return News()


@pytest.fixture
async def watch(redis_url: str, news: News) -> AsyncIterator[Watch]:
    async with watching(redis_url, news.told.put_nowait) as watch:
        yield watch


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


async def test_a_change_is_told_once_until_the_next_look(
    watch: Watch, news: News, streams: Streams, tenant: str
) -> None:
    await streams.ensure_group(tenant)
    survey = await watch.survey([(tenant, Feed.LIVE), (tenant, Feed.BACKFILL)])
    assert survey.depths == [EMPTY, None]
    for _ in range(3):
        await streams.add(tenant, FIELDS)
    assert await news.next() == [ingestion_stream(tenant).encode()]
    survey = await watch.survey([(tenant, Feed.LIVE)])
    assert survey.depths == [GroupDepth(entries=3, lag=3, pending=0, consumers=0)]
    assert news.told.empty()
    last = await streams.add(tenant, FIELDS)
    await news.next()
    assert abs(int(last.split(b"-")[0]) - survey.at_ms) < 5_000


async def test_reading_is_no_news_and_is_seen(
    watch: Watch, news: News, streams: Streams, tenant: str
) -> None:
    await streams.ensure_group(tenant)
    entry_id = await streams.add(tenant, FIELDS)
    await streams.add(tenant, FIELDS)
    await watch.survey([(tenant, Feed.LIVE)])
    await streams.read(tenant, "one", count=1, block_ms=0)
    survey = await watch.survey([(tenant, Feed.LIVE)])
    assert survey.depths == [GroupDepth(entries=2, lag=1, pending=1, consumers=1)]
    assert news.told.empty()
    await streams.settle(tenant, Settlement(ids=[entry_id]))
    assert await news.next() == [ingestion_stream(tenant).encode()]


async def test_a_stream_that_does_not_exist_yet_is_watched(
    watch: Watch, news: News, streams: Streams, tenant: str
) -> None:
    assert (await watch.survey([(tenant, Feed.LIVE)])).depths == [None]
    await streams.add(tenant, FIELDS)
    assert await news.next() == [ingestion_stream(tenant).encode()]


async def test_losing_everything_is_told(
    watch: Watch, news: News, raw: redis.asyncio.Redis, tenant: str
) -> None:
    await watch.survey([(tenant, Feed.LIVE)])
    await raw.flushall()
    assert await news.next() is None


async def test_a_key_of_another_kind_is_the_trouble_of_its_tenant_alone(
    watch: Watch, raw: redis.asyncio.Redis, streams: Streams, tenant: str
) -> None:
    await streams.ensure_group(tenant)
    await raw.set(ingestion_stream("odd"), "text")
    odd, ours = (await watch.survey([("odd", Feed.LIVE), (tenant, Feed.LIVE)])).depths
    assert isinstance(odd, StoreUnavailable)
    assert ours == EMPTY


async def test_a_connection_that_ends_is_news_and_fails_the_next_look(
    watch: Watch, news: News, raw: redis.asyncio.Redis, tenant: str
) -> None:
    await watch.survey([(tenant, Feed.LIVE)])
    await raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await news.next() is None
    with pytest.raises(StoreUnavailable, match="Redis could not look at the streams"):
        await watch.survey([(tenant, Feed.LIVE)])


async def test_where_redis_may_not_tell_the_watch_says_so(
    raw: redis.asyncio.Redis, redis_url: str, news: News, streams: Streams, tenant: str
) -> None:
    await raw.execute_command(
        *("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    )
    await streams.ensure_group(tenant)
    address = redis_url.rpartition("@")[2]
    async with watching(f"redis://deaf:pw@{address}", news.told.put_nowait) as watch:
        assert not watch.tracks
        assert (await watch.survey([(tenant, Feed.LIVE)])).depths == [EMPTY]
    await raw.execute_command("ACL", "DELUSER", "deaf")


async def test_redis_away_is_unavailable(unused_tcp_port: int, news: News) -> None:
    with pytest.raises(StoreUnavailable, match="Redis could not"):
        async with watching(f"redis://127.0.0.1:{unused_tcp_port}", news.told.put_nowait):
            pytest.fail("there is no server")
