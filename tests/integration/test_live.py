"""Live values by WebSocket: each channel by value, and who may open and subscribe to what."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tests import people
from tests.live import Client, Place, opened, refused, serving, with_query
from tests.rest import Rest
from websockets.asyncio.client import connect

from iotistica.api.auth import issue_token
from iotistica.api.live.channels import CHANNELS, Scope
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.store.reports import Report, ReportStore
from iotistica.streams import Streams
from iotistica.streams.topics import Seen

AT = "2026-11-25T10:00:00.000Z"
LATER = "2099-01-01T00:00:00.000Z"
MIB = 1024 * 1024


@pytest.fixture
async def agent(rest: Rest, pool: Pool) -> str:
    made = str(uuid.uuid4())
    await AgentStore(pool).add_agents(rest.tenant, [(made, "a")])
    return made


@pytest.fixture
async def place(rest: Rest, pool: Pool, streams: Streams, redis_url: str) -> AsyncIterator[Place]:
    async with serving(rest, pool, streams, redis_url, live_recheck_s=0.2) as place:
        yield place


async def report(pool: Pool, agent: str, **fields: Any) -> None:
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    stamps = dict.fromkeys(fields, now_ms)
    await ReportStore(pool).merge([Report(agent, fields, stamps, now_ms)])


async def test_a_socket_is_greeted_and_answers_pings(place: Place, agent: str) -> None:
    async with connect(place.address(agent)) as socket:
        assert json.loads(await socket.recv()) == {
            "type": "connected",
            "deviceUuid": agent,
            "message": f"Connected to device {agent}",
        }
        await socket.send('{"type": "ping"}')
        assert json.loads(await socket.recv()) == {"type": "pong"}
    async with connect(place.address(None)) as socket:
        assert json.loads(await socket.recv()) == {
            "type": "connected",
            "message": "Connected to global",
        }


async def test_system_info_is_shown_at_once_and_follows_each_report(
    place: Place, pool: Pool, agent: str
) -> None:
    await report(pool, agent, cpu_usage=3, memory_usage=5, os_version="x", apps={"7": {}})
    async with place.opened(agent) as client:
        assert await client.subscribe("system-info") == {
            "type": "subscribed",
            "channel": "system-info",
            "deviceUuid": agent,
        }
        first = await client.next()
        assert first.pop("timestamp").endswith("Z")
        assert first == {
            "type": "system-info",
            "deviceUuid": agent,
            "data": {"cpu_usage": 3, "memory_usage": 5, "os_version": "x"},
        }
        metrics = {"cpu_usage": 12.5, "memory_usage": None}
        document = {"deviceUuid": agent, "metrics": metrics, "timestamp": AT}
        assert await place.publish(place.channel(agent, "metrics"), document) == 1
        assert await client.next() == {
            "type": "system-info",
            "deviceUuid": agent,
            "data": {"cpu_usage": 12.5, "memory_usage": 5, "os_version": "x"},
            "timestamp": AT,
            "source": "redis",
        }


async def test_history_has_one_unit_on_both_ways(
    place: Place, connection: asyncpg.Connection, agent: str
) -> None:
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    await connection.execute("SELECT readings_make_days(ARRAY[$1::int])", (at.date() - _EPOCH).days)
    await connection.executemany(
        "INSERT INTO readings (time, agent_uuid, metric_name, value, quality, protocol) "
        "VALUES ($1, $2, $3, $4, 'good', 'system')",
        [
            (at + timedelta(seconds=n), agent, name, value)
            for n in (0, 10)
            for name, value in (
                ("cpu_usage", 40.0 + n),
                ("memory_usage", 100.0 * MIB),
                ("memory_total", 1000.0 * MIB),
            )
        ],
    )
    iso = [
        (at + timedelta(seconds=n)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for n in (0, 10)
    ]
    async with place.opened(agent) as client:
        assert (await client.first("history"))["data"] == {
            "cpu": [{"time": iso[0], "value": 40.0}, {"time": iso[1], "value": 50.0}],
            "memory": [{"time": one, "used": 100.0, "available": 900.0} for one in iso],
            "network": [],
        }
        metrics = {
            "cpu_usage": 60,
            "memory_usage": 300 * MIB,
            "memory_total": 1000 * MIB,
            "network": {"download": 7, "upload": 8},
        }
        late = {"metrics": {"cpu_usage": 1}, "timestamp": "2020-01-01T00:00:00.000Z"}
        await place.publish(place.channel(agent, "metrics"), late)
        document = {"deviceUuid": agent, "metrics": metrics, "timestamp": LATER}
        await place.publish(place.channel(agent, "metrics"), document)
        data = (await client.next("history"))["data"]
        assert data["cpu"][2:] == [{"time": LATER, "value": 60}]
        assert data["memory"][2:] == [{"time": LATER, "used": 300.0, "available": 700.0}]
        assert data["network"] == [{"time": LATER, "download": 7, "upload": 8}]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).date()


async def test_network_interfaces_state_and_presence(place: Place, pool: Pool, agent: str) -> None:
    eth, wlan = {"name": "eth0", "ip4": "10.0.0.1"}, {"name": "wlan0"}
    await report(pool, agent, network_interfaces=[eth], apps={"7": {"x": 1}}, version=3)
    async with place.opened(agent) as client:
        first = await client.first("network-interfaces")
        assert first["data"] == {"interfaces": [eth]}
        # Both live on the same channel of Redis: the second is shown at once as well.
        assert (await client.first("system-info"))["data"] == {}
        document = {"metrics": {"network_interfaces": [wlan]}, "timestamp": AT}
        await place.publish(place.channel(agent, "metrics"), document)
        assert (await client.next("network-interfaces"))["data"] == {"interfaces": [wlan]}

        state = await client.first("state")
        assert state["data"] == {
            "apps": {"7": {"x": 1}},
            "version": 3,
            "network_interfaces": [eth],
        }
        document = {"deviceUuid": agent, "state": {"uptime": 7, "apps": None}, "timestamp": AT}
        await place.publish(place.channel(agent, "state"), document)
        live = await client.next("state")
        assert (live["data"], live["timestamp"], live["source"]) == (
            {"uptime": 7, "apps": None},
            AT,
            "redis",
        )

        assert (await client.first("presence"))["data"] == {"online": False}
        document = {"deviceUuid": agent, "online": True, "timestamp": AT}
        await place.publish(place.channel(agent, "presence"), document)
        assert (await client.next("presence"))["data"] == {"online": True}


async def test_logs_of_all_services_or_of_some(place: Place, agent: str) -> None:
    lines = [{"service_name": name, "message": name} for name in ("web", "db", "cache")]
    document = {"logs": lines}
    async with place.opened(agent) as client:
        assert await client.subscribe("logs", serviceName="web") == {
            "type": "subscribed",
            "channel": "logs",
            "deviceUuid": agent,
            "serviceName": "web",
        }
        await place.publish(place.channel(agent, "logs"), {"logs": lines[1:]})
        await place.publish(place.channel(agent, "logs"), document)
        assert (await client.next("logs"))["data"] == {"logs": lines[:1]}
        await client.subscribe("logs", serviceName="db")
        await place.publish(place.channel(agent, "logs"), document)
        assert (await client.next("logs"))["data"] == {"logs": lines[:2]}
        await client.say(type="unsubscribe", channel="logs", serviceName="web")
        assert (await client.next())["serviceName"] == "web"
        await place.publish(place.channel(agent, "logs"), document)
        assert (await client.next("logs"))["data"] == {"logs": lines[1:2]}
        await client.subscribe("logs")
        await place.publish(place.channel(agent, "logs"), document)
        assert (await client.next("logs"))["data"] == {"logs": lines}
        await client.say(type="unsubscribe", channel="logs")
        assert (await client.next())["type"] == "unsubscribed"
        await place.publish(place.channel(agent, "logs"), document)
        await client.say(type="ping")
        assert (await client.next())["type"] == "pong"


async def test_events_of_an_agent(place: Place, agent: str) -> None:
    async with place.opened(agent) as client:
        for name in ("agent", "jobs", "anomalies"):
            await client.subscribe(name)
        news = {"deviceUuid": agent, "type": "job.started", "data": {"job": 1}, "timestamp": AT}
        await place.publish(place.channel(agent, "jobs"), news)
        assert await client.next() == {
            "type": "jobs",
            "deviceUuid": agent,
            "data": {"type": "job.started", "data": {"job": 1}},
            "timestamp": AT,
            "source": "redis",
        }
        shell = {"deviceUuid": agent, "type": "shell-output", "data": "secret", "timestamp": AT}
        await place.publish(place.channel(agent, "agent"), shell)
        started = {"deviceUuid": agent, "type": "startup", "data": {}, "timestamp": AT}
        await place.publish(place.channel(agent, "agent"), started)
        assert (await client.next())["data"] == {"type": "startup", "data": {}}
        anomaly = {"deviceUuid": agent, "anomaly": {"metric": "m"}, "timestamp": AT}
        await place.publish(place.channel(agent, "anomalies"), anomaly)
        assert (await client.next())["data"] == {"metric": "m"}


async def test_channels_of_a_tenant(place: Place, streams: Streams, agent: str) -> None:
    tenant = place.tenant
    await streams.broker.put({"connected": True, "clients": {"connected": 3}})
    seen = Seen(topic="t/1", messages=2, bytes=20, kind="json", qos=1, retained=False)
    await streams.topics.add(tenant, [seen], now_ms=1_764_064_800_000)
    async with place.opened(None) as client:
        assert (await client.first("mqtt-stats"))["data"]["clients"] == {"connected": 3}
        await streams.broker.put({"connected": False, "timestamp": AT})
        live = await client.next("mqtt-stats")
        assert (live["data"]["connected"], live["timestamp"]) == (False, AT)
        topics = (await client.first("mqtt-topics"))["data"]
        assert topics["whole"] is True
        assert topics["topics"][0]["topic"] == "t/1"
        assert topics["topics"][0]["messages"] == 2
        more = {"topic": "t/2", "messages": 1, "bytes": 5, "kind": "json"}
        await place.publish(f"tenant:{{{tenant}}}:mqtt-topics", {"timestamp": AT, "topics": [more]})
        assert (await client.next("mqtt-topics"))["data"] == {"whole": False, "topics": [more]}
        await client.subscribe("presence")
        await client.subscribe("alerts")
        came = {"deviceUuid": agent, "online": True, "timestamp": AT}
        await place.publish(f"tenant:{{{tenant}}}:presence", came)
        assert await client.next() == {
            "type": "presence",
            "data": {"agents": [{"deviceUuid": agent, "online": True}]},
            "timestamp": AT,
            "source": "redis",
        }
        await place.publish(f"tenant:{{{tenant}}}:alerts", {"event": "opened", "alert": {"id": 1}})
        assert (await client.next())["data"] == {"event": "opened", "alert": {"id": 1}}


async def test_an_upgrade_without_rights_is_refused_before_it_happens(
    place: Place, rest: Rest, agent: str
) -> None:
    good = place.token()
    expired = place.token(expires_s=-60)
    for status, query in (
        (401, {"deviceUuid": agent}),
        (401, {"deviceUuid": agent, "token": "x"}),
        (401, {"deviceUuid": agent, "token": expired}),
        (401, {"token": issue_token("0" * 64, tenant=rest.tenant), "deviceUuid": agent}),
        (400, {"token": good}),
        (400, {"token": good, "deviceUuid": "x\0"}),
        (400, {"token": good, "type": "device"}),
        (400, {"token": good, "type": "global", "deviceUuid": agent}),
        (403, {"token": place.token(role="nothing"), "deviceUuid": agent}),
        (404, {"token": good, "deviceUuid": str(uuid.uuid4())}),
    ):
        found, body = await refused(with_query(place.url, **query))
        assert (found, {"error", "message"} <= set(body)) == (status, True), query
    elsewhere = place.url.replace("/ws", "/elsewhere")
    assert (await refused(with_query(elsewhere, token=good, deviceUuid=agent)))[0] == 404


async def test_a_token_may_come_in_every_place(place: Place, rest: Rest, agent: str) -> None:
    bare = with_query(place.url, deviceUuid=agent)
    body = {"name": "x", "permissions": ["device:read"]}
    key = (await rest.ask("POST", "/api/v1/auth/api-keys", body)).body["key"]
    for headers in (
        {"Authorization": f"Bearer {place.token()}"},
        {"Authorization": f"Bearer {key}"},
        {"X-API-Key": key},
    ):
        async with opened(bare, additional_headers=headers):
            pass
    async with opened(bare, subprotocols=["bearer", place.token()]) as client:
        assert client.socket.subprotocol == "bearer"
    async with place.opened(agent, token=key) as client:
        # What the key lacks, the socket lacks.
        answer = await client.subscribe("anomalies")
        assert (answer["type"], answer["code"]) == ("error", "forbidden")
        assert (await client.subscribe("logs"))["type"] == "subscribed"


async def test_pages_of_other_sites_open_nothing(
    rest: Rest, pool: Pool, streams: Streams, redis_url: str, agent: str
) -> None:
    async with serving(rest, pool, streams, redis_url, cors_origins="https://ours") as place:
        url = place.address(agent)
        own = place.url.replace("ws://", "http://").removesuffix("/ws")
        for origin in ("https://ours", own):
            async with opened(url, origin=origin):
                pass
        for origin in ("https://evil", "https://ours.evil", "null"):
            assert (await refused(url, origin=origin))[0] == 403


async def test_each_channel_asks_for_its_permission(place: Place, rest: Rest, agent: str) -> None:
    viewer = await people.someone(rest, "viewer", "viewer")
    token = viewer["authorization"].removeprefix("Bearer ")
    for scope, about in ((Scope.DEVICE, agent), (Scope.GLOBAL, None)):
        async with place.opened(about, token=token) as client:
            for (its, name), channel in CHANNELS.items():
                if its is scope:
                    answer = await client.subscribe(name)
                    may = channel.needs in ("device:read", "data:read")
                    assert answer["type"] == ("subscribed" if may else "error"), name


async def test_what_is_no_command_is_answered_and_ends_nothing(place: Place, agent: str) -> None:
    async with place.opened(agent) as client:
        for text, code in (
            ("{", "bad_message"),
            ("[]", "bad_message"),
            ("null", "bad_message"),
            (b"\x00\xff", "bad_message"),
            (b'{"type": "ping"}', "bad_message"),
            ("[" * 100_000, "bad_message"),
            ('{"type": ' + '{"a":' * 50_000 + "1" + "}" * 50_001, "bad_message"),
            ('{"type": "\\ud800"}', "bad_message"),
            ('{"type": NaN}', "bad_message"),
            ("{}", "unknown_type"),
            ('{"type": null}', "unknown_type"),
            ('{"type": ["subscribe"]}', "unknown_type"),
            (json.dumps({"type": "x" * 900_000}), "unknown_type"),
            ('{"type": "subscribe"}', "unknown_channel"),
            ('{"type": "subscribe", "channel": "\\u0000"}', "unknown_channel"),
            ('{"type": "subscribe", "channel": {"a": 1}}', "unknown_channel"),
            ('{"type": "subscribe", "channel": "alerts"}', "unknown_channel"),
            ('{"type": "unsubscribe", "channel": "x"}', "unknown_channel"),
            ('{"type": "subscribe", "channel": "logs", "serviceName": 7}', "bad_message"),
            ('{"type": "subscribe", "channel": "state", "serviceName": "x"}', "bad_message"),
            ('{"type": "subscribe", "channel": "shell"}', "not_supported"),
            ('{"type": "create-session"}', "not_supported"),
            ('{"type": "shell-input", "data": "ls"}', "not_supported"),
        ):
            await client.socket.send(text)
            answer = await client.next()
            assert (answer["type"], answer["code"]) == ("error", code), text[:80]
            assert len(answer["message"]) < 300
        await client.say(type="unsubscribe", channel="logs")
        assert (await client.next())["type"] == "unsubscribed"
        await client.say(type="ping")
        assert await client.next() == {"type": "pong"}


async def test_garbage_on_a_channel_reaches_nobody(place: Place, agent: str) -> None:
    async with place.opened(agent) as client:
        await client.first("system-info")
        where = place.channel(agent, "metrics")
        for garbage in (b"\xff", b"{", b"[]", b'{"metrics": 7}', b'{"metrics": {"cpu_usage": {}}}'):
            await place.publish(where, garbage)
        await place.publish(where, {"metrics": {"cpu_usage": 1}, "timestamp": 7})
        live = await client.next("system-info")
        while live["data"] != {"cpu_usage": 1}:
            live = await client.next("system-info")
        assert live["timestamp"].endswith("Z")
        # A defect of ours would cost one message, and nobody else any.
        await client.subscribe("logs", serviceName="x")
        await place.publish(place.channel(agent, "logs"), {"logs": 7})
        line = {"service_name": "x"}
        await place.publish(place.channel(agent, "logs"), {"logs": [line]})
        assert (await client.next("logs"))["data"] == {"logs": [line]}


async def test_a_token_that_expires_ends_the_socket(place: Place, agent: str) -> None:
    async with place.opened(agent, token=place.token(expires_s=1.5)) as client:
        assert await client.end() == (1008, "the token has expired")


async def test_who_loses_the_right_loses_the_socket(
    place: Place, rest: Rest, agent: str, connection: asyncpg.Connection
) -> None:
    user = await people.add(rest, "someone", "viewer")
    login = await people.login(rest, "someone", tenantId=rest.tenant)
    async with place.opened(agent, token=login.body["accessToken"]) as client:
        answer = await rest.ask("PATCH", f"/api/v1/users/{user}", {"isActive": False})
        assert answer.status == 200, answer.body
        assert await client.end() == (1008, "the user is not active")
    async with place.opened(agent) as client, place.opened(None) as other:
        await connection.execute("DELETE FROM agents WHERE uuid = $1", agent)
        assert await client.end() == (1008, f"agent {agent} does not exist")
        await other.say(type="ping")
        assert (await other.next())["type"] == "pong"


async def test_a_channel_is_followed_while_somebody_listens(place: Place, agent: str) -> None:
    where = place.channel(agent, "presence")
    document = {"online": True, "timestamp": AT}

    async def listeners() -> int:
        return (await place.redis.pubsub_numsub(where))[0][1]

    first: Client
    async with place.opened(agent) as first:
        async with place.opened(agent) as second:
            for client in (first, second):
                await client.first("presence")
            assert await place.publish(where, document) == 1
            for client in (first, second):
                assert (await client.next("presence"))["source"] == "redis"
        await first.say(type="ping")
        await first.next("pong")
        assert await listeners() == 1
        await first.say(type="unsubscribe", channel="presence")
        await first.next("unsubscribed")
        while await listeners():
            pass
        assert (await first.first("presence"))["data"] == {"online": False}
        assert await listeners() == 1
