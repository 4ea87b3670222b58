"""The bridge between a real broker and a real Redis, with its misfortunes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from tests.control import forget, short, until

from iotistica import keys, metrics, mqtt
from iotistica.api.bridge import Bridge
from iotistica.api.tenants import Tenants
from iotistica.settings import Settings
from iotistica.spool import Spool
from iotistica.store.agents import AgentStore
from iotistica.store.migrate import migrate
from iotistica.store.pool import open_pool
from iotistica.store.tenants import tenant_ids
from iotistica.streams import Streams
from iotistica.supervisor import Role, _assignment


@dataclass
class World:
    """One tenant with one agent, on real servers."""

    broker: Any
    tenant: str
    agent: str
    settings: Settings
    redis: redis.asyncio.Redis
    agent_url: str

    def topic(self, rest: str = "endpoints/modbus") -> str:
        return f"i/{short(self.tenant)}/a/{short(self.agent)}/{rest}"

    @asynccontextmanager
    async def bridge(self, name: str = "bridge-0", **changes: Any) -> AsyncIterator[Bridge]:
        """A bridge in this process, until the end of the context."""
        settings = self.settings.model_copy(update=changes)
        pool = await open_pool(settings, application_name="test")
        streams = Streams(settings.require("redis_url"))
        tenants = Tenants(partial(tenant_ids, pool), refresh_s=settings.tenant_refresh_s)
        spool = Spool(settings.spool_root("api"), max_bytes=settings.api_spool_max_bytes)
        bridge = Bridge(settings, name=name, streams=streams, spool=spool, tenants=tenants)
        stop = asyncio.Event()
        task = asyncio.create_task(bridge.run(stop))
        try:
            yield bridge
        finally:
            stop.set()
            await task
            await streams.close()
            await pool.close()
            spool.close()

    @asynccontextmanager
    async def publisher(self, url: str | None = None) -> AsyncIterator[mqtt.Session]:
        options = mqtt.parse_url(
            url or self.agent_url, client_id=f"p-{secrets.token_hex(4)}", clean_start=True
        )
        async with mqtt.connect(options) as session:
            yield session

    async def stored(self) -> list[tuple[str, bytes]]:
        """(topic, payload) of every message in the tenant's stream, in order."""
        found = []
        for _, fields in await self.redis.execute_command(
            "XRANGE", keys.ingestion_stream(self.tenant), "-", "+"
        ):
            for header, payload in zip(fields[::2], fields[1::2], strict=True):
                stamp, _, topic = header.partition(b" ")
                received_ms, _, sequence = stamp.partition(b"-")
                assert received_ms.isdigit()
                assert sequence.isdigit()
                found.append((topic.decode(), payload))
        return found

    async def letters(self, tenant: str) -> list[dict[bytes, bytes]]:
        entries = await self.redis.execute_command(
            "XRANGE", keys.dead_letter_stream(tenant), "-", "+"
        )
        return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]

    async def waits(self, bridge: Bridge) -> bool:
        return bool(bridge.reasons())


@pytest.fixture
async def world(
    broker: Any,
    redis_server: Any,
    redis_url: str,
    postgres_url: str,
    tenant: str,
) -> AsyncIterator[World]:
    await migrate(postgres_url)
    agent = str(uuid.uuid4())
    client_id = f"test-{secrets.token_hex(4)}"
    settings = Settings.load(
        database_url=postgres_url,
        redis_url=redis_url,
        mqtt_url=broker.bridge_url,
        mqtt_client_id=client_id,
        jwt_secret="k" * 64,
        tenant_refresh_s=0.05,
        stop_grace_s=0.5,
        database_connect_timeout_s=1.0,
        breaker_probe_s=0.2,
    )
    pool = await open_pool(settings, application_name="test")
    await AgentStore(pool).ensure_tenant(tenant)
    await AgentStore(pool).add_agents(tenant, [(agent, "agent")])
    await pool.close()
    client = redis.asyncio.from_url(redis_url)
    # A server that was stopped by a test must answer before the next one flushes it.
    client.connection_pool.connection_kwargs["socket_timeout"] = 20
    # Listing the response callback away, so that entries arrive as flat lists.
    client.response_callbacks.pop("XRANGE", None)
    agent_url = await broker.add_agent(tenant, agent)
    yield World(broker, tenant, agent, settings, client, agent_url)
    redis_server.child.send(signal.SIGCONT)
    await client.aclose()
    for name in ("bridge-0", "bridge-1"):
        await forget(settings, name)


async def subscribed(bridge: Bridge) -> None:
    async def up() -> bool:
        return bridge.broker_error is None

    await until(up)


async def test_messages_arrive_in_order_with_their_topics_and_bytes(world: World) -> None:
    payloads = [bytes([n % 256]) * (n % 50) for n in range(1000)]
    async with world.bridge() as bridge, world.publisher() as agent:
        await subscribed(bridge)
        await agent.publish_many((world.topic("endpoints/plant/line 3"), p) for p in payloads)

        async def all_there() -> bool:
            return len(await world.stored()) >= len(payloads)

        await until(all_there)
    assert await world.stored() == [(world.topic("endpoints/plant/line 3"), p) for p in payloads]


async def test_a_backlog_larger_than_the_window_is_taken_up(world: World) -> None:
    payloads = [b"%d" % n for n in range(1000)]
    async with world.bridge() as bridge:
        await subscribed(bridge)
    async with world.publisher() as agent:
        await agent.publish_many((world.topic(), payload) for payload in payloads)
    async with world.bridge(mqtt_receive_maximum=50):

        async def all_there() -> bool:
            return len(await world.stored()) >= 1000

        await until(all_there)
    assert [p for _, p in await world.stored()] == payloads


async def test_one_entry_carries_many_messages(world: World) -> None:
    async with world.bridge(batch_max_delay_ms=200.0) as bridge, world.publisher() as agent:
        await subscribed(bridge)
        await agent.publish_many((world.topic(), b"{}") for _ in range(100))

        async def all_there() -> bool:
            return len(await world.stored()) == 100

        await until(all_there)
    assert await world.redis.xlen(keys.ingestion_stream(world.tenant)) <= 3


async def test_nothing_is_acknowledged_while_redis_is_away(world: World, redis_server: Any) -> None:
    acknowledged = sample("bridge_acknowledged_total")
    payloads = [b"%d" % n for n in range(300)]
    async with world.bridge() as bridge, world.publisher() as agent:
        await subscribed(bridge)
        redis_server.child.send(signal.SIGSTOP)
        await agent.publish_many((world.topic(), payload) for payload in payloads)
        await until(lambda: in_flight(300))
        assert sample("bridge_acknowledged_total") == acknowledged
        # The broker holds them still: a lost connection brings every one of them again.
    redis_server.child.send(signal.SIGCONT)
    stored = len(await world.stored())
    async with world.bridge() as bridge:

        async def all_there() -> bool:
            return {p for _, p in await world.stored()} == set(payloads)

        await until(all_there)
        await until(lambda: in_flight(0))
    # At least once: what Redis took without being able to say so may be there twice.
    assert len(await world.stored()) <= 300 + max(stored, 300)


async def in_flight(count: int) -> bool:
    return sample("bridge_in_flight_messages") == count


def sample(name: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"iotistica_{name}")


async def test_a_short_absence_of_redis_loses_and_doubles_nothing(
    world: World, redis_server: Any
) -> None:
    payloads = [b"%d" % n for n in range(500)]
    async with world.bridge() as bridge, world.publisher() as agent:
        await subscribed(bridge)
        redis_server.child.send(signal.SIGSTOP)
        await agent.publish_many((world.topic(), payload) for payload in payloads)
        await until(lambda: in_flight(500))
        redis_server.child.send(signal.SIGCONT)

        async def all_there() -> bool:
            return len(await world.stored()) == 500

        await until(all_there)
        await until(lambda: in_flight(0))
    assert [p for _, p in await world.stored()] == payloads


async def test_a_killed_bridge_leaves_its_messages_with_the_broker(
    world: World, redis_server: Any
) -> None:
    payloads = {b"%d" % n for n in range(200)}
    settings = world.settings
    process = spawn(settings)
    async with world.publisher() as agent:
        await until(lambda: has_session(world, process))
        redis_server.child.send(signal.SIGSTOP)
        await agent.publish_many((world.topic(), payload) for payload in payloads)
        process.kill()
        process.wait()
        close(process)
    redis_server.child.send(signal.SIGCONT)
    process = spawn(settings)
    await until(lambda: has_session(world, process))

    async def all_there() -> bool:
        return {p for _, p in await world.stored()} == payloads

    await until(all_there)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 10) == 0
    close(process)


def spawn(settings: Settings) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "iotistica.api.bridge"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ},
    )
    assert process.stdin is not None
    process.stdin.write(_assignment(Role("bridge-0", "iotistica.api.bridge"), settings))
    process.stdin.flush()
    return process


def close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


async def has_session(world: World, process: subprocess.Popen[bytes]) -> bool:
    """Whether the bridge process says that it is connected."""
    assert process.stderr is not None
    line = await asyncio.to_thread(process.stderr.readline)
    assert line, "the bridge ended"
    return b"MQTT session open" in line


async def test_the_process_stops_when_its_supervisor_is_gone(world: World) -> None:
    process = spawn(world.settings)
    await until(lambda: has_session(world, process))
    assert process.stdin is not None
    process.stdin.close()
    assert await asyncio.to_thread(process.wait, 10) == 0
    assert process.stderr is not None
    process.stderr.close()


async def test_an_oversized_message_is_dead_lettered_whole(world: World) -> None:
    payload = os.urandom(2000)
    async with world.bridge(max_message_bytes=1999) as bridge, world.publisher() as agent:
        await subscribed(bridge)
        await agent.publish(world.topic(), payload)
        (letter,) = await until(lambda: world.letters(world.tenant))
        await until(lambda: in_flight(0))
    assert letter.pop(b"failed_at").startswith(b"20")
    assert letter == {
        b"data": payload,
        b"topic": world.topic().encode(),
        b"original_id": b"",
        b"error": b"payload has 2000 bytes; at most 1999 are allowed",
        b"reason": b"too_large",
        b"stage": b"bridge",
        b"attempts": b"0",
        b"tenant": world.tenant.encode(),
        b"agent": world.agent.encode(),
        b"readings": b"0",
        b"replays": b"0",
        b"received_ms": b"0",
    }
    assert await world.stored() == []


async def test_a_message_of_an_unknown_tenant_is_dead_lettered_apart(world: World) -> None:
    stranger = secrets.token_hex(6)
    url = await world.broker.add_agent(stranger, world.agent)
    topic = f"i/{short(stranger)}/a/{short(world.agent)}/endpoints/x"
    async with world.bridge() as bridge, world.publisher(url) as agent:
        await subscribed(bridge)
        await agent.publish(topic, b"hello")
        (letter,) = await until(lambda: world.letters(keys.STRAY))
        await until(lambda: in_flight(0))
    assert letter[b"data"] == b"hello"
    assert letter[b"topic"] == topic.encode()
    assert letter[b"reason"] == b"unknown_tenant"
    assert letter[b"error"] == f"tenant '{stranger}' does not exist".encode()
    assert letter[b"agent"] == world.agent.encode()
    assert await world.redis.exists(keys.ingestion_stream(stranger)) == 0


async def test_a_tenant_made_a_moment_ago_is_not_a_stranger(world: World) -> None:
    young = secrets.token_hex(6)
    url = await world.broker.add_agent(young, world.agent)
    topic = f"i/{short(young)}/a/{short(world.agent)}/endpoints/x"
    async with world.bridge() as bridge, world.publisher(url) as agent:
        await subscribed(bridge)
        await agent.publish(topic, b"too early")
        await until(lambda: world.letters(keys.STRAY))
        connection = await asyncpg.connect(world.settings.database_url)
        await connection.execute("INSERT INTO tenants VALUES ($1, 'young')", young)
        await connection.close()

        async def arrived() -> bool:
            await agent.publish(topic, b"in time")
            return bool(await world.redis.exists(keys.ingestion_stream(young)))

        await until(arrived)


async def test_strangers_wait_while_the_database_is_away(world: World) -> None:
    away = world.settings.database_url.replace(f":{port_of(world)}/", ":1/")
    async with world.bridge(database_url=away) as bridge, world.publisher() as agent:
        await subscribed(bridge)
        await agent.publish(world.topic(), b"patience")

        async def says_why() -> bool:
            return any("PostgreSQL" in reason for reason in bridge.reasons())

        await until(says_why)
        assert await in_flight(1)
        assert await world.letters(keys.STRAY) == []
    async with world.bridge() as bridge:

        async def arrived() -> bool:
            return [p for _, p in await world.stored()] == [b"patience"]

        await until(arrived)


def port_of(world: World) -> str:
    return world.settings.database_url.rpartition(":")[2].partition("/")[0]


async def test_a_topic_of_another_form_is_dead_lettered_apart(world: World) -> None:
    # No agent may publish such a topic; the bridge's own user may.
    topic = f"i/{short(world.tenant)}/a//endpoints/x"
    async with world.bridge() as bridge, world.publisher(world.broker.bridge_url) as publisher:
        await subscribed(bridge)
        await publisher.publish(topic, b"\x00\xff")
        (letter,) = await until(lambda: world.letters(keys.STRAY))
        await until(lambda: in_flight(0))
    assert letter[b"data"] == b"\x00\xff"
    assert letter[b"topic"] == topic.encode()
    assert letter[b"reason"] == b"invalid_topic"


async def test_two_bridges_share_the_load(world: World) -> None:
    payloads = {b"%d" % n for n in range(400)}
    async with (
        world.bridge("bridge-0") as first,
        world.bridge("bridge-1") as second,
        world.publisher() as agent,
    ):
        await subscribed(first)
        await subscribed(second)
        await agent.publish_many((world.topic(), payload) for payload in payloads)

        async def all_there() -> bool:
            return len(await world.stored()) >= 400

        await until(all_there)
    stored = [p for _, p in await world.stored()]
    assert len(stored) == 400
    assert set(stored) == payloads
    assert await world.redis.xlen(keys.ingestion_stream(world.tenant)) >= 2


async def test_the_brokers_dropped_counter_is_watched(world: World) -> None:
    if world.broker.server.name != "mosquitto":
        pytest.skip("only Mosquitto counts drops under this name")
    metrics.BROKER_DROPPED.set(-1)
    async with world.bridge():

        async def known() -> bool:
            return (sample("broker_dropped_messages") or 0) >= 0

        await until(known)
