"""R7 for WebSocket: every caller of one tenant, every channel, aimed at another tenant.

The matrix is made of the table of channels, so a new channel is in it from its first day.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from tests.live import Client, Place, opened, refused, serving, with_query
from tests.rest import KEY, Rest

from iotistica import tasks
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.device_keys import PURPOSE
from iotistica.api.live.channels import CHANNELS, Channel, Scope, Subject
from iotistica.api.principal import PERMISSIONS
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.streams import Streams

ACTORS = ("owner", "service", "agent", "nobody")
LISTENERS = ("owner", "service")
"""Those who may open a socket at all."""
MARK, OWN = "foreign-thing", "own-thing"
SHARED = ("mqtt-stats",)
"""What the broker says about itself, which is nobody's: who may see it sees the same."""


@dataclass
class World:
    place: Place
    other: str
    own: dict[str, str]
    """An agent of each tenant."""
    foreign: str
    headers: dict[str, dict[str, str]]

    def address(self, **about: str) -> str:
        return with_query(self.place.url, **about)


@pytest.fixture
async def world(
    rest: Rest,
    pool: Pool,
    streams: Streams,
    redis_url: str,
    connection: asyncpg.Connection,
) -> AsyncIterator[World]:
    other, foreign, own = secrets.token_hex(6), str(uuid.uuid4()), str(uuid.uuid4())
    agents = AgentStore(pool)
    await agents.ensure_tenant(other)
    await agents.add_agents(other, [(foreign, MARK)])
    await agents.add_agents(rest.tenant, [(own, OWN)])
    body = {"name": "own", "permissions": sorted(PERMISSIONS)}
    key = (await rest.ask("POST", "/api/v1/auth/api-keys", body)).body["key"]
    own_key = secrets.token_hex(32)
    await connection.execute(
        "UPDATE agents SET device_api_key_hash = $2, pop_verified = true, is_active = true "
        "WHERE uuid = $1",
        *(own, AgentDigests(Settings.load(jwt_secret=KEY)).of(PURPOSE, own_key)),
    )
    async with serving(rest, pool, streams, redis_url) as place:
        yield World(
            place=place,
            other=other,
            own={"agent": own},
            foreign=foreign,
            headers={
                "owner": {"authorization": f"Bearer {place.token()}"},
                "service": {"x-api-key": key},
                "agent": {"x-device-api-key": own_key},
                "nobody": {},
            },
        )


def message(agent: str, mark: str) -> dict[str, Any]:
    """Something that every channel would show."""
    return {
        "deviceUuid": agent,
        "timestamp": "2099-01-01T00:00:00.000Z",
        "type": mark,
        "data": mark,
        "event": mark,
        "alert": {"id": mark},
        "anomaly": {"metric": mark},
        "logs": [{"service_name": mark, "message": mark}],
        "online": mark,
        "state": {"name": mark},
        "topics": [{"topic": mark}],
        "metrics": {
            "hostname": mark,
            "cpu_usage": 1 if mark == OWN else 666,
            "network_interfaces": [{"name": mark}],
        },
    }


async def test_no_socket_opens_on_an_agent_of_another_tenant(world: World) -> None:
    absent, count = str(uuid.uuid4()), 0
    for actor in ACTORS:
        for scope, name in CHANNELS:
            # A channel cannot be named before the socket is open; some client may try.
            about = {"channel": name} | ({} if scope is Scope.DEVICE else {"tenant": world.other})
            answers = []
            for agent in (world.foreign, absent):
                url = world.address(deviceUuid=agent, **about)
                status, body = await refused(url, additional_headers=world.headers[actor])
                answers.append((status, json.dumps(body).replace(agent, "?")))
                count += 1
            assert answers[0] == answers[1], (actor, name)
            expected = {"owner": 404, "service": 404, "agent": 403, "nobody": 401}[actor]
            assert answers[0][0] == expected, (actor, name)
            if actor not in LISTENERS:
                status, _ = await refused(
                    world.address(type="global"), additional_headers=world.headers[actor]
                )
                assert status == expected
    assert count == 2 * len(ACTORS) * len(CHANNELS)
    print(f"{count} upgrades refused")


async def test_what_is_published_for_another_tenant_arrives_at_no_socket(world: World) -> None:
    place, own = world.place, world.own["agent"]
    others = {
        one.source(Subject(world.other, uuid.UUID(world.foreign) if s is Scope.DEVICE else None))
        for (s, name), one in CHANNELS.items()
        if name not in SHARED
    }
    cells = 0
    # The other tenant listens to all of it, over the same connection to Redis.
    async with _everything(world) as heard:
        for actor, channel in itertools.product(LISTENERS, CHANNELS.values()):
            agent = own if channel.scope is Scope.DEVICE else None
            about = {"deviceUuid": own} if agent else {"type": "global"}
            # Whatever else is named, the socket stays where its caller belongs.
            url = world.address(**about, tenant=world.other, tenantId=world.other)
            async with opened(url, additional_headers=world.headers[actor]) as client:
                await client.subscribe(channel.name, deviceUuid=world.foreign, tenant=world.other)
                if channel.stored is not None:
                    await _first(client, channel)
                for where in sorted(others):
                    reached = await place.publish(where, message(world.foreign, MARK))
                    assert reached == 1, (actor, channel.name, where)
                    cells += 1
                subject = Subject(place.tenant, uuid.UUID(own) if agent else None)
                await place.publish(channel.source(subject), message(own, OWN))
                # Redis keeps the order of what it publishes, so all that came came before this.
                shown = json.dumps(await client.next())
                assert '"source": "redis"' in shown, shown
                assert (MARK in shown, "666" in shown) == (False, False), (actor, channel.name)
                await client.say(type="ping")
                assert await client.next() == {"type": "pong"}
        assert cells == len(LISTENERS) * len(CHANNELS) * len(others)
        async with asyncio.timeout(15):
            while not all(heard[key] for key, one in CHANNELS.items() if one.name not in SHARED):
                await asyncio.sleep(0.01)
    print(f"{cells} cells: {len(LISTENERS)} callers x {len(CHANNELS)} channels x {len(others)}")


@asynccontextmanager
async def _everything(world: World) -> AsyncIterator[Counter[tuple[Scope, str]]]:
    """What sockets of the other tenant are shown of what is marked, on each of its channels."""
    heard: Counter[tuple[Scope, str]] = Counter()

    async def read(client: Client, scope: Scope) -> None:
        while True:
            text = await client.socket.recv()
            if MARK in text or "666" in text:
                heard[scope, json.loads(text)["type"]] += 1

    token = world.place.token(tenant=world.other)
    async with AsyncExitStack() as stack:
        reading = []
        for scope, about in (
            (Scope.DEVICE, {"deviceUuid": world.foreign}),
            (Scope.GLOBAL, {"type": "global"}),
        ):
            url = world.address(token=token, **about)
            client = await stack.enter_async_context(opened(url))
            for its, name in CHANNELS:
                if its is scope:
                    assert (await client.subscribe(name))["type"] == "subscribed"
            reading.append(asyncio.create_task(read(client, scope)))
        yield heard
        await tasks.end(reading)


async def _first(client: Client, channel: Channel) -> None:
    """The stored value, where there is one."""
    if channel.name not in SHARED:
        await client.next(channel.name)
