"""Endpoints, the devices behind an agent, one by one: parts of its target state."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.web_process import Control

from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.store.reports import Report, ReportStore
from iotistica.streams import Streams

TARGET = "/target-state"
PLC = {
    "name": "plc",
    "protocol": "modbus",
    "pollInterval": 5000,
    "connection": {"host": "10.0.0.7", "port": 502},
    "dataPoints": [{"name": "temperature", "address": 40001}],
    "metadata": {"line": 3},
    "mqttTopic": "plant-a/plc",
}


@pytest.fixture
async def control(pool: Pool, streams: Streams, tenant: str, redis_url: str) -> Control:
    return Control(pool, streams, tenant, Settings(redis_url=redis_url, target_max_bytes=4096))


@pytest.fixture
async def agent(control: Control) -> str:
    return await control.add_agent()


async def devices(control: Control, agent: str, query: str = "") -> list[dict[str, Any]]:
    answer = await control.ask("GET", f"/api/v1/agents/{agent}/devices{query}")
    assert (answer.status, answer.body["count"]) == (200, len(answer.body["devices"]))
    found: list[dict[str, Any]] = answer.body["devices"]
    return found


async def served(control: Control, agent: str) -> Any:
    return (await control.poll(agent)).body[agent]["config"].get("endpoints", [])


async def test_an_endpoint_is_added_staged_and_deployed(control: Control, agent: str) -> None:
    path = f"/api/v1/agents/{agent}/devices"
    made = await control.ask("POST", path, PLC)
    assert made.status == 201
    device = made.body["device"]
    assert device == {**PLC, "enabled": True, "uuid": device["uuid"]}
    assert UUID(device["uuid"]).version == 4
    assert (made.body["status"], made.body["version"]) == ("ok", 1)
    assert made.body["message"] == "Device added; deploy it so that the agent gets it"
    assert made.body["needs_deployment"]
    assert await served(control, agent) == []

    (pending,) = await devices(control, agent)
    assert pending == {
        "name": "plc",
        "uuid": device["uuid"],
        "protocol": "modbus",
        "enabled": True,
        "pollInterval": 5000,
        "connection": PLC["connection"],
        "dataPoints": PLC["dataPoints"],
        "metadata": PLC["metadata"],
        "config": device,
        "deploymentStatus": "pending",
        "status": "configured",
        "health": None,
        "reported": None,
        "reportedAt": None,
        "lastTelemetryAt": None,
    }
    await control.write("POST", agent, "/deploy")
    assert await served(control, agent) == [device]
    assert [one["deploymentStatus"] for one in await devices(control, agent)] == ["deployed"]


async def test_names_of_the_reference_s_table_become_those_of_its_agents(
    control: Control, agent: str
) -> None:
    given = {"name": "m", "protocol": "opcua", "poll_interval": 100, "data_points": [1]}
    made = await control.write("POST", agent, "/devices", given)
    assert (made["device"]["pollInterval"], made["device"]["dataPoints"]) == (100, [1])
    assert not {"poll_interval", "data_points"} & set(made["device"])
    both = await control.ask(
        "PUT", f"/api/v1/agents/{agent}/devices/m", {"poll_interval": 1, "pollInterval": 2}
    )
    assert (both.status, both.body["message"]) == (
        400,
        "fields pollInterval and poll_interval are the same; give one of them",
    )


async def test_an_endpoint_served_at_once_leaves_staged_what_else_is(
    control: Control, agent: str
) -> None:
    await control.write(
        "POST", agent, TARGET, {"apps": {}, "config": {"logging": {"level": "info"}}}
    )
    await control.write("POST", agent, "/apps", {"appId": "1"})
    made = await control.write("POST", agent, "/devices?deploy=true", PLC)
    assert (made["message"], made["needs_deployment"]) == ("Device added", True)
    state = (await control.poll(agent)).body[agent]
    assert state["apps"] == {}
    assert state["config"] == {"logging": {"level": "info"}, "endpoints": [made["device"]]}

    changed = await control.write("PUT", agent, "/devices/plc?deploy=true", {"enabled": False})
    assert await served(control, agent) == [{**made["device"], "enabled": False}]
    assert changed["needs_deployment"]
    deployed = await control.write("POST", agent, "/deploy")
    assert deployed["config"]["endpoints"] == [changed["device"]]
    removed = await control.write("DELETE", agent, "/devices/plc?hard=true")
    assert (removed["mode"], removed["needs_deployment"]) == ("hard", False)
    assert await served(control, agent) == []


async def test_the_password_of_an_endpoint_is_stored_nowhere_and_its_hash_is_one(
    control: Control, agent: str, connection: asyncpg.Connection
) -> None:
    await control.write("POST", agent, "/apps", {"appId": "1"})
    auth = {"mqtt": {"username": "u", "password": "very secret"}}
    body = {"name": "m", "protocol": "mqtt", "auth": auth}
    made = await control.write("POST", agent, "/devices?deploy=true", body)
    hashed = made["device"]["auth"]["mqtt"]
    assert hashed["passwordFileHash"].startswith("$7$101$")
    # The same salt in what operators see and in what the agent gets, though an app is staged.
    assert (await served(control, agent))[0]["auth"]["mqtt"] == hashed
    for table in ("agent_target_state", "agent_target_state_history", "audit_logs"):
        rows = await connection.fetch(f"SELECT t::text FROM {table} AS t")
        assert rows
        assert not any("very secret" in row[0] for row in rows)


async def test_an_endpoint_is_changed_at_its_place_and_keeps_its_uuid(
    control: Control, agent: str
) -> None:
    for name in ("a", "b", "c"):
        await control.write("POST", agent, "/devices", {"name": name, "protocol": "snmp"})
    before = (await devices(control, agent))[1]
    changed = await control.write(
        "PUT", agent, "/devices/b", {"name": "B", "connection": {"host": "h"}, "x": 1}
    )
    assert changed["device"] == {
        "name": "B",
        "protocol": "snmp",
        "enabled": True,
        "uuid": before["uuid"],
        "connection": {"host": "h"},
        "x": 1,
    }
    assert [one["name"] for one in await devices(control, agent)] == ["a", "B", "c"]
    other = await control.ask("PUT", f"/api/v1/agents/{agent}/devices/B", {"uuid": str(uuid4())})
    assert other.status == 400
    assert "that of an endpoint never changes" in other.body["message"]


async def test_an_endpoint_that_ends_is_listed_until_the_agent_is_told(
    control: Control, agent: str
) -> None:
    await control.write("POST", agent, "/devices?deploy=true", PLC)
    removed = await control.write("DELETE", agent, "/devices/plc")
    assert (removed["mode"], removed["needs_deployment"], removed["version"]) == ("soft", True, 2)
    (ending,) = await devices(control, agent)
    assert (ending["name"], ending["deploymentStatus"]) == ("plc", "pending_deletion")
    assert (await control.ask("DELETE", f"/api/v1/agents/{agent}/devices/plc")).status == 404
    await control.write("POST", agent, "/deploy")
    assert await devices(control, agent) == []


async def test_an_endpoint_without_uuid_gets_one_with_its_next_change(
    control: Control, agent: str
) -> None:
    config = {"endpoints": [{"name": "old", "protocol": "can"}, "strange"]}
    await control.write("POST", agent, TARGET, {"apps": {}, "config": config})
    assert [one["uuid"] for one in await devices(control, agent)] == [None]
    changed = await control.write("PUT", agent, "/devices/old", {"enabled": False})
    assert UUID(changed["device"]["uuid"])
    state = await control.write("POST", agent, "/deploy")
    assert state["config"]["endpoints"] == [changed["device"], "strange"]


async def test_a_name_that_is_taken_by_another_endpoint(control: Control, agent: str) -> None:
    await control.write("POST", agent, "/devices", PLC)
    other = await control.write("POST", agent, "/devices", {**PLC, "name": "b"})
    path = f"/api/v1/agents/{agent}/devices"
    again = await control.ask("POST", path, PLC)
    assert (again.status, again.body["message"]) == (
        409,
        "field name is 'plc', as in another endpoint",
    )
    assert (await control.ask("PUT", f"{path}/b", {"name": "plc"})).status == 409
    twin = {**PLC, "name": "c", "uuid": other["device"]["uuid"]}
    assert (await control.ask("POST", path, twin)).status == 409
    assert (await control.ask("PUT", f"{path}/none", {"enabled": True})).status == 404


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": "a"}, "the body: Object missing required field protocol"),
        ({"name": "a/b", "protocol": "can"}, 'field name is "a/b": expected str matching regex'),
        (
            {"name": "a", "protocol": "can", "dataPoints": {}},
            "field dataPoints is {}: expected array",
        ),
        (
            {"name": "a", "protocol": "can", "pollInterval": 0},
            "field pollInterval is 0: expected int",
        ),
        ([1], "the body: expected object, got array"),
        (b'{"name": "a", "protocol": "can", "x": "\\ud800"}', "the body is not JSON"),
        ({"name": "a", "protocol": "can", "x": "\0"}, "has a NUL character"),
    ],
)
async def test_what_is_no_endpoint_is_named(
    control: Control, agent: str, body: Any, message: str
) -> None:
    answer = await control.ask("POST", f"/api/v1/agents/{agent}/devices", body)
    assert answer.status == 400
    assert message in answer.body["message"]
    assert await devices(control, agent) == []


async def test_endpoints_count_for_the_size_of_a_target_state(control: Control, agent: str) -> None:
    big = {**PLC, "metadata": {"text": "x" * 5000}}
    answer = await control.ask("POST", f"/api/v1/agents/{agent}/devices", big)
    assert answer.status == 413
    listed = {"apps": {}, "config": {"endpoints": {"a": 1}}}
    await control.write("POST", agent, TARGET, listed)
    assert (await control.ask("POST", f"/api/v1/agents/{agent}/devices", PLC)).status == 409


async def test_the_last_of_two_operators_is_told_so(control: Control, agent: str) -> None:
    path = f"/api/v1/agents/{agent}/devices"
    made = await control.ask("POST", path, PLC)
    seen = {"if-match": made.headers["etag"]}
    first = await control.ask("PUT", f"{path}/plc", {"enabled": False}, headers=seen)
    assert first.status == 200
    for method, target, body in (
        ("PUT", f"{path}/plc", {"enabled": True}),
        ("DELETE", f"{path}/plc", None),
        ("POST", path, {"name": "b", "protocol": "can"}),
    ):
        assert (await control.ask(method, target, body, headers=seen)).status == 412
    assert [one["enabled"] for one in await devices(control, agent)] == [False]


async def test_a_draft_is_looked_at_and_not_kept(control: Control, agent: str) -> None:
    path = f"/api/v1/agents/{agent}/devices"
    drafted = await control.ask("POST", f"{path}?validateOnly=true", PLC)
    assert (drafted.status, drafted.body["validateOnly"]) == (200, True)
    assert drafted.body["device"]["name"] == "plc"
    assert drafted.body["version"] == 0
    assert await devices(control, agent) == []
    await control.write("POST", agent, "/devices", PLC)
    assert (await control.ask("POST", f"{path}?validateOnly=true", PLC)).status == 409


async def test_endpoints_are_shown_with_what_the_agent_says_of_them(
    control: Control, agent: str, pool: Pool, connection: asyncpg.Connection
) -> None:
    made = await control.write("POST", agent, "/devices", PLC)
    await control.write(
        "POST", agent, "/devices", {"name": "b", "protocol": "can", "enabled": False}
    )
    now_ms = time.time_ns() // 1_000_000
    reported = {"uuid": "d", "endpoint_uuid": made["device"]["uuid"], "name": "other"}
    fields = {
        "devices": [reported, "strange"],
        "endpoints_health": {"plc": {"status": "online", "errorCount": 2}, "x": 1},
    }
    await ReportStore(pool).merge([Report(agent, fields, dict.fromkeys(fields, now_ms), now_ms)])
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    await connection.executemany(
        "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time) "
        "VALUES ($1, 'plc', $2, 'modbus', $3)",
        [(agent, "a", at), (agent, "b", at.replace(hour=11))],
    )
    plc, other = await devices(control, agent)
    assert (plc["status"], plc["health"]) == ("online", {"status": "online", "errorCount": 2})
    assert plc["reported"] == reported
    assert plc["lastTelemetryAt"] == "2026-01-31T12:00:00Z"
    assert datetime.fromisoformat(plc["reportedAt"]) == datetime.fromtimestamp(now_ms / 1000, UTC)
    assert (other["status"], other["health"], other["reported"]) == ("disabled", None, None)
    assert [one["name"] for one in await devices(control, agent, "?protocol=can")] == ["b"]


async def test_the_reference_s_devices_without_permission_are_not_changed(
    control: Control, agent: str
) -> None:
    await control.write("POST", agent, "/devices", PLC)
    path = f"/api/v1/agents/{agent}/devices"
    for method, target, body in (
        ("POST", path, {**PLC, "name": "b"}),
        ("PUT", f"{path}/plc", {}),
        ("DELETE", f"{path}/plc", None),
    ):
        assert (await control.ask(method, target, body, role="viewer")).status == 403
        assert (await control.ask(method, target, body, role=None)).status == 401
    assert (await control.ask("GET", path, role="viewer")).status == 200
    assert [one["name"] for one in await devices(control, agent)] == ["plc"]


async def test_endpoints_come_from_the_default_where_the_agent_has_no_state(
    control: Control, agent: str
) -> None:
    config = {"endpoints": [{"name": "common", "protocol": "snmp"}]}
    answer = await control.ask(
        "PUT", "/api/v1/target-state/default", {"apps": {}, "config": config}
    )
    assert answer.status == 200
    assert [one["deploymentStatus"] for one in await devices(control, agent)] == ["deployed"]
    await control.write("POST", agent, "/devices?deploy=true", PLC)
    assert [one["name"] for one in await served(control, agent)] == ["common", "plc"]
