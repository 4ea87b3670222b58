"""Families whose servers go away, and whose process is killed: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Any

import orjson
from tests.control import Place, until

from iotistica.supervisor import Role, _assignment


def spawn(place: Place) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "iotistica.api.control"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ},
    )
    assert process.stdin is not None
    process.stdin.write(_assignment(Role("control-0", "iotistica.api.control"), place.settings))
    process.stdin.flush()
    return process


async def connected(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    while b"MQTT session open" not in (line := await asyncio.to_thread(process.stderr.readline)):
        assert line, "the process ended"


def close(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


async def numbers(place: Place) -> list[int]:
    rows = await place.database.fetch("SELECT data FROM agent_events WHERE source = 'events'")
    return sorted(orjson.loads(row["data"])["n"] for row in rows)


async def test_a_killed_control_leaves_its_messages_with_the_broker(place: Place) -> None:
    process = spawn(place)
    await connected(process)
    at_ms = time.time_ns() // 1_000_000
    with place.stopped_postgres():
        await place.tell("events/door", *({"n": n, "timestampMs": at_ms + n} for n in range(150)))
        await place.tell("logs/app", *({"message": f"m{n}", "timestamp": at_ms} for n in range(20)))
        for n in range(3):
            await place.tell("state", {"cpu_usage": n, "msgId": f"{place.agent}-{at_ms + n}-ab"})
        process.kill()
        close(process)
    process = spawn(place)
    await connected(process)

    async def all_there() -> bool:
        lines = await place.database.fetchval("SELECT count(DISTINCT message) FROM agent_logs")
        cpu = await place.database.fetchval("SELECT cpu_usage FROM agents")
        return len(await numbers(place)) >= 150 and lines == 20 and cpu == 2

    await until(all_there, 40)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 15) == 0
    close(process)
    assert await numbers(place) == list(range(150))
    assert await place.database.fetchval("SELECT count(*) FROM agent_logs") == 20
    assert await place.letters() == []


async def test_a_control_that_is_killed_again_and_again_counts_everything_once(
    place: Place,
) -> None:
    at_ms = time.time_ns() // 1_000_000
    async with place.control():
        pass  # makes the session, so that the broker keeps what comes
    for turn in range(4):
        first = turn * 100
        values = ({"n": n, "timestampMs": at_ms + n} for n in range(first, first + 100))
        await place.tell("events/door", *values)
        process = spawn(place)
        await connected(process)

        async def some_there(first: int = first) -> bool:
            return len(await numbers(place)) > first

        await until(some_there)
        process.kill()
        close(process)
    async with place.control():

        async def all_there() -> bool:
            return len(await numbers(place)) >= 400

        await until(all_there)
    assert await numbers(place) == list(range(400))


async def test_states_do_not_wait_for_redis_and_their_numbers_are_not_lost(
    place: Place, redis_server: Any
) -> None:
    at_ms = time.time_ns() // 1_000_000 - 5000
    async with place.control() as control:
        await place.tell("state", {"cpu_usage": 0, "msgId": f"{place.agent}-{at_ms}-ab"})
        await until(place.readings)
        redis_server.child.send(signal.SIGSTOP)
        try:
            for n in range(1, 11):
                at = at_ms + n
                await place.tell("state", {"cpu_usage": n, "msgId": f"{place.agent}-{at}-ab"})

            async def stored() -> bool:
                return await place.database.fetchval("SELECT cpu_usage FROM agents") == 10

            await until(stored, 60)

            async def says_why() -> bool:
                return any("Redis" in reason for reason in control.reasons())

            await until(says_why)
        finally:
            redis_server.child.send(signal.SIGCONT)

        async def all_there() -> bool:
            found = await place.readings()
            values = {one["value"] for _, payload in found for one in payload["readings"]}
            return values == set(range(11))

        await until(all_there, 60)
    # What Redis took without being able to say so may be there twice; its time makes it one row.
    times = {(p["timestamp"], p["readings"][0]["value"]) for _, p in await place.readings()}
    assert len(times) == 11
    assert await place.letters() == []
