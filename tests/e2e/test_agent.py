"""An agent as the reference knows it, against the real processes and a real broker."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest
from tests.agent_double import AgentDouble, Http, p256
from tests.e2e.test_up import Start, Up, start
from tests.newcomer import newcomer

from iotistica import mqtt
from iotistica.api.models.target_state import Target
from iotistica.client import Client
from iotistica.embedded.broker import BUILTIN, find_broker
from iotistica.streams import Streams

__all__ = ["start"]

_ROWS = "SELECT count(*) FROM readings WHERE agent_uuid = $1"
_WAIT_S = 20.0


@asynccontextmanager
async def platform(start: Start, program: str) -> AsyncIterator[tuple[Up, Client, Http]]:
    if program == "mosquitto" and find_broker() == BUILTIN:
        pytest.skip("mosquitto >= 2 is not installed")
    up = await start(IOTISTICA_BROKER=program)
    await up.until_ready()
    url = up.ready["api"]
    async with aiohttp.ClientSession() as http, Client(url, token=up.ready["token"]) as operator:
        yield up, operator, Http(http, url)
    assert await up.stop(signal.SIGTERM) == 0


def message(value: float) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    reading = {"metric": "temperature", "value": value, "unit": "C", "quality": "GOOD"}
    return {
        "timestamp": now,
        "protocol": "modbus",
        "messages": [{"deviceName": "plc", "timestamp": now, "readings": [reading]}],
    }


async def stored(connection: asyncpg.Connection, agent: AgentDouble, rows: int) -> None:
    async with asyncio.timeout(_WAIT_S):
        while await connection.fetchval(_ROWS, agent.uuid) != rows:
            await asyncio.sleep(0.05)


async def cut_off(agent: AgentDouble) -> None:
    """Wait until the broker refuses the agent."""
    async with asyncio.timeout(_WAIT_S):
        while True:
            try:
                async with agent.connect():
                    pass
            except (mqtt.Refused, mqtt.Disconnected):
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("program", ["mosquitto", "builtin"])
async def test_an_agent_comes_in_publishes_and_comes_back_after_a_restart(
    start: Start, program: str
) -> None:
    async with platform(start, program) as (up, operator, http):
        agent = await newcomer(operator, http, private_key=p256())
        await agent.come_in()
        assert agent.tenant == up.ready["tenant"]
        connection = await asyncpg.connect(up.ready["database"])
        async with agent.connect() as session:
            await agent.publish(session, "endpoints/plant-a/line-3", message(1.5))
            await stored(connection, agent, 1)
            with pytest.raises((mqtt.Refused, mqtt.Disconnected)):
                await session.publish("i/c-3dOFzo/a/AAAAAAAAAAAAAAAAAAAAAA/state", b"{}", qos=1)
        ping = await agent.call("GET", f"/api/v1/device/{agent.uuid}/ping")
        assert ping.status == 200
        wanted = {"intervals": {"poll": 30}}
        await operator.targets.set(agent.uuid, Target(apps={}, config=wanted))
        polled = await agent.poll()
        assert polled.body[agent.uuid]["config"] == wanted
        assert (await agent.poll(polled.headers["etag"])).status == 304
        assert (await agent.rotate()).status == 200
        assert (await agent.poll(polled.headers["etag"])).status == 304
        shown = await agent.call("GET", f"/api/v1/devices/{agent.uuid}")
        assert shown.body["uuid"] == agent.uuid
        await connection.close()
    async with platform(start, program) as (up, operator, http):
        agent.ask = http
        assert (await agent.call("GET", f"/api/v1/device/{agent.uuid}/ping")).status == 200
        connection = await asyncpg.connect(up.ready["database"])
        async with agent.connect() as session:
            await agent.publish(session, "endpoints/plant-a", message(2.5))
            await stored(connection, agent, 2)
        await connection.close()


@pytest.mark.parametrize("program", ["mosquitto", "builtin"])
async def test_an_agent_hears_of_its_rotation_on_its_own_topic(start: Start, program: str) -> None:
    async with platform(start, program) as (_up, operator, http):
        agent = await newcomer(operator, http)
        await agent.come_in()
        async with agent.connect() as session:
            await session.subscribe(agent.topic("config/#"))
            await agent.rotate()
            async with asyncio.timeout(_WAIT_S):
                [heard] = await session.receive()
        assert heard.topic == agent.topic("config/api-key-rotation")
        assert orjson.loads(heard.payload)["event"] == "api_key_rotated"
        assert agent.api_key.encode() not in heard.payload


@pytest.mark.parametrize("program", ["mosquitto", "builtin"])
async def test_deactivation_and_deletion_end_what_an_agent_may_do(
    start: Start, program: str
) -> None:
    async with platform(start, program) as (up, operator, http):
        agent = await newcomer(operator, http)
        await agent.come_in()
        connection = await asyncpg.connect(up.ready["database"])
        async with agent.connect() as session:
            await agent.publish(session, "endpoints/plc", message(1))
            await stored(connection, agent, 1)
            await operator.agents.set_active(agent.uuid, False)
            with pytest.raises(mqtt.Disconnected):
                async with asyncio.timeout(_WAIT_S):
                    await session.receive()
        await cut_off(agent)
        assert (await agent.call("GET", f"/api/v1/device/{agent.uuid}/ping")).status == 403
        await operator.agents.set_active(agent.uuid, True)
        async with agent.connect():
            pass
        await operator.agents.delete(agent.uuid)
        await cut_off(agent)
        assert (await agent.call("GET", f"/api/v1/device/{agent.uuid}/ping")).status == 401
        # What somebody else sends in its name ends as a dead letter.
        streams = Streams(up.ready["redis"])
        options = mqtt.parse_url(up.ready["mqtt"], client_id="forger", clean_start=True)
        async with mqtt.connect(options) as forger:
            async with asyncio.timeout(_WAIT_S):
                while not (found := await letters(streams, agent.tenant)):
                    await agent.publish(forger, "endpoints/plc", message(2))
                    await asyncio.sleep(0.2)
        assert found == {"unknown_agent"}
        await streams.close()
        await connection.close()


async def letters(streams: Streams, tenant: str) -> set[str]:
    """Reasons of the tenant's dead letters."""
    entries = await streams.dead_letters(tenant, after=b"0-0", count=100)
    reasons = set()
    for _, fields in entries:
        reasons.add(dict(zip(fields[::2], fields[1::2], strict=True))[b"reason"].decode())
    return reasons
