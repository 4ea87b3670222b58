"""Databases of both storage profiles, and streams."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.rest import KEY, Rest

from iotistica import ops
from iotistica.api.application import Parts, routes
from iotistica.api.auth import Tokens
from iotistica.api.identity import Identity
from iotistica.api.peers import Peers
from iotistica.api.table import Table
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
    await AgentStore(pool).ensure_tenant(tenant)
    settings = Settings.load(jwt_secret=KEY, redis_url=redis_url, password_memory_kib=64)
    identity = Identity(settings, pool, Tokens(KEY.encode()))
    parts = Parts(
        settings=settings,
        pool=pool,
        streams=streams,
        peers=Peers("test", {}),
        probe=ops.Probe("test"),
        identity=identity,
    )
    identity.start()
    # Without the gate: its limits have tests of their own.
    yield Rest(Table(routes(parts), identity.callers), tenant, identity)
    await identity.close()
    await parts.peers.close()
