"""Web processes and the door may die at any time: the MQTT path does not notice."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from tests.cloud_api import AGENT, TENANT, Api, ready, start

from iotistica import keys, mqtt
from iotistica._native import format_topic
from iotistica.embedded.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def twin(api: Api) -> AsyncIterator[Api]:
    """An API with two web processes."""
    port = str(free_port())
    changes = {"API_PORT": port, "MQTT_CLIENT_ID": "twin", "IOTISTICA_WEB_PROCESSES": "2"}
    process = start(**{**api.environment, **changes})
    twin = Api(f"http://127.0.0.1:{port}", process, api.client, api.environment)
    await ready(twin)
    yield twin
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 15) == 0


def pids(api: Api) -> dict[str, set[int]]:
    """Process ids by the last word of the module."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(api.process.pid)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found: dict[str, set[int]] = defaultdict(set)
    for line in listed:
        if " -m iotistica.api." in line:
            found[line.rpartition(".")[2]].add(int(line.split()[0]))
    return found


async def sample(api: Api, name: str) -> float | None:
    """Of the merged exposition; None while nobody answers."""
    try:
        status, text, _ = await api.get("/metrics", as_tenant=None)
    except aiohttp.ClientError:
        return None
    lines = text.decode().splitlines() if status == 200 else ()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), None)


async def publish(session: mqtt.Session, payloads: itertools.count[int], topic: str) -> None:
    """Some hundreds a second, until cancelled."""
    while True:
        some = [str(next(payloads)).encode() for _ in range(20)]
        await session.publish_many((topic, payload) for payload in some)
        await asyncio.sleep(0.04)


async def restarted(api: Api, name: str) -> None:
    async with asyncio.timeout(20):
        counter = f'iotistica_process_restarts_total{{name="{name}"'
        while not await sample(api, counter):
            await asyncio.sleep(0.05)
    await ready(api)


@pytest.mark.parametrize("role", ["robyn_app", "door"])
async def test_the_bridge_outlives_what_serves_http(twin: Api, role: str) -> None:
    bridges = pids(twin)["bridge"]
    topic = format_topic(TENANT, AGENT, f"endpoints/{secrets.token_hex(4)}")
    options = mqtt.parse_url(twin.environment["MQTT_URL"], client_id=f"p-{role}", clean_start=True)
    payloads = itertools.count()
    async with mqtt.connect(options) as session:
        load = asyncio.create_task(publish(session, payloads, topic))
        for victim in pids(twin)[role]:
            os.kill(victim, signal.SIGKILL)
        await restarted(twin, "door" if role == "door" else "web-0")
        load.cancel()
    last = next(payloads)
    assert pids(twin)["bridge"] == bridges
    assert await sample(twin, 'iotistica_bridge_connected{process="bridge-0"') == 1
    assert await sample(twin, 'iotistica_bridge_reconnects_total{process="bridge-0"') == 0
    stored: set[int] = set()
    async with asyncio.timeout(20), Redis.from_url(twin.environment["REDIS_URL"]) as redis:
        while len(stored) < last - 20:  # the last twenty may have been cut off
            stored = await stored_payloads(redis, topic)
    assert stored >= set(range(last - 20))


async def stored_payloads(redis: Redis, topic: str) -> set[int]:
    """Payloads of this topic in the stream of the tenant."""
    found = set()
    for _, fields in await redis.execute_command("XRANGE", keys.ingestion_stream(TENANT), "-", "+"):
        parts = iter(fields if isinstance(fields, list) else itertools.chain(*fields.items()))
        for header in parts:
            payload = next(parts)
            if header.decode().endswith(topic):
                found.add(int(payload))
    return found


async def test_one_of_two_web_processes_is_enough(twin: Api) -> None:
    os.kill(min(pids(twin)["robyn_app"]), signal.SIGKILL)
    statuses = [(await twin.get("/health", as_tenant=None))[0] for _ in range(30)]
    assert statuses == [200] * 30


async def test_connections_wait_for_a_door_that_is_starting(twin: Api) -> None:
    [door] = pids(twin)["door"]
    os.kill(door, signal.SIGKILL)
    async with aiohttp.ClientSession() as client, client.get(f"{twin.url}/health") as reply:
        assert reply.status == 200
    assert pids(twin)["door"] != {door}


async def test_a_hangup_reaches_the_door_and_ends_nothing(twin: Api) -> None:
    before = pids(twin)
    twin.process.send_signal(signal.SIGHUP)
    assert [(await twin.get("/health", as_tenant=None))[0] for _ in range(10)] == [200] * 10
    assert pids(twin) == before


async def test_all_processes_are_in_one_exposition(twin: Api) -> None:
    wanted = {f'process="{name}"' for name in ("bridge-0", "door", "supervisor", "web-0", "web-1")}
    lines: list[str] = []
    async with asyncio.timeout(20):
        while not wanted <= {label for line in lines for label in labels(line)}:
            _, text, _ = await twin.get("/metrics", as_tenant=None)
            lines = text.decode().splitlines()
    up = {
        label for line in lines if line.startswith("iotistica_process_up") for label in labels(line)
    }
    # Whichever of them answers says so of the others.
    assert len({'name="web-0"', 'name="web-1"'} & up) == 1
    assert any(line.startswith("iotistica_door_requests_total{") for line in lines)


def labels(line: str) -> list[str]:
    return line.partition("{")[2].rpartition("}")[0].split(",")
