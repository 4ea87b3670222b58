"""The private Redis: an accepted write survives what happens to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from iotistica.embedded import redis as embedded
from iotistica.embedded.ports import free_port
from iotistica.embedded.redis import Redis, find_redis
from iotistica.errors import ConfigError


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Redis]:
    made = Redis(tmp_path / "redis", port=free_port(), password="p@ss/word", binary=find_redis())
    await made.start()
    yield made
    await made.stop()


async def test_streams_and_what_is_pending_survive_kill_9(server: Redis) -> None:
    client = redis.asyncio.from_url(server.url, protocol=2)
    await client.xgroup_create("s", "g", "0", mkstream=True)
    for number in range(100):
        await client.xadd("s", {"n": number})
    await client.xreadgroup("g", "c", {"s": ">"}, count=40)
    await client.aclose()
    server.child.kill()
    await server.child.wait()
    await server.start()
    client = redis.asyncio.from_url(server.url, protocol=2)
    assert await client.xlen("s") == 100
    assert (await client.xpending("s", "g"))["pending"] == 40
    await client.aclose()


async def test_a_password_is_needed_and_others_cannot_read_it(server: Redis) -> None:
    client = redis.asyncio.from_url(f"redis://127.0.0.1:{server.port}")
    with pytest.raises(redis.AuthenticationError):
        await client.ping()
    await client.aclose()
    assert (server.directory / "redis.conf").stat().st_mode & 0o777 == 0o600


def test_a_program_that_is_no_redis_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Redis or Valkey >= 7 was found at /bin/true"):
        find_redis(Path("/bin/true"))


def test_without_the_wheel_the_path_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_carried", list)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no Redis or Valkey >= 7 was found; install"):
        find_redis()
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n")
    program.chmod(0o755)
    with pytest.raises(ConfigError):
        find_redis()
    program.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=0'\n")
    assert find_redis() == program
