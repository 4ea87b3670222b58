"""Real private servers for the tests, started by the code that `iotistica up` uses.

Servers live for the session, what they hold for one test: a fresh database, a flushed Redis,
users of their own on the broker.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import os
import secrets
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest
import pytest_asyncio

from iotistica.credentials import User
from iotistica.embedded import broker as brokers
from iotistica.embedded.carrier import find_postgres
from iotistica.embedded.ports import free_port
from iotistica.embedded.postgres import Postgres
from iotistica.embedded.redis import Redis, find_redis

# A machine that is busy with something else is no reason for a test to fail.
hypothesis.settings.register_profile("iotistica", deadline=None)
hypothesis.settings.load_profile("iotistica")

TIMESCALE = "IOTISTICA_TEST_TIMESCALE_URL"
BRIDGE = "iotistica-api"
BRIDGE_RULES = ("readwrite i/#", "read $SYS/#")


@pytest.fixture(autouse=True)
def spool_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Disk spools of this test's own, also for processes that it starts."""
    monkeypatch.setenv("IOTISTICA_SPOOL_DIR", str(tmp_path / "spool"))
    return tmp_path / "spool"


@pytest.fixture(scope="session")
def servers() -> Iterator[Path]:
    """Directory of the session's servers."""
    directory = Path(tempfile.mkdtemp(prefix="iotistica-test-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(servers: Path) -> AsyncIterator[Postgres]:
    """The session's PostgreSQL, plain profile."""
    server = Postgres(
        servers / "postgres",
        port=free_port(),
        password=secrets.token_urlsafe(),
        installation=find_postgres(),
        fsync=False,
    )
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_server(servers: Path) -> AsyncIterator[Redis]:
    """The session's Redis."""
    server = Redis(
        servers / "redis", port=free_port(), password=secrets.token_urlsafe(), binary=find_redis()
    )
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def postgres_url(postgres: Postgres) -> AsyncIterator[str]:
    """URL of an empty database of this test's own, without TimescaleDB."""
    async with _database(postgres.url) as url:
        yield url


@pytest.fixture
async def timescale_url() -> AsyncIterator[str]:
    """The same on a server with TimescaleDB, where one is given."""
    server = os.environ.get(TIMESCALE)
    if not server:
        pytest.skip(f"{TIMESCALE} is not set: no server with TimescaleDB to test against")
    async with _database(server) as url:
        yield url


@asynccontextmanager
async def _database(server: str) -> AsyncIterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
async def redis_url(redis_server: Redis) -> str:
    """URL of an empty Redis."""
    reader, writer = await asyncio.open_connection("127.0.0.1", redis_server.port)
    writer.write(f"AUTH {redis_server.password}\r\nFLUSHALL\r\n".encode())
    assert await reader.readexactly(10) == b"+OK\r\n+OK\r\n"
    writer.close()
    await writer.wait_closed()
    return redis_server.url


@dataclass
class TestBroker:
    """A running broker whose users are made on demand."""

    __test__ = False

    server: brokers.Broker
    passwords: dict[str, str] = field(default_factory=dict)

    async def add(self, users: Mapping[str, tuple[str, ...]]) -> None:
        """Add users with their rules (`readwrite i/#`), and wait until the broker knows them."""
        made = {name: User(secrets.token_urlsafe(), rules) for name, rules in users.items()}
        await self.server.add_users(made)
        self.passwords |= {name: user.password for name, user in made.items()}

    async def add_agent(self, tenant: str, agent: str) -> str:
        """Add the user of an agent and return its URL."""
        user = f"agent_{agent}"
        await self.add({user: (f"readwrite i/{_short(tenant)}/a/{_short(agent)}/#",)})
        return self.url_for(user)

    @property
    def bridge_url(self) -> str:
        """URL of the user that reads everything."""
        return self.url_for(BRIDGE)

    def url_for(self, user: str) -> str:
        """URL of a user that was added."""
        return self.server.url_for(user, self.passwords[user])


def _short(identifier: str) -> str:
    """Identifier in a topic (reference section 1.1), without the code under test."""
    raw = bytes.fromhex(identifier.replace("-", ""))
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["mosquitto", "builtin"])
async def broker(request: pytest.FixtureRequest, servers: Path) -> AsyncIterator[TestBroker]:
    """Every broker that this machine can run, one after the other; it keeps its sessions."""
    program = available_broker(request.param)
    server = brokers.Broker(servers / request.param, port=free_port(), program=program)
    await server.start()
    try:
        running = TestBroker(server)
        await running.add({BRIDGE: BRIDGE_RULES})
        yield running
    finally:
        await server.stop()


def available_broker(name: str) -> Path:
    """Program of a broker; skips the test where it is not there."""
    if name == "mosquitto":
        found = brokers.find_broker()
        if found == brokers.BUILTIN:
            pytest.skip("mosquitto >= 2 is not installed")
        return found
    if importlib.util.find_spec("iotistica.embedded.builtin_broker") is None:
        pytest.skip("the built-in broker is not there yet")
    return brokers.find_broker("builtin")


@pytest.fixture
def tenant() -> str:
    """A tenant of this test's own: 12 hex digits."""
    return secrets.token_hex(6)
