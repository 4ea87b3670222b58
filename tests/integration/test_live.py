"""Live values by WebSocket, through the front door of a whole Cloud API (reference section 9)."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest
import redis.asyncio
from tests.cloud_api import AGENT, FOREIGN, KEY, TENANT, Api, token
from tests.live import address, listening, opened, refused

from iotistica.api.auth import issue_token

pytestmark = pytest.mark.asyncio(loop_scope="module")


def channel(what: str, agent: str = AGENT) -> str:
    return f"tenant:{{{TENANT}}}:device:{agent}:{what}"


async def publish(api: Api, where: str, document: Any) -> int:
    async with redis.asyncio.from_url(api.environment["REDIS_URL"]) as client:
        payload = document if isinstance(document, bytes) else json.dumps(document)
        return int(await client.publish(where, payload))


async def test_a_socket_is_greeted_and_answers_pings(api: Api) -> None:
    from websockets.asyncio.client import connect

    async with connect(address(api, token=token(), deviceUuid=AGENT)) as socket:
        assert json.loads(await socket.recv()) == {
            "type": "connected",
            "deviceUuid": AGENT,
            "message": f"Connected to device {AGENT}",
        }
        await socket.send('{"type": "ping"}')
        assert json.loads(await socket.recv()) == {"type": "pong"}


async def test_an_upgrade_without_rights_is_refused_before_it_happens(api: Api) -> None:
    absent = str(uuid.uuid4())
    expired = issue_token(KEY, tenant=TENANT, expires_s=-60)
    for status, query in (
        (401, {"deviceUuid": AGENT}),
        (401, {"deviceUuid": AGENT, "token": "x"}),
        (401, {"deviceUuid": AGENT, "token": expired}),
        (400, {"token": token()}),
        (400, {"token": token(), "deviceUuid": "x"}),
        (400, {"token": token(), "type": "device"}),
        (400, {"token": token(), "type": "global", "deviceUuid": AGENT}),
        (404, {"token": token(), "deviceUuid": absent}),
    ):
        found, body = await refused(address(api, **query))
        assert (found, set(body)) == (status, {"error", "message"}), query
    assert (await refused(address(api, "/elsewhere", token=token(), deviceUuid=AGENT)))[0] == 404


async def test_an_agent_of_another_tenant_is_one_that_does_not_exist(api: Api) -> None:
    absent = str(uuid.uuid4())
    answers = []
    for agent in (FOREIGN, absent):
        status, body = await refused(address(api, token=token(), deviceUuid=agent))
        answers.append((status, json.dumps(body).replace(agent, "?")))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


async def test_system_info_is_shown_at_once_and_follows_each_report(api: Api) -> None:
    async with listening(api) as client:
        assert await client.subscribe("system-info") == {
            "type": "subscribed",
            "channel": "system-info",
            "deviceUuid": AGENT,
        }
        first = await client.next("system-info")
        assert (first["deviceUuid"], first["data"]) == (AGENT, {})
        assert "source" not in first
        metrics = {"cpu_usage": 12.5, "memory_usage": None}
        document = {
            "deviceUuid": AGENT,
            "metrics": metrics,
            "timestamp": "2026-11-25T10:00:00.000Z",
        }
        started = time.monotonic()
        assert await publish(api, channel("metrics"), document) == 1
        assert await client.next() == {
            "type": "system-info",
            "deviceUuid": AGENT,
            "data": {"cpu_usage": 12.5},
            "timestamp": "2026-11-25T10:00:00.000Z",
            "source": "redis",
        }
        assert time.monotonic() - started < 1
