"""Accounts at a real Mosquitto with its dynamic-security plugin."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import asyncpg
import pytest
from tests.agent_double import AgentDouble
from tests.broker_place import running
from tests.dynsec_broker import SERVICE, DynsecBroker
from tests.integration.test_registration import ByTable, provisioning_key
from tests.rest import KEY, Rest

from iotistica import keys, mqtt
from iotistica.api.accounts import Account, Rule
from iotistica.api.accounts.choice import accounts
from iotistica.api.accounts.control_topic import control
from iotistica.api.accounts.dynsec import DynamicSecurity
from iotistica.api.agent_parts import AgentParts, agent_handlers
from iotistica.api.broker_parts import broker_handlers
from iotistica.api.route import routes_of
from iotistica.api.table import Table
from iotistica.embedded.ports import free_port
from iotistica.embedded.redis import Redis
from iotistica.errors import StoreUnavailable
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.streams import Channels, Streams


@pytest.fixture
async def plugged(tmp_path: Path) -> AsyncIterator[DynsecBroker]:
    broker = DynsecBroker(tmp_path)
    await broker.start()
    yield broker
    await broker.stop()


def settings(broker: DynsecBroker, **more: str) -> Settings:
    return Settings.load(
        jwt_secret=KEY,
        mqtt_url=broker.service_url,
        mqtt_admin_url=broker.admin_url,
        mqtt_accounts="dynsec",
        **more,
    )


def told_by(broker: DynsecBroker) -> DynamicSecurity:
    # The channels are those of another choice.
    found = accounts(settings(broker), Channels(Mock()))
    assert isinstance(found, DynamicSecurity)
    return found


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[mqtt.Session]:
    options = mqtt.parse_url(url, client_id=secrets.token_hex(8), clean_start=True)
    async with mqtt.connect(options) as session:
        yield session


def account(*rules: Rule, password: str = "", name: str = "") -> Account:
    return Account(
        name or f"agent_{secrets.token_hex(8)}",
        password or secrets.token_urlsafe(),
        rules,
        secrets.token_hex(8),
    )


async def refused(session: mqtt.Session, topic: str) -> None:
    with pytest.raises(mqtt.Refused):
        await session.publish(topic, b"x", qos=1)


async def received(session: mqtt.Session) -> list[tuple[str, bytes]]:
    async with asyncio.timeout(10):
        return [(one.topic, one.payload) for one in await session.receive()]


async def ended(session: mqtt.Session) -> None:
    async def listen() -> None:
        while True:
            await session.receive()

    with pytest.raises(mqtt.Disconnected):
        await asyncio.wait_for(listen(), 10)


def written(broker: DynsecBroker) -> Any:
    """What the plugin's file says, which it writes in place."""
    for _ in range(100):
        with suppress(json.JSONDecodeError):
            return json.loads(broker.file.read_text())
        time.sleep(0.02)
    raise AssertionError(f"{broker.file} is never whole")


def clients(broker: DynsecBroker) -> set[str]:
    return {one["username"] for one in written(broker)["clients"]}


async def test_iotistica_itself_is_let_in_and_nobody_may_anything(plugged: DynsecBroker) -> None:
    told = told_by(plugged)
    assert await told.prepare() is True
    async with connected(plugged.service_url) as session:
        await session.subscribe(keys.shared_filter(keys.TELEMETRY_FILTER), "$SYS/broker/uptime")
        await session.publish("i/x/a/y/endpoints/z", b"1", qos=1)
        topics = {topic for topic, _ in await received(session)}
        assert topics & {"i/x/a/y/endpoints/z", "$SYS/broker/uptime"}
        await refused(session, "elsewhere")
        await refused(session, "$CONTROL/dynamic-security/v1")
    # What it knows it is not told again.
    before = plugged.file.stat().st_mtime_ns
    assert await told.prepare() is False
    assert plugged.file.stat().st_mtime_ns == before
    assert set(written(plugged)["defaultACLAccess"].values()) == {False}


async def test_an_account_may_do_what_its_rules_say(plugged: DynsecBroker) -> None:
    told = told_by(plugged)
    await told.prepare()
    own = account(Rule("i/x/a/y/#", 7))
    await told.put([own])
    async with (
        connected(plugged.url(own.username, own.password)) as session,
        connected(plugged.service_url) as ours,
    ):
        await session.subscribe("i/x/a/y/jobs/#")
        for wider in ("i/x/a/#", "#", "i/x/a/+/jobs", "+/x/a/y/jobs", "$SYS/#", "$share/g/i/#"):
            with pytest.raises(mqtt.Refused):
                await session.subscribe(wider)
        await refused(session, "i/x/a/z/state")
        await ours.publish("i/x/a/y/jobs/notify", b"1", qos=1)
        assert await received(session) == [("i/x/a/y/jobs/notify", b"1")]


@pytest.mark.parametrize("access", range(1, 8))
async def test_the_bits_of_a_rule(plugged: DynsecBroker, access: int) -> None:
    told = told_by(plugged)
    await told.prepare()
    own = account(Rule("i/x/#", access), Rule("i/open/#", 4))
    await told.put([own])
    async with (
        connected(plugged.url(own.username, own.password)) as session,
        connected(plugged.service_url) as ours,
    ):
        if access & 2:
            await session.publish("i/x/t", b"1", qos=1)
        else:
            await refused(session, "i/x/t")
        if not access & 4:
            with pytest.raises(mqtt.Refused):
                await session.subscribe("i/x/t")
            return
        await session.subscribe("i/x/t", "$share/group/i/x/u")
        await ours.publish("i/x/t", b"2", qos=1)
        await ours.publish("i/x/u", b"3", qos=1)
        if access & 1:
            found = await received(session)
            while len(found) < 2:
                found += await received(session)
            assert sorted(found) == [("i/x/t", b"2"), ("i/x/u", b"3")]
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await session.receive()


async def test_a_change_ends_sessions_and_nothing_else_does(plugged: DynsecBroker) -> None:
    told = told_by(plugged)
    await told.prepare()
    own, other = account(Rule("i/x/#", 7)), account(Rule("i/y/#", 7))
    await told.put([own, other])
    async with connected(plugged.url(own.username, own.password)) as session:
        await told.put([own, account()])
        await told.remove([other.username, "agent_unheard-of"])
        await session.publish("i/x/t", b"1", qos=1)
        await told.put([account(Rule("i/z/#", 7), name=own.username, password=own.password)])
        await ended(session)
    async with connected(plugged.url(own.username, own.password)) as session:
        await refused(session, "i/x/t")
        await session.publish("i/z/t", b"1", qos=1)
        await told.put([account(Rule("i/z/#", 7), name=own.username, password="another one")])
        await ended(session)
    with pytest.raises((mqtt.Refused, mqtt.Disconnected)):
        async with connected(plugged.url(own.username, own.password)):
            pass
    async with connected(plugged.url(own.username, "another%20one")):
        pass


async def test_a_removal_ends_sessions_and_may_be_repeated(plugged: DynsecBroker) -> None:
    told = told_by(plugged)
    await told.prepare()
    own = account(Rule("i/x/#", 7))
    await told.put([own])
    async with connected(plugged.url(own.username, own.password)) as session:
        await told.remove([own.username])
        await ended(session)
    await told.remove([own.username])
    with pytest.raises((mqtt.Refused, mqtt.Disconnected)):
        async with connected(plugged.url(own.username, own.password)):
            pass
    roles = [one["rolename"] for one in written(plugged)["roles"]]
    assert sorted(roles) == ["admin", f"iotistica:{SERVICE}"]


async def test_many_at_once_and_again(plugged: DynsecBroker) -> None:
    told = told_by(plugged)
    await told.prepare()
    many = [account(Rule(f"i/x/{n}/#", 7)) for n in range(250)]
    await asyncio.gather(*(told.put([one]) for one in many[:50]), told.put(many[50:]))
    assert {one.username for one in many} <= clients(plugged)
    written = plugged.file.stat().st_mtime_ns
    await told.put(many)
    assert plugged.file.stat().st_mtime_ns == written
    async with connected(plugged.url(many[99].username, many[99].password)) as session:
        await session.publish("i/x/99/t", b"1", qos=1)


async def test_two_processes_tell_of_one_account(plugged: DynsecBroker) -> None:
    one, two = told_by(plugged), told_by(plugged)
    await asyncio.gather(one.prepare(), two.prepare())
    own = account(Rule("i/x/#", 7))
    await asyncio.gather(*(told.put([own]) for told in (one, two)))
    async with connected(plugged.url(own.username, own.password)) as session:
        await session.publish("i/x/t", b"1", qos=1)


async def test_nobody_takes_the_place_of_iotistica(plugged: DynsecBroker) -> None:
    told = told_by(plugged)
    await told.prepare()
    await told.put([account(name=SERVICE), account(name="dynsec-admin")])
    async with connected(plugged.service_url) as session:
        await session.publish("i/x", b"1", qos=1)
    assert await told.prepare() is False


async def test_a_broker_that_is_away_or_refuses_is_told_later(
    plugged: DynsecBroker, tmp_path: Path
) -> None:
    told = told_by(plugged)
    await told.prepare()
    # A user who is not the administrator.
    own = account(Rule("i/x/#", 7))
    await told.put([own])
    options = mqtt.parse_url(plugged.url(own.username, own.password), client_id="")
    with pytest.raises(StoreUnavailable, match="the broker refuses its administrator"):
        async with control(options):
            pass
    options = mqtt.parse_url(plugged.url(own.username, "wrong"), client_id="")
    with pytest.raises(StoreUnavailable):
        async with control(options):
            pass
    async with control(mqtt.parse_url(plugged.admin_url, client_id="")) as plugin:
        with pytest.raises(StoreUnavailable, match="the broker refused noSuchCommand: Unknown"):
            await plugin.change([{"command": "noSuchCommand"}])
    await plugged.stop()
    for attempt in (told.prepare(), told.put([own]), told.remove([own.username])):
        with pytest.raises(StoreUnavailable):
            await attempt


async def test_answers_to_others_are_not_ours(plugged: DynsecBroker) -> None:
    told = told_by(plugged)
    await told.prepare()

    def by_hand() -> None:
        options = mqtt.parse_url(plugged.admin_url, client_id="")
        command = ["mosquitto_ctrl", "-p", str(plugged.port), "-u", str(options.username)]
        for _ in range(20):
            subprocess.run(
                [*command, "-P", str(options.password), "dynsec", "listClients"],
                check=True,
                capture_output=True,
            )

    many = [account() for _ in range(40)]
    await asyncio.gather(asyncio.to_thread(by_hand), *(told.put([one]) for one in many))
    assert {one.username for one in many} <= clients(plugged)


@pytest.fixture
async def everything(
    plugged: DynsecBroker, rest: Rest, pool: Pool, streams: Streams
) -> tuple[AgentParts, Rest]:
    """The API's part about agents and users of the broker, which tells the plugin."""
    parts = AgentParts.of(settings(plugged), pool, streams)
    found = [*agent_handlers(parts), *broker_handlers(parts, rest.identity.limiter)]
    table = Table([route for part in found for route in routes_of(part)], rest.identity.callers)
    return parts, Rest(table, rest.tenant, rest.identity)


async def test_an_agent_comes_in_and_the_broker_recovers_when_it_lost_its_file(
    plugged: DynsecBroker, everything: tuple[AgentParts, Rest], connection: asyncpg.Connection
) -> None:
    parts, rest = everything
    await parts.reconciler.catch_up()
    agent, other = [
        AgentDouble(ask=ByTable(rest), provisioning_key=await provisioning_key(rest))
        for _ in range(2)
    ]
    await agent.come_in()
    await other.come_in()
    user = (
        await rest.ask(
            "POST",
            "/api/v1/auth/mqtt-users",
            {
                "username": "node-red",
                "password": "correct horse battery",
                "acls": [{"topic": f"i/{rest.tenant}/a/+/endpoints/#", "access": 5}],
            },
        )
    ).body
    assert user["isTold"] is True

    async def works() -> None:
        reader = plugged.url(user["username"], "correct%20horse%20battery")
        async with agent.connect() as session, connected(reader) as watching:
            everyone = agent.topic("endpoints/#").replace(agent.topic("").split("/")[3], "+")
            await watching.subscribe(everyone)
            await agent.publish(session, "endpoints/plc", {"value": 1})
            await refused(session, other.topic("endpoints/plc"))
            with pytest.raises(mqtt.Refused):
                await session.subscribe(other.topic("jobs/#"))
            assert await received(watching) == [(agent.topic("endpoints/plc"), b'{"value": 1}')]
            await refused(watching, agent.topic("endpoints/plc"))
            with pytest.raises(mqtt.Refused):
                await watching.subscribe("i/+/a/+/endpoints/#")

    await works()
    await plugged.stop()
    await plugged.start()
    with pytest.raises((mqtt.Refused, mqtt.Disconnected)):
        async with agent.connect():
            pass
    await parts.reconciler.catch_up()
    await works()
    path = f"/api/v1/auth/mqtt-users/{user['id']}"
    async with agent.connect() as session:
        assert (await rest.ask("DELETE", f"/api/v1/agents/{agent.uuid}")).status == 200
        await ended(session)
    assert (await rest.ask("DELETE", path)).status == 204
    assert clients(plugged) == {"dynsec-admin", SERVICE, f"agent_{other.uuid}"}
    assert await connection.fetchval("SELECT count(*) FROM mqtt_users") == 1


@pytest.mark.timeout(120)
async def test_iotistica_makes_its_own_account_at_its_first_start(
    plugged: DynsecBroker, postgres_url: str, redis_server: Redis
) -> None:
    async with running(
        database_url=postgres_url,
        redis_url=redis_server.url,
        mqtt_url=plugged.service_url,
        api_port=free_port(),
        IOTISTICA_MQTT_ACCOUNTS="dynsec",
        IOTISTICA_MQTT_ADMIN_URL=plugged.admin_url,
    ) as place:
        agent = await place.agent()
        async with agent.connect() as session:
            await place.report(agent, session, 7.5)
            # The broker loses its file, and comes back as it was.
            await plugged.stop()
        await plugged.start()
        async with asyncio.timeout(60):
            while f"agent_{agent.uuid}" not in clients(plugged):
                await asyncio.sleep(0.1)
        async with agent.connect() as session:
            await place.report(agent, session, 8.5)
