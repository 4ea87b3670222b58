"""`iotistica simulate` against a whole running platform: broker, API, Redis, ingestion, table."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

COMMAND = (sys.executable, "-m", "iotistica")
PORTS = ("--api-port", "0", "--ingestion-port", "0")
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("DATABASE_URL", "REDIS_URL", "MQTT_URL")
}


@dataclass(frozen=True)
class Platform:
    """A running `iotistica up`."""

    directory: Path
    ready: dict[str, Any]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, "simulate", "--data-dir", str(self.directory), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def simulate(self, *arguments: str) -> tuple[int, list[Any], str]:
        """Exit code, objects printed, and what went to standard error."""
        return finish(self.start("--json", *arguments))


def finish(running: subprocess.Popen[str]) -> tuple[int, list[Any], str]:
    output, errors = running.communicate(timeout=90)
    return running.returncode, [orjson.loads(line) for line in output.splitlines()], errors


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="iotistica-e2e-", ignore_cleanup_errors=True) as path:
        running = subprocess.Popen(
            [*COMMAND, "up", "--json", "--data-dir", path, *PORTS],
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line, "iotistica up ended before it was ready"
        try:
            yield Platform(Path(path), orjson.loads(line))
        finally:
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 0
            running.stdout.close()


async def test_what_is_sent_is_stored_whatever_else_comes(platform: Platform) -> None:
    code, (summary, verdict), errors = platform.simulate(
        *("--agents", "6", "--messages", "600", "--duplicates", "0.1", "--malformed", "0.1"),
        *("--late", "0.1", "--seed", "mixed", "--verify"),
    )
    assert (code, errors) == (0, "")
    assert set(verdict) == {"sent", "stored", "lost", "doubled", "rejected"}
    assert verdict["sent"] == verdict["stored"] == summary["readings"] > 30_000
    assert (verdict["lost"], verdict["doubled"]) == (0, 0)
    assert verdict["sent"] + verdict["rejected"] == 600 * 60
    assert verdict["rejected"] > 0
    assert summary["published"] > 600
    connection = await asyncpg.connect(platform.ready["database"])
    try:
        rows = await connection.fetchval("SELECT count(*) FROM readings")
    finally:
        await connection.close()
    assert rows == verdict["stored"]


@pytest.mark.parametrize("readings", [1, 7])
def test_messages_may_be_of_any_size(platform: Platform, readings: int) -> None:
    code, (_, verdict), _ = platform.simulate(
        *("--agents", "6", "--messages", "120", "--readings-per-message", str(readings)),
        *("--seed", f"size {readings}", "--verify"),
    )
    assert code == 0
    assert verdict["sent"] == verdict["stored"] == 120 * readings


async def test_agents_that_extend_their_dictionaries_are_understood(platform: Platform) -> None:
    code, (summary, verdict), errors = platform.simulate(
        *("--agents", "6", "--messages", "600", "--format", "mixed", "--learning"),
        *("--duplicates", "0.1", "--seed", "learning", "--verify"),
    )
    assert (code, errors) == (0, "")
    assert summary["readings"] == verdict["sent"] == verdict["stored"] == 36_000
    assert (verdict["lost"], verdict["doubled"]) == (0, 0)
    connection = await asyncpg.connect(platform.ready["database"])
    versions = await connection.fetch(
        "SELECT version FROM dictionary_versions GROUP BY version ORDER BY version"
    )
    await connection.close()
    assert [row["version"] for row in versions] == [1, 2, 3, 4]


async def test_a_second_run_continues_the_same_fleet(platform: Platform) -> None:
    connection = await asyncpg.connect(platform.ready["database"])
    try:
        agents = []
        for _ in range(2):
            code, (_, verdict), _ = platform.simulate(
                *("--agents", "3", "--messages", "30", "--seed", "same", "--verify")
            )
            assert (code, verdict["stored"], verdict["doubled"]) == (0, 1800, 0)
            agents.append(await connection.fetchval("SELECT count(*) FROM agents"))
        assert agents[0] == agents[1]
    finally:
        await connection.close()


async def test_an_interrupted_run_is_verified(platform: Platform) -> None:
    running = platform.start("--agents", "4", "--rate", "40", "--verify", "--json", "--seed", "int")
    connection = await asyncpg.connect(platform.ready["database"])
    try:
        before = await connection.fetchval("SELECT count(*) FROM readings")
        deadline = time.monotonic() + 30
        while await connection.fetchval("SELECT count(*) FROM readings") == before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
    running.send_signal(signal.SIGINT)
    code, (_, verdict), errors = await asyncio.to_thread(finish, running)
    assert (code, errors) == (0, "")
    assert verdict["sent"] == verdict["stored"] > 0


async def test_a_fleet_runs_once_at_a_time(platform: Platform) -> None:
    lock = platform.directory / "fleet-once.lock"
    running = platform.start("--agents", "1", "--seed", "once")
    deadline = time.monotonic() + 30
    while not lock.exists():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    code, lines, errors = await asyncio.to_thread(platform.simulate, "--seed", "once")
    assert (code, lines) == (2, [])
    assert "the fleet of seed once is already running" in errors
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (0, "")
    assert output.startswith("1 agents sent ")


def test_a_directory_without_a_platform_is_one_sentence(tmp_path: Path) -> None:
    result = subprocess.run(
        [*COMMAND, "simulate", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        env=ENVIRONMENT,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"iotistica: no stack runs in {tmp_path}; start `iotistica up` first\n"
    )
