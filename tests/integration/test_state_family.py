"""Reports of state and metrics, by MQTT through both brokers."""

from __future__ import annotations

import secrets
import time
from typing import Any

import orjson
import pytest
from tests import books
from tests.control import Place, short, until

from iotistica import keys, ledger
from iotistica.api.families import Incoming, Refusal
from iotistica.api.families.reports import Reported, read_metrics, read_state

FULL = {
    "apps": {"1": {"name": "gateway"}},
    "config": {"endpoints": [{"name": "plc"}]},
    "version": 7,
    "devices": [{"uuid": "d", "name": "plc", "protocol": "modbus"}],
    "cpu_usage": 12.5,
    "temperature": 48,
    "memory_usage": 1000,
    "memory_total": 4000,
    "storage_usage": 5,
    "storage_total": 10,
    "local_ip": "10.0.0.5",
    "mac_address": "00:11:22:33:44:55",
    "os_version": "Debian 12",
    "architecture": "arm64",
    "agent_version": "1.2.3",
    "uptime": 3600,
    "network_interfaces": [{"name": "eth0", "ip4": "10.0.0.5"}],
    "endpoints_health": {"plc": {"status": "ok"}},
}


async def row(place: Place, agent: str | None = None) -> dict[str, Any] | None:
    found = await place.database.fetchrow(
        "SELECT * FROM agent_current_state WHERE agent_uuid = $1", agent or place.agent
    )
    if found is None:
        return None
    texts = {name: found[name] for name in ("apps", "config", "system_info", "stamps")}
    return {**found, **{k: None if v is None else orjson.loads(v) for k, v in texts.items()}}


async def reported(place: Place, **expected: Any) -> dict[str, Any]:
    """The current state, once its other fields are these."""

    async def holds() -> dict[str, Any] | None:
        found = await row(place)
        if found is None:
            return None
        info = found["system_info"]
        return found if {n: info.get(n) for n in expected} == expected else None

    return await until(holds)


def stamp(place: Place, ms: int) -> str:
    return f"{place.agent}-{ms}-{secrets.token_hex(4)}"


async def test_a_full_report_is_stored_shown_published_and_measured(place: Place) -> None:
    listening = place.redis.pubsub()
    state = keys.state_channel(place.tenant, place.agent)
    metrics = keys.metrics_channel(place.tenant, place.agent)
    await listening.subscribe(state, metrics)
    for _ in range(2):
        await listening.get_message(timeout=5)
    made_ms = time.time_ns() // 1_000_000 - 500
    async with place.control():
        await place.tell("state", {place.agent: FULL, "msgId": stamp(place, made_ms)})
        found = await reported(place, cpu_usage=12.5)
        live = [await listening.get_message(timeout=5) for _ in range(2)]
        readings = await until(place.readings)
    await listening.aclose()

    rest = {n: v for n, v in FULL.items() if n not in ("apps", "config", "version")}
    assert found["system_info"] == {**rest, "cpu_temp": 48}
    assert (found["apps"], found["config"]) == (FULL["apps"], FULL["config"])
    assert found["version"] == 7
    assert found["reported_at"].timestamp() * 1000 == pytest.approx(made_ms)

    agent = await place.database.fetchrow("SELECT * FROM agents WHERE uuid = $1", place.agent)
    assert (agent["cpu_usage"], agent["cpu_temp"]) == (12.5, 48.0)
    assert (agent["memory_usage"], agent["memory_total"]) == (1000.0, 4000.0)
    assert (agent["storage_usage"], agent["storage_total"]) == (5.0, 10.0)
    assert (agent["ip_address"], agent["mac_address"]) == ("10.0.0.5", "00:11:22:33:44:55")
    assert (agent["os_version"], agent["architecture"]) == ("Debian 12", "arm64")
    assert (agent["agent_version"], agent["uptime"]) == ("1.2.3", 3600.0)
    assert orjson.loads(agent["network_interfaces"]) == FULL["network_interfaces"]

    by_channel = {one["channel"].decode(): orjson.loads(one["data"]) for one in live}
    assert by_channel[state]["deviceUuid"] == place.agent
    assert by_channel[state]["state"] == {**FULL, "cpu_temp": 48}
    assert by_channel[metrics]["metrics"] == {
        "cpu_usage": 12.5,
        "cpu_temp": 48,
        "memory_usage": 1000,
        "memory_total": 4000,
        "storage_usage": 5,
        "storage_total": 10,
        "network_interfaces": FULL["network_interfaces"],
    }
    assert by_channel[metrics]["timestamp"] == by_channel[state]["timestamp"]

    ((topic, payload),) = readings
    assert topic == place.topic("endpoints/system")
    assert payload["protocol"] == "system"
    assert payload["timestamp"] == by_channel[state]["timestamp"]
    assert {one["metric"]: one["value"] for one in payload["readings"]} == {
        "cpu_usage": 12.5,
        "cpu_temp": 48,
        "memory_usage": 1000,
        "memory_total": 4000,
        "storage_usage": 5,
        "storage_total": 10,
    }
    counted = await books.counts(place.settings.require("redis_url"), place.tenant)
    assert counted == {place.agent: {ledger.ACCEPTED: 1}}


async def test_reported_temperature_goes_by_either_name(place: Place) -> None:
    """The reference publishes `temperature` and stores `cpu_temp`: one of the two is empty."""
    async with place.control():
        await place.tell("state", {"cpu_temp": 1}, {"temperature": 2})
        await reported(place, cpu_temp=2)
        await place.tell("metrics", {"cpu_temp": 3})
        await reported(place, cpu_temp=3)


async def test_partial_reports_merge_and_null_removes(place: Place) -> None:
    async with place.control():
        await place.tell("state", {place.agent: FULL})
        await reported(place, cpu_usage=12.5)
        await place.tell("state", {place.agent: {"cpu_usage": 99, "os_version": None}})
        found = await reported(place, cpu_usage=99)
    assert "os_version" not in found["system_info"]
    assert found["system_info"]["mac_address"] == FULL["mac_address"]
    assert (found["apps"], found["version"]) == (FULL["apps"], 7)


async def test_reports_that_come_late_or_twice_change_nothing_younger(place: Place) -> None:
    now_ms = time.time_ns() // 1_000_000
    old = {"cpu_usage": 1, "os_version": "old", "msgId": stamp(place, now_ms - 2000)}
    young = {"cpu_usage": 2, "uptime": None, "msgId": stamp(place, now_ms - 1000)}
    last = {"uptime": 3, "msgId": stamp(place, now_ms - 3000)}
    async with place.control():
        await place.tell("state", young)
        await reported(place, cpu_usage=2)
        await place.tell("state", old, last, old, young, {"mac_address": "end"})
        found = await reported(place, mac_address="end")
    assert found["system_info"] == {"cpu_usage": 2, "os_version": "old", "mac_address": "end"}


async def test_reports_of_one_batch_merge_by_the_same_rule(place: Place) -> None:
    now_ms = time.time_ns() // 1_000_000
    async with place.control():
        pass
    await place.tell(
        "state",
        {"cpu_usage": 2, "apps": {"a": 1}, "msgId": stamp(place, now_ms - 1000)},
        {"cpu_usage": 1, "uptime": 5, "msgId": stamp(place, now_ms - 2000)},
        {"memory_usage": 4},
        {"uptime": None},
    )
    async with place.control():
        found = await reported(place, memory_usage=4)
    assert found["system_info"] == {"cpu_usage": 2, "memory_usage": 4}
    assert found["apps"] == {"a": 1}


def incoming(value: Any, agent: str = "3f2b6c1e-0000-4000-8000-000000000001") -> Incoming:
    return Incoming(
        tenant="t",
        agent=agent,
        rest="",
        topic="topic",
        value=value,
        payload=b"",
        received_ms=1_700_000_000_000,
    )


AGENT = incoming(None).agent


@pytest.mark.parametrize(
    "value",
    [
        {AGENT: {"uptime": 1}},
        {AGENT.upper(): {"uptime": 1}},
        {"uptime": 1},
        {"uptime": 1, "msgId": "x"},
        orjson.dumps({AGENT: {"uptime": 1}}).decode(),
        orjson.dumps({"uptime": 1}).decode(),
        {AGENT: orjson.dumps({"uptime": 1}).decode()},
    ],
)
def test_every_form_of_a_report_says_the_same(value: Any) -> None:
    found = read_state(incoming(value))
    assert isinstance(found, Reported)
    assert found.report.fields == {"uptime": 1}
    assert found.report.stamps == {"uptime": 1_700_000_000_000}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1], "not_an_object"),
        ("no json", "not_an_object"),
        (None, "not_an_object"),
        ({AGENT: 5}, "not_an_object"),
        ({AGENT.replace("3", "4"): {"uptime": 1}}, "foreign_agent"),
        ({str(n): n for n in range(257)}, "too_many_fields"),
    ],
)
def test_what_is_no_report_is_refused_by_name(value: Any, reason: str) -> None:
    found = read_state(incoming(value))
    assert isinstance(found, Refusal)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("made_ms", "counts_as_ms"),
    [
        (1_699_999_999_000, 1_699_999_999_000),
        (1_700_000_500_000, 1_700_000_000_000),  # a clock that is ahead
        (1_600_000_000_000, 1_700_000_000_000),  # a clock that is far behind
    ],
)
def test_a_clock_is_believed_where_it_could_be_right(made_ms: int, counts_as_ms: int) -> None:
    found = read_state(incoming({"uptime": 1, "msgId": f"{AGENT}-{made_ms}-ab12cd34"}))
    assert isinstance(found, Reported)
    assert found.at_ms == counts_as_ms
    stamped = read_metrics(incoming({"cpu_usage": 1, "timestamp": made_ms}))
    assert isinstance(stamped, Reported)
    assert stamped.at_ms == counts_as_ms


def test_what_is_no_number_is_no_metric() -> None:
    found = read_state(incoming({"cpu_usage": "12 %", "memory_usage": True, "version": "x"}))
    assert isinstance(found, Reported)
    assert found.report.fields == {"cpu_usage": None, "memory_usage": None}


async def test_a_report_about_another_agent_is_refused(place: Place) -> None:
    other = str(place.agent).replace(place.agent[0], "f" if place.agent[0] != "f" else "e")
    async with place.control():
        await place.tell("state", {other: {"cpu_usage": 1}})
        (letter,) = await until(place.letters)
    assert letter[b"reason"] == b"foreign_agent"
    assert await row(place) is None


async def test_metrics_are_heard_stored_and_published(place: Place) -> None:
    """The reference has a handler for `metrics` and does not subscribe."""
    listening = place.redis.pubsub()
    await listening.subscribe(keys.metrics_channel(place.tenant, place.agent))
    await listening.get_message(timeout=5)
    made_ms = time.time_ns() // 1_000_000 - 1000
    async with place.control():
        await place.tell("metrics", {"timestamp": made_ms, "cpu_usage": 5, "network": {"rx": 1}})
        live = await listening.get_message(timeout=10)
        ((topic, payload),) = await until(place.readings)
        found = await reported(place, cpu_usage=5, network={"rx": 1})
    await listening.aclose()
    assert orjson.loads(live["data"])["metrics"]["cpu_usage"] == 5
    assert topic == place.topic("endpoints/system")
    assert [(r["metric"], r["value"]) for r in payload["readings"]] == [("cpu_usage", 5)]
    assert found["stamps"] == {"cpu_usage": made_ms, "network": made_ms}


async def test_metrics_without_any_are_refused(place: Place) -> None:
    async with place.control():
        await place.tell("metrics", {"color": "red"})
        (letter,) = await until(place.letters)
    assert letter[b"reason"] == b"no_metrics"


async def test_a_fleet_reports_in_few_statements(place: Place) -> None:
    agents = [f"00000000-0000-4000-8000-{n:012d}" for n in range(300)]
    await place.database.execute(
        "INSERT INTO agents (uuid, tenant_id, name)"
        " SELECT u::uuid, $1, u FROM unnest($2::text[]) AS u",
        place.tenant,
        agents,
    )
    url = place.broker.bridge_url
    async with place.control(), place.publisher(url) as fleet:
        for turn in range(3):
            await fleet.publish_many(
                (
                    f"i/{short(place.tenant)}/a/{short(agent)}/state",
                    orjson.dumps({agent: {**FULL, "cpu_usage": turn}}),
                )
                for agent in agents
            )

        async def all_there() -> bool:
            return (
                await place.database.fetchval("SELECT count(*) FROM agents WHERE cpu_usage = 2")
                == 300
            )

        await until(all_there)
        readings = await place.readings()
    assert len(readings) == 900
    entries = await place.redis.xlen(keys.ingestion_stream(place.tenant))
    assert entries < 60
