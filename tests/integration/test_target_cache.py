"""Polls answered from memory, and what keeps that right: several processes, lost notices."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from tests.web_process import Control, running

from iotistica.api.target_cache import TargetCache
from iotistica.errors import DatabaseUnavailable
from iotistica.settings import Settings
from iotistica.store.changes import Changes
from iotistica.store.pool import Pool, open_pool
from iotistica.store.target_feed import Answer, TargetFeed
from iotistica.streams import Streams

TARGET = "/target-state"
APPS, OTHER = {"1": {"a": 1}}, {"2": {"b": 2}}


@pytest.fixture
def made(pool: Pool, streams: Streams, tenant: str, redis_url: str) -> Callable[[], Control]:
    """Makes web processes on the same servers."""
    return lambda: Control(pool, streams, tenant, Settings(redis_url=redis_url))


@pytest.fixture
async def two(made: Callable[[], Control]) -> AsyncIterator[tuple[Control, Control, str]]:
    """Two of them, and an agent that both know."""
    async with running(made()) as writer, running(made()) as reader:
        agent = await writer.add_agent()
        reader.know(agent)
        yield writer, reader, agent


async def until(condition: Callable[[], Awaitable[bool]], *, within_s: float = 10.0) -> float:
    """Wait for it; how long that took."""
    started = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.005)
    return time.monotonic() - started


async def test_a_poll_that_changes_nothing_asks_no_server(
    two: tuple[Control, Control, str], pool: Pool, redis_url: str
) -> None:
    writer, reader, agent = two
    await writer.write("POST", agent, TARGET, {"apps": APPS})
    etag = (await reader.poll(agent)).headers["etag"]
    # Neither server can be asked from here on.
    reader.cache._feed = None  # type: ignore[assignment]
    reply = reader.at_once(agent, if_none_match=etag)
    assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", etag)
    assert len(reply.headers["x-request-id"]) == 16
    assert (
        reader.at_once(agent, if_none_match=etag, x_request_id="r1").headers["x-request-id"] == "r1"
    )
    assert (await reader.poll(agent, etag)).status == 304


async def test_the_short_cut_answers_only_what_it_knows(
    two: tuple[Control, Control, str],
) -> None:
    writer, _, agent = two
    etag = (await writer.poll(agent)).headers["etag"]
    other = await writer.add_agent()
    assert writer.at_once(agent, if_none_match=etag).status == 304
    assert writer.at_once(agent) is None
    assert writer.at_once(agent, if_none_match='"old"') is None
    assert writer.at_once(agent, if_none_match=etag, x_device_api_key="x") is None
    assert writer.at_once(agent, if_none_match=etag, x_device_api_key=other) is None
    bearer = {"x-device-api-key": "", "authorization": f"Bearer {agent}", "if-none-match": etag}
    path = f"/api/v1/device/{agent}/state"
    assert writer.poller.answer(path, bearer.get).status == 304
    assert writer.poller.answer(f"/api/v1/device/{other}/state", bearer.get) is None


@pytest.mark.parametrize("form", ["{}", '"{}"', 'W/"{}"', '"x", W/"{}"', "x,{}", " {} ", "*"])
async def test_every_form_of_an_etag_is_understood(
    two: tuple[Control, Control, str], form: str
) -> None:
    writer, _, agent = two
    plain = (await writer.poll(agent)).headers["etag"].strip('"')
    given = form.format(plain)
    assert (await writer.poll(agent, given)).status == 304
    assert writer.at_once(agent, if_none_match=given).status == 304
    writer.cache.forget(agent)
    assert (await writer.poll(agent, given)).status == 304
    for wrong in (plain[:-1], f'"{plain}x"', "", "W/", '""'):
        assert (await writer.poll(agent, wrong)).status == 200


async def test_the_writers_own_process_answers_right_at_once(
    two: tuple[Control, Control, str],
) -> None:
    writer, _, agent = two
    for number in range(5):
        etag = (await writer.poll(agent)).headers["etag"]
        assert (await writer.poll(agent, etag)).status == 304
        await writer.write("POST", agent, TARGET, {"apps": {str(number): {}}})
        assert writer.at_once(agent, if_none_match=etag) is None
        assert list((await writer.poll(agent, etag)).body[agent]["apps"]) == [str(number)]


async def test_another_process_answers_right_before_a_look(
    two: tuple[Control, Control, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader, agent = two

    async def never(_: str) -> Changes:
        raise DatabaseUnavailable("not now")

    etag = (await reader.poll(agent)).headers["etag"]
    monkeypatch.setattr(reader.cache, "look", lambda: never(""))
    await writer.write("POST", agent, TARGET, {"apps": APPS})

    async def is_new() -> bool:
        return (await reader.poll(agent, etag)).status == 200

    assert await until(is_new) < 1.0


async def test_another_process_answers_right_after_a_lost_notice(
    two: tuple[Control, Control, str], streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader, agent = two
    monkeypatch.setattr(streams.channels, "publish_many", lost)
    etag = (await reader.poll(agent)).headers["etag"]
    await writer.write("POST", agent, TARGET, {"apps": APPS})

    async def is_new() -> bool:
        return (await reader.poll(agent, etag)).status == 200

    assert await until(is_new) < 1.0


async def lost(_: Any) -> None:
    """What Redis does to a message that nobody hears."""


async def test_another_process_answers_right_while_redis_kills_its_connections(
    two: tuple[Control, Control, str], redis_url: str
) -> None:
    writer, reader, agent = two
    client = redis.asyncio.from_url(redis_url)
    for number in range(3):
        etag = (await reader.poll(agent)).headers["etag"]
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await writer.write("POST", agent, TARGET, {"apps": {str(number): {}}})

        async def is_new(old: str = etag) -> bool:
            return (await reader.poll(agent, old)).status == 200

        assert await until(is_new) < 1.0
    await asyncio.wait_for(reader.cache.heard.wait(), 10)
    await client.aclose()


async def test_a_default_reaches_agents_without_a_state_of_their_own(
    two: tuple[Control, Control, str],
) -> None:
    writer, reader, agent = two
    own = await writer.add_agent()
    reader.know(own)
    await writer.write("POST", own, TARGET, {"apps": OTHER})
    etags = {one: (await reader.poll(one)).headers["etag"] for one in (agent, own)}
    answer = await writer.ask("PUT", "/api/v1/target-state/default", {"apps": APPS})
    assert (answer.status, answer.body["version"]) == (200, 1)

    async def is_new() -> bool:
        return (await reader.poll(agent, etags[agent])).status == 200

    assert await until(is_new) < 1.0
    body = (await reader.poll(agent)).body[agent]
    assert (body["apps"], body["version"], body["needs_deployment"]) == (APPS, 1, False)
    assert (await reader.poll(own, etags[own])).status == 304
    # A state of its own begins with the default, and its end goes back to it.
    await writer.write("POST", agent, "/apps", {"appId": "x"})
    await writer.write("POST", agent, "/deploy")
    assert set((await writer.poll(agent)).body[agent]["apps"]) == {"1", "x"}
    await writer.write("DELETE", agent, TARGET)
    assert (await writer.poll(agent)).body[agent]["apps"] == APPS


class Slow:
    """A feed whose answers wait until they are let go."""

    def __init__(self, feed: TargetFeed) -> None:
        self.feed = feed
        self.read = asyncio.Event()
        self.go = asyncio.Event()

    async def answer(self, tenant: str, agent: str) -> Answer:
        found = await self.feed.answer(tenant, agent)
        self.read.set()
        await self.go.wait()
        return found

    async def changes(self, mark: str) -> Changes:
        return await self.feed.changes(mark)


@pytest.mark.parametrize("told_by", ["notice", "look", "default", "everything"])
async def test_a_change_between_read_and_remember_is_not_missed(
    made: Callable[[], Control], pool: Pool, told_by: str
) -> None:
    writer = made()
    agent = await writer.add_agent()
    slow = Slow(TargetFeed(pool))
    cache = TargetCache(slow, most=10)
    await cache.look()
    poll = asyncio.create_task(cache.load(writer.tenant, agent))
    await slow.read.wait()
    # The old row is read; now it changes, and the process is told before it goes on.
    if told_by == "default":
        await writer.ask("PUT", "/api/v1/target-state/default", {"apps": APPS})
        cache.tell(f"tenant/{writer.tenant}")
    else:
        await writer.write("POST", agent, TARGET, {"apps": APPS})
    if told_by == "notice":
        cache.tell(agent)
    elif told_by == "look":
        await cache.look()
    elif told_by == "everything":
        cache.forget_all()
    slow.go.set()
    answer = await poll
    assert b'"1":{"a":1}' in answer.body
    known = cache.get(agent)
    assert known is not None
    assert known.etag == f'"{answer.etag}"'


async def test_no_commit_is_missed_however_long_its_transaction_takes(
    made: Callable[[], Control], pool: Pool, connection: asyncpg.Connection
) -> None:
    writer = made()
    late, soon = await writer.add_agent(), await writer.add_agent()
    for agent in (late, soon):
        await writer.write("POST", agent, TARGET, {"apps": {}})
    cache = TargetCache(TargetFeed(pool), most=10)
    await cache.look()
    for agent in (late, soon):
        await cache.load(writer.tenant, agent)
    change = (
        "UPDATE agent_target_state SET changed_by_transaction = pg_current_xact_id() "
        "WHERE agent_uuid = $1"
    )
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(change, late)
    # A younger transaction ends first and is seen; the older one must still be.
    await pool.execute(change, soon)
    await cache.look()
    assert (cache.get(soon), cache.get(late) is None) == (None, False)
    await cache.look()
    await transaction.commit()
    await cache.look()
    assert cache.get(late) is None


async def test_what_is_remembered_does_not_count_for_long_without_the_database(
    made: Callable[[], Control], pool: Pool
) -> None:
    writer = made()
    agent = await writer.add_agent()
    now = [100.0]
    feed = TargetFeed(pool)
    cache = TargetCache(feed, most=10, clock=lambda: now[0])
    await cache.load(writer.tenant, agent)
    assert cache.get(agent) is None  # nothing was looked at yet
    await cache.look()
    await cache.load(writer.tenant, agent)
    now[0] += 29
    assert cache.get(agent) is not None
    now[0] += 2
    assert cache.get(agent) is None
    await cache.look()
    assert cache.get(agent) is not None


async def test_everything_is_forgotten_after_the_database_was_away(
    made: Callable[[], Control], pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = made()
    agent = await writer.add_agent()
    feed = TargetFeed(pool)
    cache = TargetCache(feed, most=10)
    await cache.look()
    await cache.load(writer.tenant, agent)
    with monkeypatch.context() as away:

        async def changes(_: str) -> Changes:
            raise DatabaseUnavailable("away")

        away.setattr(feed, "changes", changes)
        with pytest.raises(DatabaseUnavailable):
            await cache.look()
    assert cache.get(agent) is not None
    # It may be another server now, with other transactions.
    await cache.look()
    assert cache.size == 0


async def test_memory_is_bounded(made: Callable[[], Control], pool: Pool) -> None:
    writer = made()
    cache = TargetCache(TargetFeed(pool), most=3)
    await cache.look()
    agents = [await writer.add_agent() for _ in range(5)]
    for agent in agents:
        await cache.load(writer.tenant, agent)
    assert cache.size == 3
    assert [cache.get(agent) is not None for agent in agents] == [False, False, True, True, True]


async def test_agents_that_poll_far_too_often_are_refused(
    pool: Pool, streams: Streams, tenant: str, redis_url: str
) -> None:
    settings = Settings(redis_url=redis_url, poll_max_per_minute=5)
    async with running(Control(pool, streams, tenant, settings)) as control:
        agent = await control.add_agent()
        etag = (await control.poll(agent)).headers["etag"]
        known = control.cache.get(agent)
        assert known is not None
        statuses = [(await control.poll(agent, etag)).status for _ in range(7)]
        assert statuses == [304] * 6 + [429]
        assert control.at_once(agent, if_none_match=etag) is None
        refused = await control.poll(agent, etag)
        assert refused.headers["retry-after"] == "12"
        known.due -= 12
        assert control.at_once(agent, if_none_match=etag).status == 304
        assert control.at_once(agent, if_none_match=etag) is None
        assert (control.poller._answered, control.poller._early) == (1, 6)


CHILD = """
import asyncio, sys
from iotistica.api.target_cache import TargetCache
from iotistica.settings import Settings
from iotistica.store.pool import open_pool
from iotistica.store.target_feed import TargetFeed

async def main(database, redis, tenant):
    pool = await open_pool(Settings(database_url=database), application_name="child")
    cache = TargetCache(TargetFeed(pool), most=100, redis_url=redis)
    running = asyncio.create_task(cache.run())
    while cache._follower._mark is None or not cache.heard.is_set():
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while agent := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        known = cache.get(agent)
        if known is None:
            await cache.load(tenant, agent)
            known = cache.get(agent)
        print(known.etag, flush=True)
    running.cancel()

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def another_process(*arguments: str) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """A process of its own that remembers ETags; asks it for one."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"

    async def ask(agent: str) -> str:
        process.stdin.write(agent.encode() + b"\n")
        return (await process.stdout.readline()).decode().strip()

    yield ask
    process.stdin.close()
    await process.wait()


@pytest.mark.parametrize("notices", ["heard", "lost"])
async def test_two_processes(
    made: Callable[[], Control], database: str, redis_url: str, notices: str
) -> None:
    writer = made()
    agent = await writer.add_agent()
    client = redis.asyncio.from_url(redis_url)
    async with another_process(database, redis_url, writer.tenant) as ask:
        for number in range(4):
            before = await ask(agent)
            if notices == "lost":
                await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await writer.write("POST", agent, TARGET, {"apps": {str(number): {}}})
            right = (await writer.poll(agent)).headers["etag"]
            assert before != right

            async def is_right(expected: str = right) -> bool:
                return await ask(agent) == expected

            assert await until(is_right) < 1.0
    await client.aclose()


async def test_the_pool_of_the_looks_is_one_connection(database: str) -> None:
    pool = await open_pool(Settings(database_url=database), application_name="looks")
    cache = TargetCache(TargetFeed(pool), most=10)
    for _ in range(20):
        await cache.look()
    assert pool.get_size() == 1
    pool.terminate()


async def test_agents_that_take_the_short_cut_are_seen(
    two: tuple[Control, Control, str],
) -> None:
    writer, _, agent = two
    etag = (await writer.poll(agent)).headers["etag"]
    for _ in range(3):
        assert writer.at_once(agent, if_none_match=etag).status == 304

    async def is_seen() -> bool:
        return agent in writer.seen

    await until(is_seen)
    assert set(writer.seen) == {agent}
