"""Who is online, by what was heard."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import orjson
import pytest
from tests.control import Place, until

from iotistica import keys
from iotistica.api.presence import Presence, Watch
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.store.presence import PresenceStore
from iotistica.store.turn import turn
from iotistica.streams import Streams

OFFLINE_AFTER_S = 300.0


@pytest.fixture
async def agents(pool: Pool, tenant: str) -> list[str]:
    found = sorted(str(uuid.uuid4()) for _ in range(3))
    store = AgentStore(pool)
    await store.ensure_tenant(tenant)
    await store.add_agents(tenant, [(agent, agent) for agent in found])
    return found


@pytest.fixture
def store(pool: Pool) -> PresenceStore:
    return PresenceStore(pool, offline_after_s=OFFLINE_AFTER_S)


class Now:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.s = time.time()

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def presence(store: PresenceStore, streams: Streams, now: Now) -> Presence:
    return Presence(store, streams.channels, refresh_s=20, clock=now)


async def online(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch("SELECT uuid FROM agents WHERE is_online ORDER BY uuid")
    return [str(row["uuid"]) for row in rows]


async def events(connection: asyncpg.Connection) -> list[tuple[str, str]]:
    rows = await connection.fetch(
        "SELECT agent_uuid, type FROM agent_events WHERE source = 'presence' ORDER BY id"
    )
    return [(str(row["agent_uuid"]), row["type"]) for row in rows]


async def age(connection: asyncpg.Connection, seconds: float) -> None:
    """Let everything have happened so long ago."""
    by = timedelta(seconds=seconds)
    await connection.execute("UPDATE agents SET last_seen_at = last_seen_at - $1::interval", by)
    await connection.execute(
        "UPDATE presence_watch SET since = since - $1::interval, checked_at = checked_at", by
    )


async def test_an_agent_that_is_heard_comes_online_once(
    presence: Presence, connection: asyncpg.Connection, agents: list[str], now: Now
) -> None:
    for _ in range(3):
        presence.seen(agents[0], agents[1])
        await presence.flush()
        now.s += 30
    assert await online(connection) == agents[:2]
    assert sorted(await events(connection)) == [(agents[0], "online"), (agents[1], "online")]
    row = await connection.fetchrow("SELECT * FROM agents WHERE uuid = $1", agents[0])
    assert row["last_seen_at"].timestamp() == pytest.approx(now.s - 30)
    assert row["last_connectivity_event"].timestamp() == pytest.approx(now.s - 90)


async def test_two_processes_tell_of_a_change_once(
    store: PresenceStore, connection: asyncpg.Connection, agents: list[str]
) -> None:
    heard = dict.fromkeys(agents, time.time())
    told = await asyncio.gather(*(store.seen(heard) for _ in range(5)))
    assert sorted(change.agent for changes in told for change in changes) == agents
    assert len(await events(connection)) == 3


async def test_what_is_written_often_is_written_seldom(
    presence: Presence, connection: asyncpg.Connection, agents: list[str], now: Now
) -> None:
    presence.seen(agents[0])
    await presence.flush()
    first = now.s
    now.s += 5
    presence.seen(agents[0])
    await presence.flush()
    seen = "SELECT last_seen_at FROM agents WHERE uuid = $1"
    assert (await connection.fetchval(seen, agents[0])).timestamp() == pytest.approx(first)
    now.s += 20
    await presence.flush()
    assert (await connection.fetchval(seen, agents[0])).timestamp() == pytest.approx(first + 5)


async def test_an_agent_that_nobody_knows_is_no_trouble(
    presence: Presence, connection: asyncpg.Connection, agents: list[str]
) -> None:
    presence.seen(str(uuid.uuid4()), "no uuid", agents[0])
    await presence.flush()
    assert await online(connection) == agents[:1]


async def test_silence_makes_offline_and_says_when(
    presence: Presence,
    store: PresenceStore,
    connection: asyncpg.Connection,
    agents: list[str],
    now: Now,
) -> None:
    presence.seen(*agents)
    await presence.flush()
    assert await store.check(gap_s=90) == []
    await age(connection, OFFLINE_AFTER_S + 1)
    now.s += 30
    presence.seen(agents[1])
    await presence.flush()
    changes = await store.check(gap_s=90)
    assert sorted(change.agent for change in changes) == [agents[0], agents[2]]
    assert await online(connection) == [agents[1]]
    row = await connection.fetchrow(
        "SELECT event.time, event.data, last_seen_at, last_connectivity_event "
        "FROM agent_events AS event JOIN agents ON uuid = agent_uuid "
        "WHERE event.type = 'offline' AND agent_uuid = $1",
        agents[0],
    )
    assert row["time"] == row["last_connectivity_event"] == changes[0].time
    told = datetime.fromisoformat(orjson.loads(row["data"])["lastSeenAt"])
    assert told == row["last_seen_at"]
    assert await store.check(gap_s=90) == []


async def test_a_platform_that_was_away_declares_nobody_offline(
    presence: Presence, store: PresenceStore, connection: asyncpg.Connection, agents: list[str]
) -> None:
    presence.seen(*agents)
    await presence.flush()
    await store.check(gap_s=90)
    await age(connection, 7200)
    await connection.execute("UPDATE presence_watch SET checked_at = checked_at - interval '2 h'")
    assert await store.check(gap_s=90) == []
    assert await online(connection) == agents
    # And who stays silent from then on is offline after the usual time.
    await age(connection, OFFLINE_AFTER_S - 5)
    assert await store.check(gap_s=90) == []
    await age(connection, 6)
    assert len(await store.check(gap_s=90)) == 3


async def test_a_process_that_hears_nobody_judges_nobody(
    presence: Presence,
    store: PresenceStore,
    streams: Streams,
    connection: asyncpg.Connection,
    agents: list[str],
) -> None:
    presence.seen(*agents)
    await presence.flush()
    await store.check(gap_s=90)
    await age(connection, 7200)
    watch = Watch(store, streams.channels, every_s=30, hears=lambda: False)
    await watch.check()
    assert await online(connection) == agents


async def test_only_one_process_checks_at_a_time(
    presence: Presence,
    store: PresenceStore,
    pool: Pool,
    connection: asyncpg.Connection,
    agents: list[str],
) -> None:
    presence.seen(*agents)
    await presence.flush()
    await store.check(gap_s=90)
    await age(connection, 7200)
    async with turn(pool, "presence"):
        assert await store.check(gap_s=90) == []
    assert len(await store.check(gap_s=90)) == 3


async def test_old_news_brings_nobody_online(
    store: PresenceStore, connection: asyncpg.Connection, agents: list[str]
) -> None:
    """What waited while PostgreSQL was away says when an agent was heard, not that it is there."""
    then = time.time() - OFFLINE_AFTER_S - 10
    assert await store.seen({agents[0]: then}) == []
    assert await online(connection) == []
    seen = await connection.fetchval("SELECT last_seen_at FROM agents WHERE uuid = $1", agents[0])
    assert seen.timestamp() == pytest.approx(then)


async def test_a_message_brings_an_agent_online_and_tells_who_listens(place: Place) -> None:
    listening = place.redis.pubsub()
    await listening.subscribe(keys.presence_channel(place.tenant, place.agent))
    await listening.get_message(timeout=5)

    async def is_online() -> Any:
        return await place.database.fetchval(
            "SELECT is_online FROM agents WHERE uuid = $1", place.agent
        )

    async with place.control(agent_offline_after_s=4.0, presence_check_s=0.1):
        await place.tell("state", {"uptime": 1})
        await until(is_online)
        came = await listening.get_message(timeout=5)
        went = await until(partial(listening.get_message, timeout=1))
    await listening.aclose()
    found = [orjson.loads(one["data"]) for one in (came, went)]
    assert [(one["deviceUuid"], one["online"]) for one in found] == [
        (place.agent, True),
        (place.agent, False),
    ]
    assert not await is_online()
