"""What `iotistica doctor` finds in Redis and on this machine, each illness brought about."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from pydantic import SecretStr
from tests.shell import Shell

from iotistica import keys, ops
from iotistica.doctor import machine
from iotistica.doctor import redis as checks
from iotistica.doctor.examination import examine
from iotistica.doctor.finding import Finding, Level
from iotistica.doctor.place import Place
from iotistica.embedded.ports import free_port
from iotistica.embedded.redis import Redis, find_redis
from iotistica.settings import Settings
from iotistica.spool.spool import QUARANTINE, SUFFIX
from iotistica.streams.inspection import inspection


def place(**settings: Any) -> Place:
    return Place(settings=Settings(**settings), state={})


async def look(check: Any, url: str, **settings: Any) -> Finding:
    async with inspection(url) as found:
        [finding] = await check(found, place(redis_url=url, **settings))
        assert isinstance(finding, Finding)
        return finding


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[tuple[str, redis.asyncio.Redis]]:
    """A Redis of this test's own, and a client of it."""
    server = Redis(
        tmp_path / "redis", port=free_port(), password=secrets.token_hex(), binary=find_redis()
    )
    await server.start()
    client = redis.asyncio.Redis.from_url(server.url)
    yield server.url, client
    await client.aclose()
    await server.stop()


async def test_a_redis_of_ours_is_well(redis_url: str) -> None:
    for check in (
        checks.check_version,
        checks.check_memory_policy,
        checks.check_memory,
        checks.check_persistence,
    ):
        assert (await look(check, redis_url)).level is Level.OK, check


async def test_settings_that_lose_messages(own: tuple[str, redis.asyncio.Redis]) -> None:
    url, client = own
    await client.config_set("maxmemory-policy", "allkeys-lru")
    evicts = await look(checks.check_memory_policy, url)
    assert (evicts.level, evicts.text, evicts.advice) == (
        Level.PROBLEM,
        "maxmemory-policy is allkeys-lru: a full Redis throws accepted messages away",
        "run `CONFIG SET maxmemory-policy noeviction`",
    )
    await client.config_set("appendfsync", "everysec")
    second = await look(checks.check_persistence, url)
    assert (second.level, second.text) == (
        Level.WARNING,
        "appendfsync is everysec: a power cut loses a second of accepted messages",
    )
    await client.config_set("appendfsync", "no")
    kernel = await look(checks.check_persistence, url)
    assert (kernel.level, kernel.text.partition(":")[0]) == (Level.PROBLEM, "appendfsync is no")
    await client.config_set("appendonly", "no")
    memory = await look(checks.check_persistence, url)
    assert (memory.level, memory.text) == (
        Level.PROBLEM,
        "appendonly is off: messages that were accepted are gone with a crash",
    )
    await client.config_set("maxmemory", 0)
    unlimited = await look(checks.check_memory, url)
    assert (unlimited.level, unlimited.text.partition(":")[0]) == (
        Level.WARNING,
        "maxmemory is not set",
    )
    await client.config_set("maxmemory", "64mb")
    full = await look(checks.check_memory, url, redis_memory_high_pct=0.001)
    assert full.level is Level.WARNING
    assert full.text.endswith("of 64 MiB are used; from 0.001 % on messages go to disk")


async def test_a_replica_takes_no_writes(own: tuple[str, redis.asyncio.Redis]) -> None:
    url, client = own
    await client.replicaof("127.0.0.1", free_port())
    replica = await look(checks.check_version, url)
    assert replica.level is Level.PROBLEM
    assert replica.text.endswith("is a replica, which takes no writes")


async def test_a_user_who_may_not_read_the_settings(redis_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    user = f"u{secrets.token_hex(4)}"
    await client.execute_command("ACL", "SETUSER", user, "on", ">p", "~*", "+@all", "-config")
    finding = await look(
        checks.check_persistence,
        redis_url.replace("//:", f"//{user}:", 1).replace(
            redis_url.split(":")[2].split("@")[0], "p", 1
        ),
    )
    await client.execute_command("ACL", "DELUSER", user)
    await client.aclose()
    assert (finding.level, finding.text) == (
        Level.NOT_CHECKED,
        "appendonly is on; CONFIG GET is not allowed",
    )


async def test_streams_and_dead_letters_that_pile_up(
    database: str, connection: Any, redis_url: str, tenant: str
) -> None:
    await connection.execute("INSERT INTO tenants (id, name) VALUES ($1, $1)", tenant)
    settings = {"database_url": database, "stream_high_entries": 3, "dlq_max_entries": 5}
    empty = await look(checks.check_streams, redis_url, **settings)
    assert (empty.level, empty.text) == (
        Level.OK,
        "0 entries of 1 tenants are unread, 0 dead letters",
    )
    client = redis.asyncio.Redis.from_url(redis_url)
    for _ in range(4):
        await client.xadd(keys.ingestion_stream(tenant), {"a": "b"})
        await client.xadd(keys.dead_letter_stream(tenant), {"a": "b"})
    await client.aclose()
    async with inspection(redis_url) as found:
        deep, letters = await checks.check_streams(found, place(redis_url=redis_url, **settings))
    assert (deep.level, deep.text) == (
        Level.WARNING,
        f"the live stream of {tenant} has 4 entries",
    )
    assert (letters.level, letters.text) == (Level.WARNING, f"{tenant} has 4 dead letters")
    assert f"dlq list --tenant {tenant}" in letters.advice


async def test_clocks_that_differ(postgres_url: str, redis_url: str) -> None:
    where = place(database_url=postgres_url, redis_url=redis_url)
    [agree] = await machine.check_clocks(where)
    assert agree.level is Level.OK
    slow = await machine.check_clocks(where, clock=lambda: time.time() - 5)
    assert [(one.level, one.text) for one in slow] == [
        (Level.WARNING, "the clock of PostgreSQL is 5.0 s ahead"),
        (Level.WARNING, "the clock of Redis is 5.0 s ahead"),
    ]
    fast = await machine.check_clocks(where, clock=lambda: time.time() + 3600)
    assert [(one.level, one.text) for one in fast] == [
        (Level.PROBLEM, "the clock of PostgreSQL is 3600.0 s behind"),
        (Level.PROBLEM, "the clock of Redis is 3600.0 s behind"),
    ]


async def test_a_spool_with_something_in_it(tmp_path: Path) -> None:
    where = place(spool_dir=tmp_path, spool_max_bytes=1 << 20, api_spool_max_bytes=1 << 20)
    [empty] = await machine.check_spool(where)
    assert empty.level is Level.OK
    process = tmp_path / "ingestion" / "0"
    (process / QUARANTINE).mkdir(parents=True)
    (process / f"1{SUFFIX}").write_bytes(b"no segment")
    (process / QUARANTINE / f"0{SUFFIX}").write_bytes(b"")
    damaged, waiting = await machine.check_spool(where)
    assert (damaged.level, damaged.text) == (Level.PROBLEM, "2 segments are damaged")
    assert (waiting.level, waiting.text) == (Level.WARNING, "1 segments wait, 0.0 MiB")
    large = place(spool_dir=tmp_path / "other", spool_max_bytes=1 << 60)
    [room] = await machine.check_spool(large)
    assert (room.level, room.text.endswith("spools may need 1,073,741,825.0")) == (
        Level.WARNING,
        True,
    )


async def test_a_disk_without_room(tmp_path: Path) -> None:
    stack = Place(settings=Settings(), directory=tmp_path, state={"ports": {"postgres": 1}})
    [roomy] = await machine.check_disk(stack, low=0, least=0)
    [low] = await machine.check_disk(stack, low=1.1, least=0)
    [full] = await machine.check_disk(stack, least=1.1)
    assert [one.level for one in (roomy, low, full)] == [
        Level.OK,
        Level.WARNING,
        Level.PROBLEM,
    ]
    assert full.text.endswith(f"are free at {tmp_path}")


async def test_secrets_that_are_short_or_open(tmp_path: Path) -> None:
    [short] = await machine.check_secrets(place(jwt_secret=SecretStr("s" * 31)))
    assert (short.level, short.text) == (
        Level.PROBLEM,
        "JWT_SECRET has 31 bytes; at least 32 are needed",
    )
    [dull] = await machine.check_secrets(place(jwt_secret=SecretStr("ab" * 32)))
    assert dull.text == "JWT_SECRET is made of 2 different bytes; it can be guessed"
    file = tmp_path / "jwt"
    file.write_text(secrets.token_urlsafe(48))
    file.chmod(0o644)
    [opened] = await machine.check_secrets(place(jwt_secret_file=file))
    assert (opened.level, opened.text, opened.advice) == (
        Level.PROBLEM,
        f"others may read {file}",
        f"run `chmod 600 {file}`",
    )
    file.chmod(0o600)
    [well] = await machine.check_secrets(place(jwt_secret_file=file))
    assert well.level is Level.OK
    [gone] = await machine.check_secrets(place(jwt_secret_file=tmp_path / "gone"))
    assert gone.text == f"{tmp_path / 'gone'} cannot be read: No such file or directory"


async def test_services_that_are_not_ready_or_away() -> None:
    busy = ops.Probe("api", ready=lambda: ["PostgreSQL is away"])
    away = f"http://127.0.0.1:{free_port()}"
    async with ops.serve(busy) as url:
        known = Place(settings=Settings(), state={"api": url, "ingestion": away})
        api, ingestion = await machine.check_services(known)
    assert (api.level, api.text) == (Level.PROBLEM, "is not ready: PostgreSQL is away")
    assert ingestion.level is Level.PROBLEM
    assert ingestion.text.startswith(f"does not answer at {away}: ")
    port = free_port()
    _, nobody = await machine.check_services(place(ingestion_port=port, api_port=free_port()))
    assert (nobody.level, nobody.text) == (
        Level.NOT_CHECKED,
        f"nothing answers at http://127.0.0.1:{port}",
    )


async def test_servers_that_are_away_are_problems_and_no_tracebacks(unused_tcp_port: int) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    found = await examine(
        place(
            database_url=f"postgresql://nobody@{address}/nothing",
            redis_url=f"redis://{address}/0",
            mqtt_url=f"mqtt://{address}",
        )
    )
    first = {group.name: group.findings[0] for group in found}
    assert [first[name].level for name in ("PostgreSQL", "Redis", "MQTT broker")] == [
        Level.PROBLEM
    ] * 3
    assert first["PostgreSQL"].text.startswith("PostgreSQL could not be looked at: ")


async def test_the_command_prints_one_document_and_exits_with_the_verdict(
    redis_url: str, tmp_path: Path
) -> None:
    shell = Shell({"REDIS_URL": redis_url, "IOTISTICA_SPOOL_DIR": str(tmp_path)})
    well = await shell("doctor", "--json")
    levels = {(one["group"], one["check"]): one["level"] for one in well.document["findings"]}
    assert (well.code, well.document["healthy"]) == (0, True)
    assert levels["PostgreSQL", "connection"] == "not checked"
    assert levels["Redis", "memory policy"] == "ok"
    ill = await shell("doctor", JWT_SECRET="short")
    assert ill.code == 1
    assert "  ✗ secrets: problem: JWT_SECRET has 5 bytes; at least 32 are needed. To do: " in (
        ill.output
    )
    assert "\x1b" not in ill.output
    wrong = await shell("doctor", MQTT_URL="http://nowhere")
    assert (wrong.code, wrong.output) == (2, "")
    assert wrong.errors.startswith("iotistica: MQTT_URL has scheme 'http'")
