"""The callbacks behind a real Mosquitto with mosquitto-go-auth, where that plugin is at hand.

`IOTISTICA_TEST_GO_AUTH_SO` names it; docs/broker-accounts.md says how it is built.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests import cloud_api
from tests.broker_place import Place, running

from iotistica import mqtt
from iotistica.embedded.broker import BUILTIN, find_broker
from iotistica.embedded.ports import LOOPBACK, answers, free_port
from iotistica.embedded.process import Child, Command
from iotistica.embedded.redis import Redis

GO_AUTH = "IOTISTICA_TEST_GO_AUTH_SO"
TOKEN = secrets.token_urlsafe()


def plugin() -> Path:
    found = os.environ.get(GO_AUTH)
    if not found:
        pytest.skip(f"{GO_AUTH} is not set: no mosquitto-go-auth to test with")
    if find_broker() == BUILTIN:
        pytest.skip("mosquitto >= 2 is not installed")
    return Path(found)


def broker(directory: Path, *, port: int, api_port: int, params: str) -> Child:
    config = directory / "mosquitto.conf"
    config.write_text(
        f"""
per_listener_settings false
allow_anonymous false
listener {port} {LOOPBACK}
user root
log_dest stderr
auth_plugin {plugin()}
auth_opt_backends http
auth_opt_log_level info
auth_opt_http_host iotistica:{TOKEN}@{LOOPBACK}
auth_opt_http_port {api_port}
auth_opt_http_getuser_uri /mosquitto-auth/user
auth_opt_http_superuser_uri /mosquitto-auth/superuser
auth_opt_http_aclcheck_uri /mosquitto-auth/acl
auth_opt_http_params_mode {params}
auth_opt_http_response_mode status
auth_opt_http_timeout 5
"""
    )
    return Child(
        Command(
            name="mosquitto",
            argv=[find_broker(), "-c", config],
            log=directory / "broker.log",
            pid_file=directory / "broker.pid",
            cwd=directory,
        )
    )


@pytest.fixture(params=["json", "form"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str, redis_server: Redis
) -> AsyncIterator[Place]:
    port, api_port = free_port(), free_port()
    child = broker(tmp_path, port=port, api_port=api_port, params=request.param)
    await child.start(lambda: answers(port))
    async with running(
        database_url=postgres_url,
        redis_url=redis_server.url,
        mqtt_url=f"mqtt://iotistica-api:{secrets.token_urlsafe()}@{LOOPBACK}:{port}",
        api_port=api_port,
        IOTISTICA_MQTT_ACCOUNTS="callbacks",
        IOTISTICA_MQTT_CALLBACK_TOKEN=TOKEN,
    ) as place:
        yield place
    await child.stop()


async def refused(session: mqtt.Session, topic: str) -> None:
    with pytest.raises(mqtt.Refused):
        await session.publish(topic, b"x", qos=1)


@pytest.mark.timeout(120)
async def test_an_agent_and_an_operators_user_at_a_broker_that_asks(place: Place) -> None:
    agent, other = await place.agent(), await place.agent()
    rule = {"topic": f"i/{cloud_api.TENANT}/a/+/endpoints/#", "access": 5}
    user = await place.operator(
        "POST", "/api/v1/auth/mqtt-users", {"username": "node-red", "acls": [rule]}
    )
    async with (
        agent.connect() as session,
        place.connected(user["username"], user["password"]) as watching,
        place.connected(agent.api_key, agent.api_key) as by_key,
    ):
        own = user["acls"][0]["topic"]
        await watching.subscribe(own, f"$share/group/{own}")
        with pytest.raises(mqtt.Refused):
            await watching.subscribe("i/+/a/+/endpoints/#")
        # The whole way: iotistica itself was let in, and takes what is published.
        await place.report(agent, session, 7.5)
        await agent.publish(session, "endpoints/plc", {"value": 1})
        async with asyncio.timeout(10):
            heard = await watching.receive()
        assert {one.topic for one in heard} == {agent.topic("endpoints/plc")}
        await by_key.publish(agent.topic("endpoints/plc"), b"{}", qos=1)
        await refused(by_key, other.topic("endpoints/plc"))
        await refused(session, other.topic("endpoints/plc"))
        await refused(watching, agent.topic("endpoints/plc"))
        for wider in (agent.topic("").rpartition("/a/")[0] + "/#", "#", other.topic("#")):
            with pytest.raises(mqtt.Refused):
                await session.subscribe(wider)
        await session.subscribe(agent.topic("#"))
        # A session goes on, in which nothing is allowed any more.
        body = {"is_active": False}
        await place.operator("PATCH", f"/api/v1/agents/{agent.uuid}/active", body)
        async with asyncio.timeout(5):
            while True:
                try:
                    await agent.publish(session, "endpoints/plc", {"value": 2})
                except mqtt.Refused:
                    break
                await asyncio.sleep(0.02)
    for username, password in (
        (user["username"], "wrong"),
        ("agent_unheard-of", "x"),
        (agent.registration["mqtt"]["username"], agent.registration["mqtt"]["password"]),
        (agent.api_key, agent.api_key),
    ):
        with pytest.raises((mqtt.Refused, mqtt.Disconnected)):
            async with place.connected(username, password):
                pass
