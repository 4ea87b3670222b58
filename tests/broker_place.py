"""The whole Cloud API beside a broker that keeps its accounts by it, over real HTTP and MQTT."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
from tests import cloud_api
from tests.agent_double import AgentDouble, Http

from iotistica import mqtt
from iotistica.embedded.ports import LOOPBACK
from iotistica.store.migrate import migrate


class Place:
    """A running API, and the port of its broker."""

    def __init__(self, api: cloud_api.Api, port: int, database: asyncpg.Connection) -> None:
        self.port = port
        self.database = database
        self.http = Http(api.client, api.url)

    async def operator(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"authorization": f"Bearer {cloud_api.token()}"}
        answer = await self.http(method, path, body, headers)
        assert answer.status in (200, 201, 204), answer.body
        return answer.body

    async def agent(self) -> AgentDouble:
        name = {"fleetName": secrets.token_hex(4)}
        fleet = await self.operator("POST", "/api/v1/fleets", name)
        body = {"fleetUuid": fleet["fleet_uuid"]}
        made = await self.operator("POST", "/api/v1/provisioning-keys", body)
        agent = AgentDouble(ask=self.http, provisioning_key=made["key"])
        await agent.come_in()
        return agent

    @asynccontextmanager
    async def connected(self, username: str, password: str) -> AsyncIterator[mqtt.Session]:
        options = mqtt.Options(
            host=LOOPBACK,
            port=self.port,
            username=username,
            password=password,
            client_id=secrets.token_hex(8),
            clean_start=True,
        )
        async with mqtt.connect(options) as session:
            yield session

    async def report(self, agent: AgentDouble, session: mqtt.Session, cpu_usage: float) -> None:
        """Publish a state until it is in PostgreSQL: at first nobody may have subscribed."""
        query = "SELECT cpu_usage FROM agents WHERE uuid = $1"
        state = {agent.uuid: {"version": 1, "cpu_usage": cpu_usage}}
        async with asyncio.timeout(30):
            while await self.database.fetchval(query, agent.uuid) != cpu_usage:
                await agent.publish(session, "state", state)
                await asyncio.sleep(0.1)


@asynccontextmanager
async def running(
    *, database_url: str, redis_url: str, mqtt_url: str, api_port: int, **environment: str
) -> AsyncIterator[Place]:
    """The API, ready, with an empty database that it may fill."""
    await migrate(database_url)
    await cloud_api.fill(database_url)
    whole = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "MQTT_URL": mqtt_url,
        "API_PORT": str(api_port),
        "JWT_SECRET": cloud_api.KEY,
        **{f"IOTISTICA_RATE_LIMIT_{name}": "1000000" for name in cloud_api.LIMITS},
        **environment,
    }
    process = cloud_api.start(**whole)
    database = await asyncpg.connect(database_url)
    port = mqtt.parse_url(mqtt_url, client_id="").port
    async with aiohttp.ClientSession() as client:
        api = cloud_api.Api(f"http://{LOOPBACK}:{api_port}", process, client, whole)
        await cloud_api.ready(api)
        yield Place(api, port, database)
    await database.close()
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 15) == 0
