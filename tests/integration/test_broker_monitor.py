"""The broker monitor: figures and topics from the wire to the answer, on every broker."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
import redis.asyncio
from tests.control import Place
from tests.rest import Rest

from iotistica import keys, metrics, mqtt
from iotistica._native import format_topic
from iotistica.api.bridge import Bridge
from iotistica.api.broker_watch import BrokerWatch
from iotistica.api.tenants import Tenants
from iotistica.api.topic_watch import TopicWatch, Traffic
from iotistica.dictionaries.library import Library, News
from iotistica.errors import StoreUnavailable
from iotistica.settings import Settings
from iotistica.spool import Spool
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.streams import Seen, Streams

NOW_MS = 1_790_000_000_000


def seen(topic: str, messages: int = 1, **more: Any) -> Seen:
    facts: dict[str, Any] = {"bytes": 10 * messages, "kind": "json", "qos": 1, "retained": False}
    return Seen(topic=topic, messages=messages, **{**facts, **more})


async def until(fact: Callable[[], Awaitable[Any]]) -> Any:
    """What a fact is once it is one."""
    async with asyncio.timeout(20):
        while not (found := await fact()):
            await asyncio.sleep(0.02)
    return found


# Topics in Redis


async def test_topics_add_up(streams: Streams, tenant: str) -> None:
    schema = {"type": "object"}
    await streams.topics.add(tenant, [seen("a", 2), seen("b")], now_ms=NOW_MS)
    await streams.topics.add(
        tenant, [seen("a", 3, kind="msgpack", schema=schema)], now_ms=NOW_MS + 5
    )
    a, b = await streams.topics.listed(tenant)
    assert (a.topic, a.messages, a.bytes, a.kind) == ("a", 5, 50, "msgpack")
    assert (a.first_seen_ms, a.last_seen_ms) == (NOW_MS, NOW_MS + 5)
    assert (b.topic, b.messages, b.last_seen_ms) == ("b", 1, NOW_MS)
    assert await streams.topics.get(tenant, "a") == (a, schema)
    assert await streams.topics.get(tenant, "b") == (b, None)
    assert await streams.topics.get(tenant, "c") is None


async def test_topics_that_are_silent_longest_are_forgotten(redis_url: str, tenant: str) -> None:
    streams = Streams(redis_url, topics_most=3)
    await streams.topics.add(tenant, [seen("a"), seen("b"), seen("c")], now_ms=NOW_MS)
    await streams.topics.add(tenant, [seen("a", schema={"type": "null"})], now_ms=NOW_MS + 1)
    await streams.topics.add(tenant, [seen("d"), seen("e")], now_ms=NOW_MS + 2)
    assert [one.topic for one in await streams.topics.listed(tenant)] == ["e", "d", "a"]
    client = redis.asyncio.from_url(redis_url)
    fields = await client.hkeys(keys.topic_figures(tenant))
    await client.aclose()
    await streams.close()
    assert {field.partition(b":")[2] for field in fields} == {b"a", b"d", b"e"}


async def test_a_topic_that_is_silent_for_a_week_is_forgotten(
    streams: Streams, tenant: str
) -> None:
    await streams.topics.add(tenant, [seen("old")], now_ms=NOW_MS)
    await streams.topics.add(tenant, [seen("new")], now_ms=NOW_MS + 8 * 86_400_000)
    assert [one.topic for one in await streams.topics.listed(tenant)] == ["new"]


async def test_more_topics_than_one_command_takes(streams: Streams, tenant: str) -> None:
    await streams.topics.add(tenant, [seen(f"t/{n:04}") for n in range(1200)], now_ms=NOW_MS)
    found = await streams.topics.listed(tenant)
    assert sorted(one.topic for one in found) == [f"t/{n:04}" for n in range(1200)]


async def test_minutes_are_kept_once_and_a_day_of_them(streams: Streams) -> None:
    for minute in range(1500):
        await streams.broker.add_point(minute * 60_000, {"n": minute})
    await streams.broker.add_point(1499 * 60_000, {"n": "again"})
    assert [one["n"] for one in await streams.broker.history(since_ms=0)] == list(range(60, 1500))
    newest = await streams.broker.history(since_ms=0, count=2)
    assert [one["n"] for one in newest] == [1498, 1499]
    assert await streams.broker.history(since_ms=1499 * 60_000) == [{"n": 1499}]


async def test_one_process_at_a_time_collects(streams: Streams) -> None:
    assert await streams.broker.hold("one", for_s=60)
    assert await streams.broker.hold("one", for_s=0.05)
    assert not await streams.broker.hold("two", for_s=60)
    assert await until(lambda: streams.broker.hold("two", for_s=60))
    assert not await streams.broker.hold("one", for_s=60)


# Counting


def message(topic: str, payload: bytes, packet_id: int | None = 1) -> mqtt.Message:
    return mqtt.Message(topic, payload, packet_id)


async def test_counts_are_kept_while_redis_is_away(
    streams: Streams, tenant: str, unused_tcp_port: int
) -> None:
    away = Streams(f"redis://127.0.0.1:{unused_tcp_port}")
    watch = TopicWatch(away, name="test", period_s=1)
    traffic, other = Traffic(), Traffic()
    payload = zlib.compress(b'{"v":1}')
    watch.count(tenant, traffic, message("a", payload))
    watch.count(tenant, other, message("b", b"[1]", None))
    with pytest.raises(StoreUnavailable):
        await watch.flush()
    watch.count(tenant, traffic, message("a", payload))
    watch._streams = streams
    await watch.flush()
    await watch.flush()
    (a, schema), (b, _) = [await streams.topics.get(tenant, name) or ("", {}) for name in "ab"]
    assert (a.messages, a.bytes, a.kind, a.qos) == (2, 2 * len(payload), "deflate+json", 1)
    assert schema == {
        "type": "object",
        "properties": {"v": {"type": "integer"}},
        "required": ["v"],
    }
    assert (b.messages, b.kind, b.qos) == (1, "json", 0)
    await away.close()


async def test_a_payload_is_looked_at_once_a_minute(streams: Streams, tenant: str) -> None:
    now = [100.0]
    watch = TopicWatch(streams, name="test", period_s=1, clock=lambda: now[0])
    traffic = Traffic()

    async def kind_after(payload: bytes) -> Any:
        watch.count(tenant, traffic, message("a", payload))
        await watch.flush()
        found = await streams.topics.get(tenant, "a")
        assert found is not None
        return found[0].kind, found[1]

    assert await kind_after(b"[1]") == ("json", {"type": "array", "items": {"type": "integer"}})
    now[0] += 59
    assert (await kind_after(b"text"))[0] == "json"
    now[0] += 2
    # The clock is looked at when counts are told.
    await watch.flush()
    assert await kind_after(b'["x"]') == ("json", {"type": "array", "items": {"type": "string"}})


async def test_what_came_is_published(streams: Streams, redis_url: str, tenant: str) -> None:
    client = redis.asyncio.from_url(redis_url)
    subscriber = client.pubsub()
    await subscriber.subscribe(keys.topics_channel(tenant))
    watch = TopicWatch(streams, name="bridge-7", period_s=1)
    watch.count(tenant, Traffic(), message("a", b"[1]"))
    await watch.flush()

    async def news() -> Any:
        return await subscriber.get_message(ignore_subscribe_messages=True, timeout=1)

    found = orjson.loads((await until(news))["data"])
    await subscriber.aclose()
    await client.aclose()
    assert found.pop("timestamp").endswith("Z")
    one = {"topic": "a", "messages": 1, "bytes": 3, "kind": "json", "qos": 1, "retained": False}
    assert found == {"source": "bridge-7", "topics": [one]}


# On every broker


async def test_figures_of_the_broker_are_collected(place: Place) -> None:
    settings = place.settings.model_copy(update={"monitor_period_s": 0.1})
    streams = Streams.of(settings)
    watch = BrokerWatch(settings, "control-0", streams.broker)
    other = BrokerWatch(settings, "control-1", streams.broker)
    running = asyncio.create_task(watch.work())

    async def collected() -> Any:
        now = await streams.broker.current()
        return now if now and now["clients"]["connected"] else None

    now = await until(collected)

    async def exported() -> bool:
        return b'iotistica_broker_figure{figure="clients.connected"}' in metrics.render()

    await until(exported)
    # The lease is another's, so this ends at once.
    await asyncio.wait_for(other.work(), 5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert b"iotistica_broker_figure{" not in metrics.render()
    # Gone without a word: the other takes over once the lease has expired.
    await until(lambda: _collects(other, streams, now["timestamp"]))
    history = await streams.broker.history(since_ms=0)
    await streams.close()
    assert now["connected"] is True
    assert now["error"] is None
    assert now["broker"]["version"]
    assert now["broker"]["uptimeSeconds"] >= 0
    assert now["clients"]["total"] >= now["clients"]["connected"] >= 1
    assert now["messages"]["received"] >= 1
    assert now["bytes"]["sent"] >= 1
    assert now["subscriptions"] >= 1
    assert now["topics"]["$SYS/broker/clients/connected"] == now["clients"]["connected"]
    assert [set(one) for one in history[:1]] == [
        {"timestamp", "clients", "subscriptions", "retained", "messages", "bytes", "rates"}
    ]


async def _collects(watch: BrokerWatch, streams: Streams, since: str) -> bool:
    running = asyncio.create_task(watch.work())
    await asyncio.wait([running], timeout=0.3)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    now = await streams.broker.current()
    return now is not None and now["timestamp"] > since and now["clients"]["connected"] >= 1


async def test_a_broker_that_is_away_leaves_a_reason(place: Place, unused_tcp_port: int) -> None:
    settings = place.settings.model_copy(update={"mqtt_url": f"mqtt://127.0.0.1:{unused_tcp_port}"})
    streams = Streams.of(settings)
    await BrokerWatch(settings, "control-0", streams.broker).work()
    now = await streams.broker.current()
    await streams.close()
    assert now is not None
    assert now["connected"] is False
    assert "cannot be reached" in now["error"]
    assert now["clients"] == {
        "connected": None,
        "disconnected": None,
        "total": None,
        "maximum": None,
    }


async def test_the_bridge_counts_the_topics_that_it_sees(place: Place) -> None:
    settings = place.settings.model_copy(update={"monitor_period_s": 0.1})
    streams, stop = Streams.of(settings), asyncio.Event()
    spool = Spool(settings.spool_root("api"), max_bytes=settings.api_spool_max_bytes)

    async def tenants() -> list[str]:
        return [place.tenant]

    bridge = Bridge(
        settings,
        name="bridge-0",
        streams=streams,
        spool=spool,
        tenants=Tenants(tenants, refresh_s=0.05),
    )
    running = asyncio.create_task(bridge.run(stop))
    topic = format_topic(place.tenant, place.agent, "endpoints/modbus")
    other = format_topic(place.tenant, place.agent, "endpoints/plant-a/line-3")
    options = mqtt.parse_url(place.agent_url, client_id=f"agent-{secrets.token_hex(4)}")
    await until(lambda: _true(bridge.broker_error is None))
    async with mqtt.connect(options) as session:
        await session.publish_many([(topic, b'{"v":%d}' % n) for n in range(20)])
        await session.publish(other, b"\x81\xa1v\x01")

    async def counted() -> Any:
        found = {one.topic: one for one in await streams.topics.listed(place.tenant)}
        return found if len(found) == 2 and found[topic].messages == 20 else None

    found = await until(counted)
    stop.set()
    await running
    spool.close()
    await streams.close()
    assert found[topic].kind == "json"
    assert found[topic].bytes == sum(len(b'{"v":%d}' % n) for n in range(20))
    assert found[topic].qos == 1
    assert (found[other].messages, found[other].kind) == (1, "msgpack")


async def _true(fact: bool) -> bool:
    return fact


# What is answered


@pytest.fixture
async def agent(pool: Pool, tenant: str, rest: Rest) -> str:
    name = str(uuid.uuid4())
    await AgentStore(pool).add_agents(tenant, [(name, "pump")])
    return name


MONITOR = (
    *("mqtt/stats", "mqtt/stats/history", "mqtt/topics", "mqtt/topics/schema?topic=a"),
    *("mqtt/topics/acls?topic=a", "status", "topic-tree", "topics", "system-stats", "stats"),
    *("stats/history", "dashboard", "recent-activity", "metrics", "brokers", "brokers/summary"),
)


@pytest.mark.parametrize("path", MONITOR)
async def test_nobody_sees_the_monitor_without_a_token(rest: Rest, path: str) -> None:
    assert (await rest.ask("GET", f"/api/v1/{path}", role=None)).status == 401


async def test_figures_of_all_tenants_need_more_than_those_of_ones_own(rest: Rest) -> None:
    for path in ("mqtt/stats", "system-stats", "stats", "stats/history", "metrics", "dashboard"):
        assert (await rest.ask("GET", f"/api/v1/{path}", role="operator")).status == 403, path
        assert (await rest.ask("GET", f"/api/v1/{path}", role="manager")).status == 200, path
    for path in ("mqtt/topics", "topics", "topic-tree", "recent-activity", "status"):
        assert (await rest.ask("GET", f"/api/v1/{path}", role="viewer")).status == 200, path


async def test_any_process_answers_before_and_after_figures_are_collected(
    rest: Rest, streams: Streams
) -> None:
    empty = (await rest.ask("GET", "/api/v1/mqtt/stats")).body
    assert empty["connected"] is False
    assert "no control process" in empty["error"]
    assert (await rest.ask("GET", "/api/v1/status")).body["data"]["connected"] is False
    shown = {
        **empty,
        "connected": True,
        "error": None,
        "timestamp": "2026-11-25T20:00:00.000Z",
        "clients": {"connected": 3, "disconnected": 1, "total": 4, "maximum": 4},
        "messages": {**empty["messages"], "sent": 7, "received": 9},
        "rates": {**empty["rates"], "messagesSent": 1.5, "bytesReceived": 2048.0},
        "topics": {"$SYS/broker/clients/connected": 3},
    }
    await streams.broker.put(shown)
    assert (await rest.ask("GET", "/api/v1/mqtt/stats")).body == shown
    assert (await rest.ask("GET", "/api/v1/system-stats")).body == {"success": True, "data": shown}
    metrics = (await rest.ask("GET", "/api/v1/metrics")).body
    assert metrics["success"] is True
    assert metrics["data"] == {
        "messageRate": {"current": {"published": 1.5, "received": None}},
        "throughput": {"current": {"inbound": 2.0, "outbound": None}},
        "clients": 3,
        "subscriptions": None,
        "retainedMessages": None,
        "totalMessages": {"sent": 7, "received": 9},
        "timestamp": "2026-11-25T20:00:00.000Z",
    }


async def test_history_is_that_of_the_last_minutes(rest: Rest, streams: Streams) -> None:
    now_ms = int(time.time() * 1000)
    await streams.broker.add_point(now_ms - 7_200_000, {"n": 1})
    await streams.broker.add_point(now_ms - 60_000, {"n": 2})
    await streams.broker.add_point(now_ms, {"n": 3})
    found = await rest.ask("GET", "/api/v1/mqtt/stats/history")
    assert found.body == {"count": 2, "history": [{"n": 2}, {"n": 3}]}
    found = await rest.ask("GET", "/api/v1/stats/history?minutes=1440&limit=1")
    assert found.body == {"success": True, "count": 1, "history": [{"n": 3}]}


async def test_topics_are_listed_by_pages(rest: Rest, streams: Streams, tenant: str) -> None:
    now_ms = int(time.time() * 1000)
    await streams.topics.add(tenant, [seen(f"i/t/{n}") for n in range(5)], now_ms=now_ms)
    await streams.topics.add(tenant, [seen("j/old")], now_ms=now_ms - 600_000)
    first = (await rest.ask("GET", "/api/v1/mqtt/topics?limit=2&prefix=i/")).body
    assert (first["count"], first["total"]) == (2, 5)
    assert [one["topic"] for one in first["topics"]] == ["i/t/0", "i/t/1"]
    following = f"/api/v1/mqtt/topics?limit=4&prefix=i/&cursor={first['cursor']}"
    rest_of_it = (await rest.ask("GET", following)).body
    assert [one["topic"] for one in rest_of_it["topics"]] == ["i/t/2", "i/t/3", "i/t/4"]
    assert rest_of_it["cursor"] is None
    recent = (await rest.ask("GET", "/api/v1/topics?minutes=5")).body
    assert (recent["count"], recent["timeWindow"]) == (5, "5m")
    assert (await rest.ask("GET", "/api/v1/topics?timeWindow=1h")).body["count"] == 6
    assert (await rest.ask("GET", "/api/v1/recent-activity?window=5")).body["count"] == 5
    tree = (await rest.ask("GET", "/api/v1/topic-tree?depth=1")).body["data"]
    assert [(one["name"], one["messages"]) for one in tree["children"]] == [("i", 5), ("j", 1)]


async def test_topics_of_another_tenant_do_not_exist(
    rest: Rest, streams: Streams, pool: Pool, tenant: str
) -> None:
    stranger = secrets.token_hex(6)
    await AgentStore(pool).ensure_tenant(stranger)
    schema = {"type": "object"}
    await streams.topics.add(
        tenant, [seen("secret", schema=schema)], now_ms=int(time.time() * 1000)
    )
    assert (await rest.ask("GET", "/api/v1/mqtt/topics/schema?topic=secret")).body[
        "schema"
    ] == schema
    for path in ("mqtt/topics", "topics", "topic-tree", "recent-activity", "stats", "dashboard"):
        found = await rest.ask("GET", f"/api/v1/{path}", tenant=stranger)
        assert found.status == 200
        assert b"secret" not in orjson.dumps(found.body)
    theirs = await rest.ask("GET", "/api/v1/mqtt/topics/schema?topic=secret", tenant=stranger)
    nobodys = await rest.ask("GET", "/api/v1/mqtt/topics/schema?topic=secrex", tenant=stranger)
    assert theirs.status == nobodys.status == 404
    assert theirs.body["message"].replace("secret", "secrex") == nobodys.body["message"]


ACCOUNTS = """
INSERT INTO mqtt_users (username, tenant_id, password_hash, is_superuser) VALUES
    ('reader', $1, 'x', false), ('writer', $1, 'x', false), ('root', $1, 'x', true),
    ('nobody', $1, 'x', false)
"""
RULES = """
INSERT INTO mqtt_acls (username, topic, access) VALUES
    ('reader', 'i/T/#', 5), ('reader', '+/T/a/+/state', 1), ('writer', 'i/T/a/A/state', 2),
    ('writer', 'i/T/a/B/state', 7), ('nobody', 'i/T/a', 7)
"""


async def test_accounts_that_may_use_a_topic(rest: Rest, pool: Pool, tenant: str) -> None:
    await pool.execute(ACCOUNTS, tenant)
    await pool.execute(RULES)
    found = (await rest.ask("GET", "/api/v1/mqtt/topics/acls?topic=i/T/a/A/state")).body
    assert found["count"] == 3
    shown = {
        one["username"]: (one["read"], one["write"], one["subscribe"], one["rules"])
        for one in found["accounts"]
    }
    assert shown == {
        "reader": (True, False, True, ["i/T/#", "+/T/a/+/state"]),
        "writer": (False, True, False, ["i/T/a/A/state"]),
        "root": (True, True, True, []),
    }
    stranger = secrets.token_hex(6)
    await AgentStore(pool).ensure_tenant(stranger)
    path = "/api/v1/mqtt/topics/acls?topic=i/T/a/A/state"
    assert (await rest.ask("GET", path, tenant=stranger)).body["accounts"] == []


async def test_a_payload_is_explained(rest: Rest) -> None:
    said = {"timestamp": int(time.time() * 1000), "metric": "t", "value": 21.5}
    payload = zlib.compress(orjson.dumps(said))
    path = "/api/v1/mqtt/decompress"
    for text, encoding in (
        (base64.b64encode(payload).decode(), "base64"),
        (payload.hex(), "auto"),
    ):
        answer = await rest.ask("POST", path, {"payload": text, "encoding": encoding})
        assert answer.status == 200
        assert answer.body["chain"] == ["zlib", "json"]
        assert answer.body["bytes"] == len(payload)
        assert answer.body["inflated_bytes"] == len(orjson.dumps(said))
        assert answer.body["decoded"] == said
        assert answer.body["error"] is None


async def test_a_bomb_is_not_inflated(rest: Rest) -> None:
    bomb = base64.b64encode(zlib.compress(b"[" + b" " * (64 << 20) + b"]", 9)).decode()
    answer = await rest.ask("POST", "/api/v1/mqtt/decompress", {"payload": bomb})
    assert answer.status == 200
    assert answer.body["inflated_bytes"] is None
    assert answer.body["decoded"] is None
    assert "2097152" in answer.body["error"]


async def test_a_compacted_payload_is_unfolded_by_its_agents_dictionary(
    rest: Rest, streams: Streams, agent: str, pool: Pool
) -> None:
    dictionary = {"version": 3, "fields": ["metric", "value"]}
    news = News(tenant=rest.tenant, agent=agent, document=dictionary, is_delta=False)
    assert await Library.of(Settings(), pool, streams).keep([news]) == [None]
    body = {"payload": orjson.dumps(COMPACT).hex(), "agent": agent}
    found = (await rest.ask("POST", "/api/v1/mqtt/decompress", body)).body
    assert found["chain"][-1] == "compact"
    assert found["expanded"] == {"metric": "temperature", "value": 21.5}
    without = (await rest.ask("POST", "/api/v1/mqtt/decompress", {"payload": body["payload"]})).body
    assert without["expanded"] is None
    stranger = secrets.token_hex(6)
    await AgentStore(pool).ensure_tenant(stranger)
    other = await rest.ask("POST", "/api/v1/mqtt/decompress", body, tenant=stranger)
    assert other.status == 404
    topic = format_topic(rest.tenant, agent, "endpoints/x")
    other = await rest.ask(
        "POST", "/api/v1/mqtt/decompress", {**body, "topic": topic}, tenant=stranger
    )
    assert other.status == 404


COMPACT = {"v": 3, "p": [[0, "temperature"], [1, 21.5]]}


async def test_a_payload_that_is_none_is_refused(rest: Rest) -> None:
    for body in (
        {"payload": "é", "encoding": "base64"},
        {"payload": "abc", "encoding": "hex"},
        {"payload": ""},
        {"payload": "00", "topic": "i/x"},
    ):
        assert (await rest.ask("POST", "/api/v1/mqtt/decompress", body)).status == 400
    large = {"payload": "00" * 300_000, "encoding": "hex"}
    assert (await rest.ask("POST", "/api/v1/mqtt/decompress", large)).status == 413
    assert Settings().broker_private_addresses is False
