"""Polls over real HTTP: the short cut before Robyn's event loop, and what it leaves over."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.rest import KEY
from tests.web_process import Control

from iotistica import supervisor
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.device_keys import PURPOSE
from iotistica.embedded.ports import free_port
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.streams import Streams


@dataclass
class Web:
    """A web process, asked by an agent."""

    url: str
    client: aiohttp.ClientSession
    control: Control
    """Another process on the same servers."""

    digests: AgentDigests
    """Each agent's key is its UUID."""

    async def add_agent(self) -> str:
        agent = await self.control.add_agent()
        await self.control.pool.execute(
            "UPDATE agents SET device_api_key_hash = $2 WHERE uuid = $1",
            agent,
            self.digests.of(PURPOSE, agent),
        )
        return agent

    async def poll(
        self, agent: str, etag: str | None = None, *, method: str = "GET", **headers: str
    ) -> tuple[int, bytes, Any]:
        given = {"X-Device-API-Key": agent, **headers}
        if etag is not None:
            given["If-None-Match"] = etag
        url = f"{self.url}/api/v1/device/{agent}/state"
        async with self.client.request(method, url, headers=given) as reply:
            return reply.status, await reply.read(), reply.headers

    async def metric(self, name: str, **labels: str) -> float:
        async with self.client.get(f"{self.url}/metrics") as reply:
            text = await reply.text()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@pytest.fixture
async def web(
    pool: Pool, streams: Streams, database: str, redis_url: str, tenant: str
) -> AsyncIterator[Web]:
    settings = Settings.load(
        database_url=database, redis_url=redis_url, jwt_secret=KEY, log_level="error"
    )
    port = free_port()
    parameters = {"port": port, "peers": {}}
    role = supervisor.Role("web-0", "test", parameters)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "iotistica.api.robyn_app", stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(supervisor._assignment(role, settings))
    async with aiohttp.ClientSession() as client:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(30):
            while True:
                try:
                    async with client.get(f"{url}/ready") as reply:
                        if reply.status == 200:
                            break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)
        control = Control(pool, streams, tenant, settings)
        yield Web(url, client, control, AgentDigests(settings))
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_polls_over_http(web: Web) -> None:
    agent, stranger = await web.add_agent(), str(uuid.uuid4())
    config = {"text": "ä" * 40}
    made = await web.control.write("POST", agent, "/target-state", {"apps": {}, "config": config})
    status, body, headers = await web.poll(agent)
    assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert headers["etag"] == f'"{made["served_etag"]}"'
    etag, size = headers["etag"], str(len(body))
    # From memory now, and then as often as one likes.
    for given in (etag, made["served_etag"], f"W/{etag}"):
        status, body, headers = await web.poll(agent, given, **{"X-Request-ID": "mine"})
        assert (status, body, headers["etag"]) == (304, b"", etag)
        assert headers["x-content-length"] == size
        assert headers["x-min-poll-interval"] == "10"
        assert headers["x-request-id"] == "mine"
        assert "content-type" not in headers
    first, second = [(await web.poll(agent, etag))[2]["x-request-id"] for _ in range(2)]
    assert first != second
    # What the short cut leaves to the table.
    assert (await web.poll(agent, '"old"'))[0] == 200
    assert (await web.poll(stranger, etag))[0] == 401
    assert (await web.poll(agent, etag, method="POST"))[0] == 405
    assert (await web.poll(agent, etag, method="HEAD"))[0] == 304
    other = {"X-Device-API-Key": await web.add_agent()}
    assert (await web.poll(agent, etag, **other))[0] == 403
    async with web.client.get(f"{web.url}/api/v1/device/{agent}/state") as reply:
        assert reply.status == 401

    async with asyncio.timeout(5):
        while await web.metric("iotistica_target_polls_total", **{"from": "memory"}) < 5:
            await asyncio.sleep(0.05)
    path = "/api/v1/device/:uuid/state"
    answered = await web.metric("iotistica_http_requests_total", route=path, status="304")
    assert answered == 6
    # A look may just have told of the change that was made above.
    await web.poll(agent)
    assert await web.metric("iotistica_target_etags") == 1


async def test_a_change_in_another_process_is_served_within_a_second(web: Web) -> None:
    agent = await web.add_agent()
    for number in range(5):
        etag = (await web.poll(agent))[2]["etag"]
        assert (await web.poll(agent, etag))[0] == 304
        await web.control.write("POST", agent, "/target-state", {"apps": {str(number): {}}})
        started = time.monotonic()
        while (await web.poll(agent, etag))[0] == 304:
            await asyncio.sleep(0.005)
        assert time.monotonic() - started < 1.0
