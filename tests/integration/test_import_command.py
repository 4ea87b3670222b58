"""`iotistica import` as a person runs it."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.integration.test_import import AGENT, DAY, FOREIGN, LONG, Place, at, place

__all__ = ["place"]  # a fixture


@pytest.fixture
def empty_database(postgres_url: str) -> str:
    """One profile serves: the store is not what is tested."""
    return postgres_url


async def command(
    place: Place, database: str, redis_url: str, *arguments: str, given: bytes | None = None
) -> tuple[int, Any, str]:
    """Exit code, what it printed as JSON, and standard error."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "iotistica", *arguments, "--json"],
        env={**os.environ, "DATABASE_URL": database, "REDIS_URL": redis_url},
        input=given,
        capture_output=True,
        timeout=60,
        check=False,
    )
    printed = orjson.loads(done.stdout) if done.stdout else None
    return done.returncode, printed, done.stderr.decode()


async def test_the_command_says_what_it_did_and_exits_with_1_for_refused_lines(
    place: Place, database: str, redis_url: str
) -> None:
    tenant = ("--tenant", place.tenant)
    good = place.file("good.csv", ("when", "tag", "v"), (at(0), "t", "1"))
    named = ("--column", "time=when", "--column", "metric=tag", "--column", "value=v")
    run = functools.partial(command, place, database, redis_url, "import")
    code, printed, said = await run(good, *tenant, "--agent", AGENT, *named)
    assert (code, printed["stored"], printed["ended"], said) == (0, 1, None, "")
    # The same from standard input.
    content = Path(good).read_bytes()
    code, printed, _ = await run(
        "-", "--format", "csv", *tenant, "--agent", AGENT, *named, given=content
    )
    assert (code, printed["stored"], printed["duplicate"]) == (0, 0, 1)

    bad = place.file("bad.csv", LONG, (at(0), AGENT, "t", "inf"), (at(1), AGENT, "t", "1"))
    code, printed, said = await run(bad, *tenant)
    assert (code, printed["stored"], printed["reasons"][0]["first"][0]["line"]) == (1, 0, 2)
    assert said.startswith(f"{bad}:2: column value, 'inf': field value: inf is not a finite number")
    code, printed, _ = await run(bad, *tenant, "--on-error", "skip", "--allow-refused")
    assert (code, printed["stored"], printed["refused"]) == (0, 1, 1)


async def test_an_audit_knows_the_rows_of_an_import(
    place: Place, database: str, redis_url: str
) -> None:
    run = functools.partial(command, place, database, redis_url)
    rows = [(at(n), AGENT, "t", "1") for n in range(300)]
    path = place.file("a.csv", LONG, *rows[:200], rows[0])
    await place.streams.ledger.begin(place.tenant, "0" * 32)
    assert (await run("import", path, "--tenant", place.tenant))[0] == 0
    # Of an import that died between its commit and its count.
    await place.connection.execute(
        "INSERT INTO readings (time, agent_uuid, metric_name, value, quality, protocol) "
        "SELECT $1::timestamptz + n * interval '1 minute', $2, 't', 1, 'unknown', 'mqtt' "
        "FROM generate_series(200, 299) AS n",
        DAY,
        AGENT,
    )
    whole = place.file("b.csv", LONG, *rows)
    assert (await run("import", whole, "--tenant", place.tenant))[1]["duplicate"] == 300
    code, printed, _ = await run("audit", "--tenant", place.tenant, "--count")
    account = printed["tenants"][0]["agents"][0]
    figures = {name: account["readings"][name] for name in ("stored", "duplicate", "redelivered")}
    assert figures == {"stored": 200, "duplicate": 1, "redelivered": 300}
    assert (code, account["problems"], account["rows"]["found"]) == (0, [], 300)


async def test_a_wrong_argument_is_told_before_anything_is_read(
    place: Place, database: str, redis_url: str
) -> None:
    path = place.file("a.csv", ("time", "agent_uuid", "x", "value"))
    for arguments, words in (
        ((path, "--tenant", place.tenant), f"{path}: no column 'metric_name' among 'time'"),
        ((path, "--tenant", "nobody"), "--tenant 'nobody' does not exist"),
        (
            (path, "--tenant", place.tenant, "--agent", FOREIGN, "--ignore", "agent_uuid"),
            f"--agent {FOREIGN} is not one of tenant {place.tenant!r}",
        ),
    ):
        code, printed, said = await command(place, database, redis_url, "import", *arguments)
        assert (code, printed) == (2, None)
        assert words in orjson.loads(said)["error"]


async def test_an_import_that_is_interrupted_ends_what_is_under_way_and_says_so(
    place: Place, database: str, redis_url: str
) -> None:
    rows = [(at(n / 100), AGENT, "t", "1") for n in range(5000)]
    path = place.file("a.csv", LONG, *rows)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "iotistica", "import", path, "--tenant", place.tenant),
        *("--rate", "100", "--json"),
        env={**os.environ, "DATABASE_URL": database, "REDIS_URL": redis_url},
        stdout=asyncio.subprocess.PIPE,
    )
    while not await place.connection.fetchval("SELECT count(*) FROM readings"):
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed = orjson.loads((await process.communicate())[0])
    assert (process.returncode, printed["ended"]) == (1, "interrupted")
    assert printed["stored"] == await place.connection.fetchval("SELECT count(*) FROM readings")
    assert 0 < printed["stored"] < 5000


async def test_an_import_that_is_killed_can_be_run_again(
    place: Place, database: str, redis_url: str
) -> None:
    count = 60_000
    path = place.file("a.csv", LONG, *((at(n / 100), AGENT, "t", str(n)) for n in range(count)))
    arguments = [path, "--tenant", place.tenant, "--json"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "iotistica", "import", *arguments),
        env={**os.environ, "DATABASE_URL": database, "REDIS_URL": redis_url},
    )
    while not await place.connection.fetchval("SELECT count(*) FROM readings"):
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    before = await place.connection.fetchval("SELECT count(*) FROM readings")
    assert 0 < before < count
    code, printed, _ = await command(place, database, redis_url, "import", *arguments[:-1])
    assert (code, printed["readings"], printed["refused"]) == (0, count, 0)
    assert printed["stored"] + printed["duplicate"] == count
    assert printed["duplicate"] >= 20_000
    found = await place.connection.fetchrow("SELECT count(*), sum(value) FROM readings")
    assert tuple(found) == (count, sum(range(count)))
    latest = await place.connection.fetchval("SELECT value FROM readings_latest")
    assert latest == count - 1
