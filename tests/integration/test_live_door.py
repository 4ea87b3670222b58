"""Live values through all of the Cloud API: front door, web process, broker, control process."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import time
import uuid
from pathlib import Path

import pytest
from tests import cloud_api
from tests.cloud_api import AGENT, FOREIGN, TENANT, Api, token
from tests.control import short
from tests.live import opened, refused, with_query
from websockets.asyncio.client import connect

from iotistica import mqtt
from iotistica.embedded.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


def address(api: Api, path: str = "/ws", **query: str) -> str:
    return with_query(api.url.replace("http", "ws", 1) + path, **query)


async def test_upgrades_are_refused_with_a_status(api: Api) -> None:
    for status, query in (
        (401, {"deviceUuid": AGENT}),
        (401, {"deviceUuid": AGENT, "token": "a.b.c"}),
        (400, {"token": token()}),
        (404, {"token": token(), "deviceUuid": FOREIGN}),
        (404, {"token": token(), "deviceUuid": str(uuid.uuid4())}),
    ):
        found, body = await refused(address(api, **query))
        assert (found, {"error", "message"} <= set(body)) == (status, True), query
    # Robyn itself takes no upgrade: whatever else is asked for is a 404.
    assert (await refused(address(api, "/api/v1/agents", token=token())))[0] == 404


async def test_plain_http_is_told_what_this_is(api: Api) -> None:
    assert (await api.get("/ws"))[0] == 426
    assert (await api.get("/ws", as_tenant=None))[0] == 401
    # A token in the address is for upgrades alone.
    assert (await api.get(f"/ws?token={token()}", as_tenant=None))[0] == 401


async def test_a_report_reaches_the_browser_within_a_second(api: Api) -> None:
    options = mqtt.parse_url(
        api.environment["MQTT_URL"], client_id=secrets.token_hex(4), clean_start=True
    )
    topic = f"i/{short(TENANT)}/a/{short(AGENT)}/state"
    async with (
        opened(address(api, token=token(), deviceUuid=AGENT)) as client,
        opened(address(api, token=token(), type="global")) as fleet,
        mqtt.connect(options) as agent,
    ):
        for channel in ("system-info", "history", "state", "presence"):
            await client.first(channel)
        await fleet.subscribe("presence")
        started = time.monotonic()
        await agent.publish(topic, json.dumps({"cpu_usage": 12.5}).encode(), qos=1)
        seen = {}
        while len(seen) < 3:
            message = await client.next()
            if message["type"] != "presence":
                seen[message["type"]] = message["data"]
        assert time.monotonic() - started < 1
        assert seen["system-info"] == {"cpu_usage": 12.5}
        assert seen["state"] == {"cpu_usage": 12.5}
        assert [point["value"] for point in seen["history"]["cpu"]] == [12.5]
        news = await fleet.next("presence")
        assert news["data"] == {"agents": [{"deviceUuid": AGENT, "online": True}]}


async def test_a_large_message_and_a_flood_pass_the_door(api: Api) -> None:
    url = address(api, token=token(), deviceUuid=AGENT)
    async with opened(url) as client:
        await client.socket.send("x" * (1024 * 1024 - 1))
        assert (await client.next())["code"] == "bad_message"
        await client.socket.send("x" * (1024 * 1024 + 1))
        assert (await client.end())[0] == 1009
    async with opened(url) as client:
        for _ in range(1001):
            await client.say(type="ping")
        assert await client.end() == (1008, "more than 1000 messages in 60 s")


async def test_sockets_are_counted(api: Api) -> None:
    async with opened(address(api, token=token(), deviceUuid=AGENT)):
        _, text, _ = await api.get("/metrics", as_tenant=None)
    lines = text.decode().splitlines()
    assert 'iotistica_live_sockets{process="web-0"} 1.0' in lines
    assert any(line.startswith('iotistica_live_messages_total{process="web-0"}') for line in lines)
    assert any(line.startswith("iotistica_door_tunnels") and " 1" in line for line in lines)


async def test_no_token_is_logged_and_a_stop_is_told(api: Api, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    environment = {
        **api.environment,
        "API_PORT": str(port),
        "LOG_LEVEL": "debug",
        "MQTT_CLIENT_ID": "another",
    }
    with log.open("wb") as file:
        process = cloud_api.start(file, **environment)
    own = Api(f"http://127.0.0.1:{port}", process, api.client, environment)
    try:
        await cloud_api.ready(own)
        secret = token()
        assert (await refused(address(own, token=secret, deviceUuid=FOREIGN)))[0] == 404
        assert (await refused(address(own, token=secret + "x", deviceUuid=AGENT)))[0] == 401
        assert (await refused(address(own, token=secret, deviceUuid=AGENT, x="y" * 9000)))[0] == 414
        await own.get(f"/ws?token={secret}", as_tenant=None)
        clients = []
        for _ in range(5):
            socket = await connect(address(own, token=secret, deviceUuid=AGENT))
            assert json.loads(await socket.recv())["type"] == "connected"
            clients.append(socket)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        for socket in clients:
            await asyncio.wait_for(socket.wait_closed(), 10)
            assert socket.close_code == 1001
        assert await asyncio.to_thread(process.wait, 15) == 0
        assert time.monotonic() - started < 10
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    text = log.read_text()
    assert "door is open" in text
    assert '"level":"debug"' in text
    for part in secret.split("."):
        assert part not in text
