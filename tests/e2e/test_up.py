"""`iotistica up` as a user meets it: one command, real servers, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import sys
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.shell import Shell

from iotistica.api.models.readings import SeriesQuery
from iotistica.client import Client, Login
from iotistica.embedded.broker import BUILTIN, find_broker
from iotistica.embedded.process import identity
from iotistica.errors import Denied

_ANY_AGENT = "SELECT agent_uuid FROM readings LIMIT 1"
START_S = 60.0
STOP_S = 40.0


class Up:
    """A running `iotistica up --json`."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self.process = process
        self.directory = directory
        self.ready: dict[str, Any] = {}

    async def until_ready(self) -> None:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), START_S)
        assert line, await self.errors()
        self.ready = json.loads(line)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), STOP_S)

    async def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await self.ended()

    async def errors(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    def pid_of(self, name: str) -> int:
        return int(next(self.directory.glob(f"**/{name}.pid")).read_text().split()[0])


Start = Callable[..., Awaitable[Up]]


def left_behind(directory: Path) -> list[str]:
    """Processes that work in the data directory or were told of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = str((process / "cwd").readlink())
        except OSError:
            continue
        if f"{place}/".startswith(f"{directory}/") or f"{directory} " in f"{words} ":
            found.append(f"{process.name} {words}")
    return found


async def nothing_left(directory: Path) -> None:
    async with asyncio.timeout(15):
        while left_behind(directory):
            await asyncio.sleep(0.05)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start `iotistica up --json` on free ports; whatever still runs at the end is killed."""
    started: list[Up] = []

    async def begin(*arguments: str, directory: Path | None = None, **environment: str) -> Up:
        place = directory or tmp_path / "data"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "iotistica", "up", "--json", "--data-dir", str(place)),
            *("--api-port", "0", "--ingestion-port", "0", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment() | environment,
        )
        started.append(Up(process, place))
        return started[-1]

    yield begin
    for up in started:
        if up.process.returncode is None:
            up.process.kill()
            await up.process.wait()
        await nothing_left(up.directory)


def clean_environment() -> dict[str, str]:
    """Ours, without what would attach to other servers."""
    theirs = re.compile("IOTISTICA_|DATABASE_URL|REDIS_URL|MQTT_")
    return {name: value for name, value in os.environ.items() if not theirs.match(name)}


async def test_it_starts_stops_and_finds_its_data_again(start: Start) -> None:
    first = await start()
    await first.until_ready()
    ready = first.ready
    assert ready["ready"] is True
    assert sorted(ready) == sorted(
        ["ready", "api", "ingestion", "mqtt", "database", "redis", "tenant", "token", "admin"]
    )
    assert re.fullmatch("[0-9a-f]{12}", ready["tenant"])
    assert ready["mqtt"].startswith("mqtt://iotistica-api:")
    connection = await asyncpg.connect(ready["database"])
    assert await connection.fetchval("SELECT id FROM tenants") == ready["tenant"]
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    await connection.close()
    assert (first.directory / "secrets" / "admin").stat().st_mode & 0o777 == 0o600
    assert await comes_in(ready, ready["admin"]["password"])
    await refuses_a_second(start, first)
    assert await first.stop(signal.SIGINT) == 0
    assert left_behind(first.directory) == []

    second = await start()
    await second.until_ready()
    same = ("tenant", "database", "redis", "mqtt", "admin")
    assert {name: second.ready[name] for name in same} == {name: ready[name] for name in same}
    assert await comes_in(second.ready, ready["admin"]["password"])
    # More often than the limits of a deployment allow.
    assert not any([await comes_in(second.ready, "another password") for _ in range(12)])
    connection = await asyncpg.connect(ready["database"])
    assert await connection.fetchval("SELECT n FROM kept") == 1
    # A password that is no longer right is not shown.
    await connection.execute("UPDATE users SET password_hash = 'changed'")
    await connection.close()
    assert await second.stop(signal.SIGTERM) == 0
    assert left_behind(second.directory) == []

    third = await start()
    await third.until_ready()
    assert third.ready["admin"] is None
    assert await third.stop(signal.SIGTERM) == 0


async def comes_in(ready: dict[str, Any], password: str) -> bool:
    try:
        async with Client(ready["api"], login=Login("admin", password)) as client:
            return (await client.users.me()).username == "admin"
    except Denied:
        return False


async def refuses_a_second(start: Start, first: Up) -> None:
    second = await start()
    assert await second.ended() == 2
    assert json.loads(await second.errors()) == {
        "error": f"data directory {first.directory} is in use by another iotistica "
        f"(pid {first.process.pid})"
    }


async def test_kill_9_leaves_nothing_and_the_next_start_works(start: Start) -> None:
    first = await start()
    await first.until_ready()
    first.process.kill()
    assert await first.ended() == -signal.SIGKILL
    ports = [first.ready[name].rpartition(":")[2] for name in ("api", "ingestion")]
    # At once: what is still about to end must not be in its way.
    second = await start("--api-port", ports[0], "--ingestion-port", ports[1])
    await second.until_ready()
    same = ("tenant", "api", "ingestion", "database", "redis", "mqtt")
    assert {n: second.ready[n] for n in same} == {n: first.ready[n] for n in same}
    second.process.kill()
    await second.ended()
    await nothing_left(first.directory)


async def test_children_that_die_are_started_again(start: Start) -> None:
    up = await start()
    await up.until_ready()
    assert up.process.stderr is not None
    for name in ("redis", "ingestion", "postgres"):
        before = up.pid_of(name)
        os.kill(before, signal.SIGKILL)
        line = json.loads(await asyncio.wait_for(up.process.stderr.readline(), 10))
        assert line["msg"] == f"{name} ended with exit status -9; starting it again"
        assert (line["level"], line["service"]) == ("warning", "up")
        async with asyncio.timeout(START_S):
            while not _runs(up, name, before):
                await asyncio.sleep(0.05)
    assert await up.stop(signal.SIGTERM) == 0
    assert left_behind(up.directory) == []


def _runs(up: Up, name: str, before: int) -> bool:
    try:
        pid = up.pid_of(name)
    except (StopIteration, OSError, IndexError):
        return False
    return pid != before and identity(pid) is not None


async def test_a_second_interrupt_hurries(start: Start) -> None:
    up = await start()
    await up.until_ready()
    os.kill(up.pid_of("ingestion"), signal.SIGSTOP)
    began = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.2)
    assert await up.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 10
    await nothing_left(up.directory)


async def test_an_interrupt_during_the_start_stops_what_was_started(start: Start) -> None:
    up = await start()
    async with asyncio.timeout(START_S):
        while not list(up.directory.glob("**/postgres.log")):
            await asyncio.sleep(0.01)
    assert await up.stop(signal.SIGINT) == 0
    assert left_behind(up.directory) == []


@pytest.mark.parametrize("option", ["--api-port", "--ingestion-port"])
async def test_a_taken_port_is_one_sentence_before_anything_starts(
    start: Start, option: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = await start(option, str(port))
        assert await up.ended() == 2
    sentence = f"port {port} is taken; choose another with {option}, or 0 for any free one"
    assert json.loads(await up.errors()) == {"error": sentence}
    assert not (up.directory / "postgres").exists()


def _file(directory: Path) -> str:
    directory.write_text("")
    return f"{directory} cannot be a directory: a file is in its place"


def _inner_file(directory: Path) -> str:
    directory.mkdir()
    (directory / "redis").write_text("")
    return f"{directory}/redis cannot be a directory: a file is in its place"


def _damaged(directory: Path) -> str:
    data = directory / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("?")
    return f"{data}/PG_VERSION is damaged: a version was expected"


def _other_version(directory: Path) -> str:
    data = directory / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("14\n")
    return f"{data} was written by PostgreSQL 14, but the one found is"


def _empty(directory: Path) -> str:
    data = directory / "postgres" / "data"
    data.mkdir(parents=True)
    return f"{data} is not a PostgreSQL data directory"


@pytest.mark.parametrize("damage", [_file, _inner_file, _damaged, _other_version, _empty])
async def test_a_broken_directory_is_one_sentence(
    start: Start, tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    sentence = damage(tmp_path / "data")
    up = await start()
    assert await up.ended() == 2
    assert json.loads(await up.errors())["error"].startswith(sentence)


async def test_a_place_that_cannot_be_written_is_one_sentence(start: Start) -> None:
    up = await start(directory=Path("/proc/iotistica"))
    assert await up.ended() == 2
    error = json.loads(await up.errors())["error"]
    assert error.startswith("directory /proc/iotistica cannot be made: ")


@pytest.mark.parametrize("program", ["mosquitto", "builtin"])
async def test_simulated_readings_are_shown_to_the_token_and_to_nobody_else(
    start: Start, program: str
) -> None:
    if program == "mosquitto" and find_broker() == BUILTIN:
        pytest.skip("mosquitto >= 2 is not installed")
    up = await start("--simulate", "2", "--rate", "20", IOTISTICA_BROKER=program)
    await up.until_ready()
    connection = await asyncpg.connect(up.ready["database"])
    async with asyncio.timeout(START_S):
        while (agent := await connection.fetchval(_ANY_AGENT)) is None:
            await asyncio.sleep(0.1)
    await connection.close()
    url = up.ready["api"]
    async with Client(url) as nobody:
        with pytest.raises(Denied):
            await nobody.readings.latest(agent)
    async with Client(url, token=up.ready["token"]) as client:
        newest = (await client.readings.latest(agent))["readings"]
        raw = (await client.readings.timeseries(agent, SeriesQuery()))["readings"]
    assert {reading["agent_uuid"] for reading in [*newest, *raw]} == {str(agent)}
    assert {reading["metric_name"] for reading in raw} <= {
        reading["metric_name"] for reading in newest
    }
    examined = await Shell({})("doctor", "--json", "--data-dir", str(up.directory))
    ill = ("problem", "warning")
    assert [one for one in examined.document["findings"] if one["level"] in ill] == []
    assert (examined.code, examined.document["healthy"]) == (0, True)
    listed = await Shell({})("agents", "list", "--json", "--data-dir", str(up.directory))
    assert str(agent) in {one["uuid"] for one in listed.documents}
    assert len(listed.documents) == 2
    assert await up.stop(signal.SIGINT) == 0
    assert left_behind(up.directory) == []


async def test_real_servers_are_used_where_their_urls_are_set(
    start: Start, postgres_url: str, redis_url: str, broker: Any
) -> None:
    up = await start(
        DATABASE_URL=postgres_url,
        REDIS_URL=redis_url,
        MQTT_URL=broker.bridge_url,
        # A session that outlives its bridge would take its share of the next test's messages.
        IOTISTICA_MQTT_SESSION_EXPIRY_S="0",
    )
    await up.until_ready()
    assert up.ready["database"] == postgres_url
    assert up.ready["redis"] == redis_url
    assert up.ready["mqtt"] == broker.bridge_url
    for name in ("postgres", "redis", "broker"):
        assert not (up.directory / name).exists()
    connection = await asyncpg.connect(postgres_url)
    assert await connection.fetchval("SELECT id FROM tenants") == up.ready["tenant"]
    await connection.close()
    assert await up.stop(signal.SIGTERM) == 0
    assert broker.server.child.running


async def test_a_server_that_is_away_is_one_sentence(start: Start) -> None:
    up = await start(DATABASE_URL="postgresql://nobody:secret@127.0.0.1:9/x")
    assert await up.ended() == 1
    error = json.loads(await up.errors())["error"]
    assert "PostgreSQL" in error
    assert "secret" not in error
    assert left_behind(up.directory) == []


async def test_a_terminal_shows_places_and_figures_and_is_restored(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "iotistica", "up", "--data-dir", str(tmp_path / "data")),
        *("--api-port", "0", "--ingestion-port", "0"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=clean_environment() | {"TERM": "xterm"},
        preexec_fn=_take_terminal,
    )
    shown = await _read_until(ours, "messages/s")
    for name in ("Cloud API", "Ingestion", "MQTT broker", "PostgreSQL", "Redis", "tenant", "token"):
        assert name in shown
    os.write(ours, b"\x03")
    assert await asyncio.wait_for(process.wait(), STOP_S) == 0
    rest = await _read_until(ours, None)
    assert termios.tcgetattr(theirs) == before
    assert "Traceback" not in shown + rest
    # A cursor that was hidden is shown again.
    assert (shown + rest).rfind("\x1b[?25h") >= (shown + rest).rfind("\x1b[?25l")
    os.close(ours)
    os.close(theirs)
    assert left_behind(tmp_path / "data") == []


def _take_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C becomes SIGINT."""
    os.setsid()
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def _read_until(descriptor: int, words: str | None) -> str:
    """What the terminal shows, until `words` are among it, or nothing more is there."""
    os.set_blocking(descriptor, False)
    shown = ""
    async with asyncio.timeout(START_S):
        while words is None or words not in shown:
            try:
                shown += os.read(descriptor, 65536).decode(errors="replace")
            except BlockingIOError:
                if words is None:
                    break
                await asyncio.sleep(0.02)
    return shown
