"""Users, keys and limits where two web processes stand behind one door."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests import cloud_api
from tests.cloud_api import Api

from iotistica.embedded.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROCESSES = 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(api: Api, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A second Cloud API on the same servers, of two web processes and with the usual limits."""
    spool: Path = tmp_path_factory.mktemp("spool")
    own = {
        "API_PORT": str(free_port()),
        "IOTISTICA_WEB_PROCESSES": str(PROCESSES),
        "MQTT_CLIENT_ID": "pair",
        "IOTISTICA_SPOOL_DIR": str(spool),
        "IOTISTICA_RATE_LIMIT_AUTH": "10",
    }
    environment = {**api.environment, **own}
    process = cloud_api.start(**environment)
    running = Api(f"http://127.0.0.1:{own['API_PORT']}", process, api.client, environment)
    await cloud_api.ready(running, 60)
    yield running
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0


async def send(api: Api, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Status and body; on a connection of its own, so that any process may get it."""
    if not headers:
        headers = {"authorization": f"Bearer {cloud_api.token()}"}
    headers["connection"] = "close"
    url = f"{api.url}/api/v1/{path}"
    async with api.client.request(method, url, json=body, headers=headers) as reply:
        text = await reply.read()
        return reply.status, json.loads(text) if text else None


async def statuses(api: Api, times: int, *request: Any, **headers: str) -> Counter[int]:
    answers = await asyncio.gather(*(send(api, *request, **headers) for _ in range(times)))
    return Counter(status for status, _ in answers)


async def test_a_revoked_key_ends_in_every_process(pair: Api) -> None:
    body = {"name": "historian", "permissions": ["user:read"]}
    status, made = await send(pair, "POST", "auth/api-keys", body)
    assert status == 201
    header = {"x-api-key": made["key"]}
    assert await statuses(pair, 20, "GET", "users", **header) == {200: 20}
    assert (await send(pair, "DELETE", f"auth/api-keys/{made['id']}"))[0] == 204
    revoked = time.monotonic()
    while (await statuses(pair, 10, "GET", "users", **header))[200]:
        assert time.monotonic() - revoked < 1
    assert await statuses(pair, 20, "GET", "users", **header) == {401: 20}


async def test_a_session_is_that_of_every_process(pair: Api) -> None:
    user = {"username": "ada", "email": "ada@example.org", "password": "correct horse"}
    made = await send(pair, "POST", "users", {**user, "mustChangePassword": False})
    assert made[0] == 201
    login = {name: user[name] for name in ("username", "password")}
    status, answer = await send(pair, "POST", "auth/login", login, accept="application/json")
    assert status == 200
    token = {"refreshToken": answer["refreshToken"]}
    renewed = await asyncio.gather(
        *(send(pair, "POST", "auth/refresh", token, accept="*/*") for _ in range(8))
    )
    assert [status for status, _ in renewed] == [200] * 8
    assert len({answer["refreshToken"] for _, answer in renewed}) == 1
    mine = {"authorization": f"Bearer {renewed[0][1]['accessToken']}"}
    assert await statuses(pair, 20, "GET", "auth/me", **mine) == {200: 20}
    changed = await send(pair, "PATCH", f"users/{made[1]['id']}", {"isActive": False})
    assert changed[0] == 200
    stopped = time.monotonic()
    while (await statuses(pair, 10, "GET", "auth/me", **mine))[200]:
        assert time.monotonic() - stopped < 1
    assert await statuses(pair, 20, "GET", "auth/me", **mine) == {401: 20}


async def test_logins_of_an_address_are_counted_together(pair: Api) -> None:
    began = time.time()
    found: Counter[int] = Counter()
    for name in range(4):
        body = {"username": f"nobody-{name}", "password": "x"}
        found += await statuses(pair, 10, "POST", "auth/login", body, accept="*/*")
    windows = int(time.time() // 60 - began // 60) + 1
    assert found[401] + found[429] == 40
    # At most one of the ten was used by the test before.
    assert 9 <= found[401] <= 10 * windows
