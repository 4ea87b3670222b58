"""What a broker that asks is answered, and how soon after a change."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import asyncpg
import pytest
from tests.agent_double import AgentDouble
from tests.integration.test_registration import ByTable, provisioning_key
from tests.rest import KEY, Answer, Rest

from iotistica import keys
from iotistica._native import encode_tenant
from iotistica.api.agent_parts import AgentParts, agent_handlers
from iotistica.api.broker_parts import broker_handlers
from iotistica.api.route import routes_of
from iotistica.api.routes.broker_callbacks import BrokerCallbacks
from iotistica.api.table import Table
from iotistica.errors import StoreUnavailable
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.streams import Streams

TOKEN = "a token of a broker"
SERVICE = ("iotistica-api", "the password of MQTT_URL")
USERS = "/api/v1/auth/mqtt-users"


@dataclass
class Asked:
    """Asks as a broker does."""

    rest: Rest
    parts: AgentParts
    place: str = "mosquitto-auth"

    async def __call__(self, question: str, token: str = TOKEN, **given: Any) -> Answer:
        headers = {"authorization": f"Bearer {token}"}
        path = f"/{self.place}/{question}"
        return await self.rest.ask("POST", path, given, role=None, headers=headers)

    async def may(self, username: str, topic: str, acc: int) -> bool:
        answer = await self("acl", username=username, topic=topic, acc=acc)
        assert answer.status in (200, 403), answer.body
        assert answer.body["result"] == ("allow" if answer.status == 200 else "deny")
        return answer.status == 200

    async def enters(self, username: str, password: str) -> bool:
        answer = await self("user", username=username, password=password)
        assert answer.status in (200, 403), answer.body
        return answer.status == 200


def settings(redis_url: str, **more: Any) -> Settings:
    return Settings.load(
        **{
            "jwt_secret": KEY,
            "redis_url": redis_url,
            "mqtt_url": f"mqtt://{SERVICE[0]}:{quote(SERVICE[1])}@127.0.0.1:1",
            "mqtt_accounts": "callbacks",
            "mqtt_callback_token": TOKEN,
            # So long that only what is told can be heard.
            "mqtt_callback_cache_s": 300,
            **more,
        }
    )


Process = Callable[..., Awaitable[Asked]]


@pytest.fixture
async def process(
    rest: Rest, pool: Pool, streams: Streams, redis_url: str
) -> AsyncIterator[Process]:
    """A web process that a broker asks, which has heard all there was to hear."""
    running: list[asyncio.Task[None]] = []

    async def started(**more: Any) -> Asked:
        parts = AgentParts.of(settings(redis_url, **more), pool, streams)
        found = [*agent_handlers(parts), *broker_handlers(parts, rest.identity.limiter)]
        table = Table([route for part in found for route in routes_of(part)], rest.identity.callers)
        asked = Asked(Rest(table, rest.tenant, rest.identity), parts)
        if more:
            return asked
        [callbacks] = [part for part in found if isinstance(part, BrokerCallbacks)]
        before = await subscribers(streams)
        running.extend(asyncio.create_task(one.run()) for one in (callbacks, parts))
        async with asyncio.timeout(5):
            while await subscribers(streams) <= before:
                await asyncio.sleep(0.01)
        return asked

    yield started
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def subscribers(streams: Streams) -> int:
    redis: Any = streams.channels._redis
    found = await redis.execute_command("PUBSUB", "NUMSUB", keys.BROKER_USERS_CHANNEL)
    return int(found[1])


@pytest.fixture
async def asked(process: Process) -> Asked:
    return await process()


@pytest.fixture
async def agent(asked: Asked) -> AgentDouble:
    key = await provisioning_key(asked.rest)
    double = AgentDouble(ask=ByTable(asked.rest), provisioning_key=key)
    await double.come_in()
    return double


def credentials(agent: AgentDouble) -> tuple[str, str]:
    mqtt: Mapping[str, str] = agent.registration["mqtt"]
    return mqtt["username"], mqtt["password"]


def topic(rest: Rest, rest_of_it: str) -> str:
    return f"i/{encode_tenant(rest.tenant)}/{rest_of_it}"


async def operator(asked: Asked, name: str = "node-red", **more: Any) -> dict[str, Any]:
    answer = await asked.rest.ask("POST", USERS, {"username": name, **more})
    assert answer.status == 201, answer.body
    body: dict[str, Any] = answer.body
    return body


async def test_answers_are_those_of_the_reference(asked: Asked, agent: AgentDouble) -> None:
    username, password = credentials(agent)
    allowed = {"result": "allow", "is_superuser": False}
    for place in ("mosquitto-auth", "mqtt-auth"):
        asked.place = place
        answer = await asked("user", username=username, password=password, clientid="x")
        assert (answer.status, answer.body) == (200, allowed)
        for given, error in (
            ({}, "Missing credentials"),
            ({"username": username}, "Missing credentials"),
            ({"username": username, "password": ""}, "Missing credentials"),
            ({"username": 7, "password": 7}, "Missing credentials"),
            ({"username": "agent_x", "password": "x"}, "User not found"),
            ({"username": "x\0", "password": "x"}, "User not found"),
            ({"username": username, "password": password + "x"}, "Invalid password"),
        ):
            answer = await asked("user", **given)
            assert (answer.status, answer.body["result"]) == (403, "deny")
            assert answer.body["error"] == error
        assert (await asked("superuser", username=username)).status == 403
        answer = await asked("acl", username=username, topic=agent.topic("state"), acc=2)
        assert (answer.status, answer.body) == (200, allowed)
        answer = await asked("acl", username=username, topic="i/x", acc=2)
        assert (answer.status, answer.body["result"]) == (403, "deny")


async def test_iotistica_itself_is_the_one_superuser(
    asked: Asked, agent: AgentDouble, connection: asyncpg.Connection
) -> None:
    assert (await asked("superuser", username=SERVICE[0])).body == {
        "result": "allow",
        "is_superuser": True,
    }
    assert await asked.enters(*SERVICE)
    assert not await asked.enters(SERVICE[0], "")
    assert not await asked.enters(SERVICE[0], "wrong")
    assert await asked.may(SERVICE[0], "$SYS/#", 4)
    # Nobody is one by the database.
    await connection.execute("UPDATE mqtt_users SET is_superuser = true")
    username, _ = credentials(agent)
    assert (await asked("superuser", username=username)).status == 403
    assert not await asked.may(username, "i/x", 2)


@pytest.mark.parametrize(
    ("rest_of_it", "acc", "is_allowed"),
    [
        ("state", 2, True),
        ("jobs/notify", 1, True),
        ("#", 4, True),
        ("jobs/+/update", 7, True),
        ("", 2, True),
        ("+", 2, False),
        ("#", 1, False),
        ("#", 3, False),
    ],
)
async def test_what_an_agent_may_do(
    asked: Asked, agent: AgentDouble, rest_of_it: str, acc: int, is_allowed: bool
) -> None:
    username, _ = credentials(agent)
    assert await asked.may(username, agent.topic(rest_of_it), acc) is is_allowed


async def test_an_agent_sees_nothing_of_others(asked: Asked, agent: AgentDouble) -> None:
    username, _ = credentials(agent)
    own = agent.topic("").rstrip("/")
    assert await asked.may(username, f"$share/group/{own}/jobs/#", 4)
    above = own.rpartition("/")[0]
    for wanted, acc in (
        (f"{above}/+/jobs/#", 4),
        (f"{above}/#", 4),
        (f"{own}x/state", 2),
        ("#", 4),
        ("$SYS/#", 4),
        (f"$share/group/{above}/#", 4),
        (f"$share/{own}/#", 4),
        (f"$share/group/{own}/state", 2),
        ("$CONTROL/dynamic-security/v1", 2),
    ):
        assert not await asked.may(username, wanted, acc), wanted


async def test_a_subscription_wider_than_its_rule_is_denied(asked: Asked) -> None:
    rules = [{"topic": topic(asked.rest, "a/+"), "access": 5}]
    user = await operator(asked, acls=rules)
    name = user["username"]
    assert await asked.may(name, topic(asked.rest, "a/x"), 4)
    assert await asked.may(name, topic(asked.rest, "a/+"), 4)
    assert not await asked.may(name, topic(asked.rest, "a/#"), 4)
    assert not await asked.may(name, topic(asked.rest, "a/x"), 2)
    assert not await asked.may(name, topic(asked.rest, "a/x"), 7)


async def test_bits_by_action(asked: Asked) -> None:
    rules = [
        {"topic": topic(asked.rest, "w"), "access": 2},
        {"topic": topic(asked.rest, "s"), "access": 4},
        {"topic": topic(asked.rest, "r"), "access": 5},
    ]
    name = (await operator(asked, acls=rules))["username"]

    async def may(action: str, level: str) -> bool:
        answer = await asked("acl", username=name, topic=topic(asked.rest, level), action=action)
        return answer.status == 200

    assert await may("publish", "w")
    assert not await may("subscribe", "w")
    # Some brokers do not ask again when they deliver.
    assert not await may("subscribe", "s")
    assert await may("subscribe", "r")
    assert not await may("dance", "r")


@pytest.mark.parametrize("acc", [0, 8, -1, "8", "x", None, True, 1.5, "", [1]])
async def test_an_access_that_says_nothing_is_denied(
    asked: Asked, agent: AgentDouble, acc: Any
) -> None:
    username, _ = credentials(agent)
    answer = await asked("acl", username=username, topic=agent.topic("state"), acc=acc)
    assert (answer.status, answer.body["result"]) == (403, "deny")


async def test_fields_come_as_json_as_a_form_or_in_the_query(
    asked: Asked, agent: AgentDouble
) -> None:
    username, password = credentials(agent)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    user = {"username": username, "password": password}
    acl = {"username": username, "topic": agent.topic("state"), "acc": "2"}
    form = {**bearer, "content-type": "application/x-www-form-urlencoded"}
    for question, given in (("user", user), ("acl", acl)):
        path = f"/mosquitto-auth/{question}"
        for target, body, headers in (
            (path, json.dumps(given).encode(), bearer),
            (path, urlencode(given).encode(), form),
            (f"{path}?{urlencode(given)}", None, bearer),
            (f"{path}?username=agent_x", json.dumps(given).encode(), bearer),
        ):
            answer = await asked.rest.ask("POST", target, body, role=None, headers=headers)
            assert answer.status == 200, (target, body)
        for body in (b"", b"{", b"[]", b"\xff", b'"x"'):
            answer = await asked.rest.ask("POST", path, body, role=None, headers=bearer)
            assert (answer.status, answer.body["result"]) == (403, "deny")


async def test_an_agent_may_show_its_api_key_as_its_name(asked: Asked, agent: AgentDouble) -> None:
    _, password = credentials(agent)
    for shown in (agent.api_key, "", password):
        assert await asked.enters(agent.api_key, shown)
    assert not await asked.enters(agent.api_key, "something else")
    assert not await asked.enters(secrets.token_hex(32), "")
    assert await asked.may(agent.api_key, agent.topic("state"), 2)
    assert not await asked.may(agent.api_key, "i/x", 2)
    assert not await asked.may(secrets.token_hex(32), agent.topic("state"), 2)


async def test_nobody_is_answered_without_the_token(asked: Asked, agent: AgentDouble) -> None:
    username, password = credentials(agent)
    user = {"username": username, "password": password}

    def basic(token: str) -> str:
        return "Basic " + base64.b64encode(f"iotistica:{token}".encode()).decode()

    path = "/mosquitto-auth/user"
    for header in (f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(TOKEN)):
        headers = {"authorization": header}
        answer = await asked.rest.ask("POST", path, user, role=None, headers=headers)
        assert answer.status == 200, header
    wrong = (
        "",
        "Bearer",
        "Bearer wrong",
        TOKEN,
        basic("wrong"),
        "Basic !",
        "Basic w7w=",
        "Bearer ü",
    )
    statuses = []
    for header in (*wrong, *wrong):
        headers = {"authorization": header} if header else {}
        answer = await asked.rest.ask("POST", path, user, role=None, headers=headers)
        assert "result" not in answer.body
        statuses.append(answer.status)
    # So many guesses a minute, whoever makes them; whoever knows it is not counted.
    assert statuses == [401] * 10 + [429] * 6
    assert await asked.enters(username, password)


async def test_callbacks_are_off_unless_they_are_asked_for(process: Process) -> None:
    for accounts in ("none", "files", "dynsec"):
        asked = await process(
            mqtt_accounts=accounts,
            mqtt_password_file="/nowhere/p",
            mqtt_acl_file="/nowhere/a",
            mqtt_admin_url="mqtt://admin:x@127.0.0.1:1",
        )
        for question in ("user", "superuser", "acl"):
            assert (await asked(question, username=SERVICE[0])).status == 404


async def test_a_change_is_so_at_once_in_every_process(process: Process) -> None:
    one, two = await process(), await process()
    user = await operator(one, acls=[{"topic": topic(one.rest, "a/#"), "access": 7}])
    name, password = user["username"], user["password"]
    path, rule = f"{USERS}/{user['id']}", user["acls"][0]["id"]

    async def both(question: Callable[[Asked], Awaitable[bool]], wanted: bool) -> None:
        async with asyncio.timeout(1):
            for asked in (one, two):
                while await question(asked) is not wanted:
                    await asyncio.sleep(0.005)

    async def enters(asked: Asked) -> bool:
        return await asked.enters(name, password)

    async def publishes(asked: Asked) -> bool:
        return await asked.may(name, topic(one.rest, "a/x"), 2)

    await both(enters, True)
    await both(publishes, True)
    body = {"topic": topic(one.rest, "a/#"), "access": 5}
    await one.rest.ask("PUT", f"/api/v1/auth/mqtt-acls/{rule}", body)
    await both(publishes, False)
    await one.rest.ask("PUT", f"/api/v1/auth/mqtt-acls/{rule}", {**body, "access": 7})
    await both(publishes, True)
    await one.rest.ask("PATCH", path, {"isActive": False})
    await both(enters, False)
    await both(publishes, False)
    await one.rest.ask("PATCH", path, {"isActive": True})
    await both(enters, True)
    await one.rest.ask("PATCH", path, {"password": "correct horse battery"})
    await both(enters, False)
    password = "correct horse battery"
    await both(enters, True)
    await one.rest.ask("DELETE", path)
    await both(enters, False)
    await both(publishes, False)
    again = await operator(one)
    password = again["password"]
    # Strangers are remembered for seconds, and forgotten when they come in.
    await both(enters, True)


async def test_an_agent_that_leaves_may_do_nothing_at_once(
    asked: Asked, agent: AgentDouble
) -> None:
    username, password = credentials(agent)
    assert await asked.enters(username, password)
    path = f"/api/v1/agents/{agent.uuid}"
    assert (await asked.rest.ask("PATCH", f"{path}/active", {"is_active": False})).status == 200
    answer = await asked("user", username=username, password=password)
    async with asyncio.timeout(1):
        while answer.status == 200:
            await asyncio.sleep(0.005)
            answer = await asked("user", username=username, password=password)
    assert answer.body["error"] == "User inactive"
    assert (await asked("user", username=agent.api_key)).body["error"] == "User inactive"
    assert not await asked.may(username, agent.topic("state"), 2)
    assert not await asked.may(agent.api_key, agent.topic("state"), 2)


async def test_users_are_remembered(
    asked: Asked, agent: AgentDouble, connection: asyncpg.Connection
) -> None:
    username, password = credentials(agent)
    assert await asked.enters(username, password)
    assert not await asked.enters("agent_x", "x")
    # Behind everybody's back, which tells nobody.
    await connection.execute("UPDATE mqtt_users SET is_active = false")
    await connection.execute(
        "INSERT INTO mqtt_users (username, tenant_id, password_hash) VALUES ('agent_x', $1, 'h')",
        asked.rest.tenant,
    )
    assert await asked.enters(username, password)
    answer = await asked("user", username="agent_x", password="x")
    assert answer.body["error"] == "User not found"


async def test_while_postgresql_is_away(
    asked: Asked, agent: AgentDouble, monkeypatch: pytest.MonkeyPatch, process: Process
) -> None:
    username, password = credentials(agent)
    forgetful = await process(mqtt_callback_cache_s=0)
    assert await forgetful.enters(username, password)

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr("iotistica.store.broker_users.BrokerUserStore.get", away)
    # Who was here lately goes on; of others nobody knows.
    assert await forgetful.enters(username, password)
    assert await forgetful.may(username, agent.topic("state"), 2)
    for question, given in (
        ("user", {"username": "agent_y", "password": "x"}),
        ("acl", {"username": "agent_y", "topic": "x", "acc": 2}),
    ):
        answer = await forgetful(question, **given)
        assert (answer.status, answer.body["result"]) == (500, "deny")
    # iotistica's own bridge does not depend on it.
    assert await forgetful.enters(*SERVICE)
