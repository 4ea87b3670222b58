"""Databases of both storage profiles, streams, the REST API and the whole Cloud API."""

from __future__ import annotations

import asyncio
import secrets
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
import redis.asyncio
from pydantic import SecretStr
from tests import cloud_api
from tests.control import Place, forget
from tests.rest import KEY, Rest, open_rest

from iotistica import ops
from iotistica.api.agent_parts import AgentParts
from iotistica.api.application import Parts, routes
from iotistica.api.auth import Tokens
from iotistica.api.http import Request
from iotistica.api.identity import Identity
from iotistica.api.peers import Peers
from iotistica.api.presence import Presence, presence_of
from iotistica.api.principal import Principal
from iotistica.api.route import Route
from iotistica.api.table import Callers, Table
from iotistica.credentials import User
from iotistica.embedded import broker as brokers
from iotistica.embedded.ports import free_port
from iotistica.embedded.postgres import Postgres
from iotistica.embedded.redis import Redis
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.migrate import migrate
from iotistica.store.pool import Pool, open_pool
from iotistica.streams import Streams


@pytest.fixture(params=["plain", "timescale"])
def empty_database(request: pytest.FixtureRequest) -> str:
    """URL of an empty database, in each profile."""
    name = {"plain": "postgres_url", "timescale": "timescale_url"}[request.param]
    return request.getfixturevalue(name)


@pytest.fixture
async def database(empty_database: str) -> str:
    """URL of a migrated database, in each profile."""
    await migrate(empty_database)
    return empty_database


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    """Pool of our own kind on the migrated database."""
    pool = await open_pool(Settings(database_url=database), application_name="test")
    yield pool
    pool.terminate()


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection to look with."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def streams(redis_url: str) -> AsyncIterator[Streams]:
    """Streams on an empty Redis."""
    streams = Streams(redis_url)
    yield streams
    await streams.close()


@pytest.fixture
async def rest(pool: Pool, streams: Streams, redis_url: str, tenant: str) -> AsyncIterator[Rest]:
    """The whole REST API, for a tenant that exists."""
    async with open_rest(pool, streams, tenant, redis_url=redis_url) as rest:
        yield rest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(
    servers: Path, postgres: Postgres, redis_server: Redis
) -> AsyncIterator[cloud_api.Api]:
    """One Cloud API for all tests of this module."""
    name = f"api_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"CREATE DATABASE {name}")
    database_url = postgres.url.rpartition("/")[0] + f"/{name}"
    await migrate(database_url)
    await cloud_api.fill(database_url)
    mqtt = brokers.Broker(servers / name, port=free_port(), program=brokers.find_broker())
    await mqtt.start()
    user = User(secrets.token_urlsafe(), ("readwrite i/#", "read $SYS/#"))
    await mqtt.add_users({"iotistica-api": user})
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_server.url,
        "MQTT_URL": mqtt.url_for("iotistica-api", user.password),
        "API_PORT": str(free_port()),
        "JWT_SECRET": cloud_api.KEY,
        "IOTISTICA_QUERY_TIMEOUT_S": "3",
        # The readings of `cloud_api` are of 2024.
        "IOTISTICA_RETENTION_DAYS": "36500",
        **{f"IOTISTICA_RATE_LIMIT_{name}": "1000000" for name in cloud_api.LIMITS},
    }
    process = cloud_api.start(**environment)
    async with aiohttp.ClientSession() as client:
        url = f"http://127.0.0.1:{environment['API_PORT']}"
        running = cloud_api.Api(url, process, client, environment)
        await cloud_api.ready(running)
        yield running
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 15) == 0
    await mqtt.stop()
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
async def place(
    broker: Any, postgres: Any, postgres_url: str, redis_server: Any, redis_url: str, tenant: str
) -> AsyncIterator[Place]:
    """A tenant with an agent on every broker, to run control processes at."""
    await migrate(postgres_url)
    settings = Settings.load(
        database_url=postgres_url,
        redis_url=redis_url,
        mqtt_url=broker.bridge_url,
        mqtt_client_id=f"test-{secrets.token_hex(4)}",
        jwt_secret=KEY,
        tenant_refresh_s=0.05,
        stop_grace_s=0.5,
        database_connect_timeout_s=1.0,
        database_statement_timeout_s=1.0,
        breaker_probe_s=0.2,
    )
    agent = str(uuid.uuid4())
    pool = await open_pool(settings, application_name="test")
    await AgentStore(pool).ensure_tenant(tenant)
    await AgentStore(pool).add_agents(tenant, [(agent, "agent")])
    await pool.close()
    client = redis.asyncio.from_url(redis_url, socket_timeout=20)
    client.response_callbacks.pop("XRANGE", None)
    database = await asyncpg.connect(postgres_url)
    yield Place(
        broker=broker,
        postgres=postgres,
        tenant=tenant,
        agent=agent,
        settings=settings,
        redis=client,
        database=database,
        agent_url=await broker.add_agent(tenant, agent),
    )
    await database.close()
    await client.aclose()
    for name in ("control-0", "control-1", "bridge-0"):
        await forget(settings, name)


class _Keys:
    """Knows agents by a key that names them, everyone else as usual."""

    def __init__(self, tenant: str, others: Callers) -> None:
        self._tenant = tenant
        self._others = others

    async def identify(self, request: Request, route: Route) -> Principal:
        if (key := request.headers.get("x-device-api-key")) is not None:
            return Principal(kind="agent", tenant=self._tenant, id=key)
        return await self._others.identify(request, route)


@pytest.fixture
async def heard(place: Place) -> AsyncIterator[Presence]:
    """Who called `device_api`."""
    pool = await open_pool(place.settings, application_name="web")
    streams = Streams.of(place.settings)
    yield presence_of(place.settings, pool, streams)
    await streams.close()
    pool.terminate()


@pytest.fixture
async def device_api(place: Place, heard: Presence) -> AsyncIterator[Rest]:
    """The REST API on the servers of `place`; the key of an agent is its UUID."""
    settings = place.settings.model_copy(update={"jwt_secret": SecretStr(KEY)})
    pool = await open_pool(settings, application_name="web")
    streams = Streams.of(settings)
    agents = AgentParts.of(settings, pool, streams)
    identity = Identity(settings, pool, Tokens(KEY.encode()), agents.device_keys)
    parts = Parts(
        settings=settings,
        pool=pool,
        streams=streams,
        peers=Peers("test", {}),
        probe=ops.Probe("test"),
        agents=agents,
        identity=identity,
        presence=heard,
    )
    identity.start()
    keys = _Keys(place.tenant, identity.callers)
    yield Rest(Table(routes(parts), keys, heard=heard.seen), place.tenant, identity)
    await identity.close()
    await parts.peers.close()
    await streams.close()
    pool.terminate()
