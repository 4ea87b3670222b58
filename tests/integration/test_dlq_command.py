"""`iotistica dlq` as an operator meets it: a process of its own, real servers."""

from __future__ import annotations

import asyncio
import base64
import os
import pty
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from tests.dictionaries import learn
from tests.letters import START_MS, Letters

from iotistica import keys
from iotistica._native import format_topic
from iotistica.settings import Settings
from iotistica.store.migrate import migrate
from iotistica.store.pool import open_pool
from iotistica.streams import DeadLetter, Streams

SERVERS = ("DATABASE_URL", "REDIS_URL", "MQTT_URL", "IOTISTICA_DATA_DIR", "IOTISTICA_SPOOL_DIR")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in SERVERS}


@dataclass
class Done:
    """A command that has ended."""

    code: int
    output: str
    errors: str

    @property
    def objects(self) -> list[Any]:
        return [orjson.loads(line) for line in self.output.splitlines()]

    @property
    def last(self) -> Any:
        return self.objects[-1]


@dataclass
class World:
    """A tenant with an agent that is not registered, and its letters."""

    tenant: str
    agent: str
    streams: Streams
    connection: asyncpg.Connection
    environment: dict[str, str]

    @property
    def letters(self) -> Letters:
        return Letters(self.tenant, self.agent, self.streams)

    def letter(self, number: int = 0, **changes: Any) -> DeadLetter:
        return self.letters.letter(number, **changes)

    async def park(self, *letters: DeadLetter, tenant: str | None = None) -> list[str]:
        return await self.letters.park(*letters, tenant=tenant)

    async def left(self) -> list[str]:
        return await self.letters.left()

    async def register(self) -> None:
        await self.connection.execute(
            "INSERT INTO tenants VALUES ($1, $1) ON CONFLICT DO NOTHING", self.tenant
        )
        await self.connection.execute(
            "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, 'x')",
            self.agent,
            self.tenant,
        )

    async def rows(self) -> int:
        return await self.connection.fetchval("SELECT count(*) FROM readings")

    async def start(self, *arguments: str, **pipes: Any) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        pipes = {"stdin": asyncio.subprocess.DEVNULL, "stdout": pipe, "stderr": pipe} | pipes
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "iotistica", "dlq", *arguments), env=self.environment, **pipes
        )

    async def run(self, *arguments: str) -> Done:
        """A command that names no tenant by itself."""
        process = await self.start(*arguments)
        output, errors = await asyncio.wait_for(process.communicate(), 30)
        return Done(process.returncode or 0, output.decode(), errors.decode())

    async def dlq(self, *arguments: str) -> Done:
        """A command on the tenant's letters."""
        return await self.run(*arguments, "--tenant", self.tenant)


@pytest.fixture
async def world(postgres_url: str, redis_url: str, tenant: str) -> AsyncIterator[World]:
    await migrate(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    streams = Streams(redis_url)
    environment = {**ENVIRONMENT, "DATABASE_URL": postgres_url, "REDIS_URL": redis_url}
    yield World(tenant, str(uuid.uuid4()), streams, connection, environment)
    await streams.close()
    await connection.close()


# list


async def test_list_shows_the_youngest_first_and_goes_on_from_its_cursor(world: World) -> None:
    ids = await world.park(*(world.letter(n) for n in range(5)))
    first = await world.dlq("list", "--limit", "3", "--json")
    assert first.code == 0
    assert [letter["id"] for letter in first.last["letters"]] == ids[:1:-1]
    assert first.last["letters"][0] == {
        "id": ids[4],
        "tenant": world.tenant,
        "agent": world.agent,
        "topic": format_topic(world.tenant, world.agent, "endpoints/modbus"),
        "stage": "topic",
        "reason": "unknown_agent",
        "error": f"agent {world.agent} is not one of tenant",
        "readings": 0,
        "attempts": 0,
        "replays": 0,
        "failed_at": "2026-11-20T12:00:00Z",
        "received_ms": START_MS,
        "original_id": f"{START_MS}-0",
        "bytes": len(world.letter().data),
    }
    rest = await world.dlq("list", "--cursor", first.last["cursor"], "--json")
    assert [letter["id"] for letter in rest.last["letters"]] == ids[1::-1]
    assert rest.last["cursor"] is None


async def test_list_for_people_is_a_table_whose_lines_are_whole(world: World) -> None:
    [letter_id] = await world.park(world.letter(error="x" * 300))
    done = await world.dlq("list")
    head, line = done.output.splitlines()
    assert head.split() == [
        *("id", "failed", "at", "stage", "reason", "agent", "readings", "replays", "bytes"),
        "error",
    ]
    assert line.split()[0] == letter_id
    assert line.endswith("x" * 300)
    assert (await world.run("list", "--tenant", "0123456789ab")).output == "no letters\n"


async def test_list_chooses_by_every_filter(world: World) -> None:
    ids = await world.park(
        world.letter(),
        world.letter(reason="json"),
        world.letter(stage="commit"),
        world.letter(agent="b"),
    )
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    wanted = {
        ("--reason", "json", "--since", "1h"): ids[1:2],
        ("--stage", "commit", "--until", (now + hour).isoformat()): ids[2:3],
        ("--agent", "b"): ids[3:],
        ("--since", (now + hour).isoformat()): [],
        ("--until", "1h"): [],
    }
    for arguments, expected in wanted.items():
        done = await world.dlq("list", "--json", *arguments)
        assert [one["id"] for one in done.last["letters"]] == expected[::-1], arguments


async def test_summary_counts(world: World) -> None:
    await world.park(
        world.letter(readings=3), world.letter(readings=4), world.letter(reason="json", agent="")
    )
    done = await world.dlq("list", "--summary", "--json")
    assert done.last == {
        "letters": 3,
        "readings": 7,
        "reasons": {"unknown_agent": 2, "json": 1},
        "stages": {"topic": 3},
        "agents": {world.agent: 2, "": 1},
        "complete": True,
    }
    text = (await world.dlq("list", "--summary")).output
    assert text.startswith("3 letters with 7 readings\n\nreason ")
    assert re.search(r"^unknown_agent +2$", text, re.MULTILINE)
    assert re.search(r"^\(none\) +1$", text, re.MULTILINE)


# show


async def test_show_tells_everything_and_decodes_as_far_as_it_goes(world: World) -> None:
    whole, broken = await world.park(world.letter(7), world.letter(data=b'{"a":'))
    done = await world.dlq("show", whole, "--json")
    assert done.code == 0
    assert base64.b64decode(done.last["payload"]) == world.letter(7).data
    assert done.last["reason"] == "unknown_agent"
    assert [row["value"] for row in done.last["explained"]["rows"]] == [1.5]
    text = (await world.dlq("show", broken)).output
    assert re.search(r"^reason +unknown_agent$", text, re.MULTILINE)
    assert "rejected at decode, json: the message: payload is not JSON" in text


async def test_show_uses_the_agents_dictionary(world: World) -> None:
    compact = {"v": 1, "p": [[0, START_MS], [1, "d"], [2, "late"], [3, 7.5]]}
    [letter_id] = await world.park(world.letter(data=orjson.dumps(compact)))
    await world.register()
    settings = Settings(database_url=world.environment["DATABASE_URL"])
    pool = await open_pool(settings, application_name="test")
    await learn(pool, world.streams, world.tenant, world.agent)
    pool.terminate()
    done = await world.dlq("show", letter_id, "--json")
    [row] = done.last["explained"]["rows"]
    assert (row["metric_name"], row["value"]) == ("late", 7.5)


async def test_a_letter_that_is_not_there_is_one_sentence(world: World) -> None:
    done = await world.dlq("show", "1-1")
    assert (done.code, done.output, done.errors) == (
        *(1, "", "iotistica: letter 1-1 does not exist\n"),
    )


# replay


async def test_replay_brings_in_what_is_good_now(world: World) -> None:
    await world.park(*(world.letter(n) for n in range(3)), world.letter(data=b"{"))
    await world.register()
    dry = await world.dlq("replay", "--all", "--dry-run")
    assert dry.code == 1
    lines = dry.output.splitlines()
    assert [" ".join(line.split()[1:]) for line in lines[:3]] == [
        "passed: would insert 1, already there 0"
    ] * 3
    assert "still bad: would insert 0, already there 0, still bad 0: decode, json: " in lines[3]
    assert lines[4:] == [
        "4 letters: 3 would pass, 1 would be still bad, 0 undecided",
        "3 readings would be inserted, 0 already there, 0 still bad",
        "  json: 1 letters",
    ]
    assert await world.rows() == 0
    assert len(await world.left()) == 4
    done = await world.dlq("replay", "--all", "--json")
    assert done.code == 1
    assert [one["result"] for one in done.objects[:4]] == ["passed"] * 3 + ["still_bad"]
    assert done.last == {
        "dry_run": False,
        "letters": 4,
        "passed": 3,
        "still_bad": 1,
        "failed": 0,
        "inserted": 3,
        "duplicate": 0,
        "rejected": 0,
        "reasons": {"json": 1},
        "missing": [],
    }
    assert done.errors == ""
    assert await world.rows() == 3
    assert len(await world.left()) == 1


async def test_replay_of_all_that_passes_is_exit_code_0(world: World) -> None:
    await world.park(world.letter(0), world.letter(1))
    await world.register()
    done = await world.dlq("replay", "--all")
    assert (done.code, done.errors) == (0, "")
    assert done.output == (
        "2 letters: 2 passed, 0 still bad, 0 undecided\n"
        "2 readings inserted, 0 already there, 0 still bad\n"
    )


async def test_replay_takes_ids_and_filters(world: World) -> None:
    ids = await world.park(
        world.letter(0), world.letter(1, reason="json"), world.letter(2, reason="json")
    )
    await world.register()
    done = await world.dlq("replay", ids[0], "5-5", "--json")
    assert (done.code, done.last["passed"], done.last["missing"]) == (1, 1, ["5-5"])
    done = await world.dlq("replay", "--reason", "json", "--since", "1h", "--json")
    assert (done.code, done.last["passed"]) == (0, 2)
    assert await world.left() == []


async def test_replay_gives_an_event_to_its_family(world: World) -> None:
    topic = format_topic(world.tenant, world.agent, "events/door").encode()
    event = world.letter(topic=topic, data=b'{"msgId": "m-1"}', stage="control")
    await world.park(event)
    await world.register()
    done = await world.dlq("replay", "--all", "--json")
    assert (done.code, done.last["passed"], done.last["inserted"]) == (0, 1, 0)
    assert await world.left() == []
    found = await world.connection.fetchval("SELECT type FROM agent_events")
    assert found == "door"


async def test_replay_of_strays_goes_by_their_topics(world: World) -> None:
    await world.park(world.letter(0, reason="unknown_tenant", stage="bridge"), tenant=keys.STRAY)
    await world.register()
    done = await world.run("replay", "--stray", "--all", "--json")
    assert (done.code, done.last["inserted"]) == (0, 1)
    assert done.objects[0]["tenant"] == world.tenant
    assert await world.rows() == 1


async def test_replay_without_a_database_is_exit_code_1_and_keeps_all(world: World) -> None:
    ids = await world.park(world.letter(0))
    world.environment["DATABASE_URL"] = "postgresql://u@127.0.0.1:1/x"
    done = await world.dlq("replay", "--all", "--json")
    assert done.code == 1
    assert done.last["letters"] == 0
    assert "PostgreSQL could not" in orjson.loads(done.errors)["error"]
    assert await world.left() == ids


async def test_a_replay_that_is_killed_may_be_repeated(world: World) -> None:
    given = 6000
    for at in range(0, given, 500):
        await world.park(*(world.letter(n) for n in range(at, at + 500)))
    await world.register()
    process = await world.start("replay", "--all", "--tenant", world.tenant)
    async with asyncio.timeout(30):
        while await world.streams.letters.count(world.tenant) == given:
            await asyncio.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    left = await world.streams.letters.count(world.tenant)
    assert 0 < left < given
    done = await world.dlq("replay", "--all", "--json")
    assert (done.code, done.last["passed"], done.last["still_bad"]) == (0, left, 0)
    assert await world.rows() == given
    assert await world.left() == []


# purge and export


async def test_purge_needs_a_yes_where_nobody_can_be_asked(world: World) -> None:
    ids = await world.park(world.letter(), world.letter(reason="json"))
    for arguments in (["--all"], ["--all", "--json"]):
        done = await world.dlq("purge", *arguments)
        assert done.code == 2
        assert "--yes is not given, and there is nobody to ask" in done.errors
    done = await world.dlq("purge", "--reason", "json", "--yes", "--json")
    assert (done.code, done.last) == (0, {"purged": 1})
    assert await world.left() == ids[:1]
    assert (await world.dlq("purge", ids[0], "--yes")).output == "1 letters removed\n"
    assert await world.left() == []


async def test_export_writes_payloads_and_all_that_is_known(world: World, tmp_path: Path) -> None:
    given = [world.letter(data=b"\x00\xff"), world.letter(form=(b"data", b"", b"source", b"x"))]
    ids = await world.park(*given)
    done = await world.dlq("export")
    assert [one["id"] for one in done.objects] == ids
    assert [base64.b64decode(one["payload"]) for one in done.objects] == [
        *(letter.data for letter in given),
    ]
    assert [base64.b64decode(part) for part in done.last["form"]] == [*given[1].form]
    file = tmp_path / "letters.ndjson"
    done = await world.dlq("export", ids[0], "--file", str(file), "--json")
    assert (done.code, done.last) == (0, {"exported": 1})
    assert orjson.loads(file.read_bytes())["id"] == ids[0]
    assert list(tmp_path.iterdir()) == [file]
    done = await world.dlq("export", "--file", "/nowhere/x")
    assert (done.code, done.errors.count("\n")) == (1, 1)


# On a terminal


Terminal = Callable[..., Awaitable[tuple[int, str]]]


async def on_a_terminal(world: World, *arguments: str, answer: str = "") -> tuple[int, str]:
    """Exit code, and what was seen on the terminal."""
    leader, follower = pty.openpty()
    process = await world.start(
        *arguments, "--tenant", world.tenant, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    os.write(leader, answer.encode())
    seen = b""

    def read() -> bytes:
        try:
            return os.read(leader, 65536)
        except OSError:  # the other side is closed
            return b""

    while chunk := await asyncio.to_thread(read):
        seen += chunk
    os.close(leader)
    return await process.wait(), seen.decode()


async def test_a_terminal_sees_a_bar_and_is_asked(world: World) -> None:
    await world.park(*(world.letter(n) for n in range(200)), world.letter(data=b"{"))
    await world.register()
    code, seen = await on_a_terminal(world, "replay", "--all")
    assert code == 1
    assert "replaying" in seen
    assert "still bad: inserted 0" in seen
    assert "201 letters: 200 passed, 1 still bad, 0 undecided" in seen
    code, seen = await on_a_terminal(world, "purge", "--all", answer="n\n")
    assert (code, len(await world.left())) == (1, 1)
    assert f"Remove 1 letters of {world.tenant} for good?" in seen
    code, seen = await on_a_terminal(world, "purge", "--all", answer="y\n")
    assert (code, await world.left()) == (0, [])


# Arguments


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["replay"], "no letters are named; give their ids, a filter such as --reason, or --all"),
        (["purge", "--yes"], "no letters are named; give their ids, a filter"),
        (["replay", "1-1", "--all"], "--all and ids exclude each other"),
        (["replay", "x"], "'x' is not the id of a letter, such as 1795453097011-0"),
        (["show", "x"], "'x' is not the id of a letter"),
        (["list", "--cursor", "x"], "'x' is not the id of a letter"),
        (["list", "--since", "soon"], "--since is 'soon'; allowed is an ISO 8601 time such as"),
        (["list", "--until", "3 days"], "--until is '3 days'; allowed is"),
        (["list", "--stray"], "--stray and --tenant exclude each other"),
        (["list", "--limit", "0"], "Invalid value for '--limit'"),
    ],
)
async def test_a_wrong_argument_is_exit_code_2(
    world: World, arguments: list[str], sentence: str
) -> None:
    done = await world.dlq(*arguments)
    assert (done.code, done.output) == (2, "")
    assert sentence in done.errors


async def test_something_must_name_the_tenant(world: World, tmp_path: Path) -> None:
    done = await world.run("list", "--json")
    assert done.code == 2
    assert orjson.loads(done.errors) == {
        "error": "--tenant is not given, and without --data-dir nothing names the tenant"
    }
    done = await world.run("list", "--data-dir", str(tmp_path))
    assert (done.code, done.errors) == (
        *(2, f"iotistica: no stack runs in {tmp_path}; start `iotistica up` first\n"),
    )


@pytest.mark.parametrize("is_default", [False, True])
async def test_a_data_directory_names_servers_and_tenant(
    world: World, tmp_path: Path, is_default: bool
) -> None:
    directory = tmp_path / "iotistica"
    directory.mkdir()
    state = {
        "tenant": world.tenant,
        "database": world.environment.pop("DATABASE_URL"),
        "redis": world.environment.pop("REDIS_URL"),
        "mqtt": "mqtt://127.0.0.1:1",
    }
    (directory / "state.json").write_bytes(orjson.dumps(state))
    [letter_id] = await world.park(world.letter())
    await world.register()
    where = [] if is_default else ["--data-dir", str(directory)]
    world.environment["XDG_DATA_HOME"] = str(tmp_path if is_default else tmp_path / "none")
    done = await world.run("list", "--json", *where)
    assert [letter["id"] for letter in done.last["letters"]] == [letter_id]
    assert (await world.run("replay", "--all", *where)).code == 0
    assert await world.rows() == 1
