"""State by HTTP, and what operators read of reports."""

from __future__ import annotations

import gzip
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest
from tests.control import Place
from tests.rest import Rest

from iotistica.api.presence import Presence
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.store.reports import Report, ReportStore

STATE = {"cpu_usage": 5, "apps": {"1": {"name": "x"}}, "version": 3}


async def system_info(place: Place) -> Any:
    found = await place.database.fetchval(
        "SELECT system_info FROM agent_current_state WHERE agent_uuid = $1", place.agent
    )
    return None if found is None else orjson.loads(found)


@pytest.mark.parametrize("form", ["keyed", "bare", "named", "text", "gzip"])
async def test_state_is_taken_in_every_form(place: Place, device_api: Rest, form: str) -> None:
    body: Any = {
        "keyed": {place.agent: STATE, "msgId": f"{place.agent}-{time.time_ns() // 10**6}-abcd1234"},
        "bare": STATE,
        "named": {"deviceUuid": place.agent, **STATE},
        "text": orjson.dumps({place.agent: STATE}).decode(),
        "gzip": gzip.compress(orjson.dumps({place.agent: STATE})),
    }[form]
    headers = {"content-encoding": "gzip"} if form == "gzip" else {}
    answer = await device_api.ask(
        "PATCH", "/api/v1/device/state", body, key=place.agent, headers=headers
    )
    assert (answer.status, answer.body) == (200, {"status": "ok"})
    assert (await system_info(place))["cpu_usage"] == 5
    row = await place.database.fetchrow(
        "SELECT version, apps, cpu_usage FROM agent_current_state JOIN agents ON uuid = agent_uuid"
    )
    assert (row["version"], orjson.loads(row["apps"]), row["cpu_usage"]) == (3, STATE["apps"], 5.0)
    ((topic, payload),) = await place.readings()
    assert topic == place.topic("endpoints/system")
    assert [(one["metric"], one["value"]) for one in payload["readings"]] == [("cpu_usage", 5)]


async def test_a_state_with_nul_is_kept_without_it(place: Place, device_api: Rest) -> None:
    body = {"os_version": "a\0b", "note": "\\u0000"}
    assert (
        await device_api.ask("PATCH", "/api/v1/device/state", body, key=place.agent)
    ).status == 200
    assert await system_info(place) == {"os_version": "ab", "note": "\\u0000"}


async def test_a_state_about_another_agent_is_forbidden(place: Place, device_api: Rest) -> None:
    other = str(uuid4())
    for body in ({other: STATE}, {"uuid": other, **STATE}, {"deviceUuid": other, **STATE}):
        answer = await device_api.ask("PATCH", "/api/v1/device/state", body, key=place.agent)
        assert answer.status == 403
    assert await system_info(place) is None


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"no json", 400), (b"[1]", 400), (b"", 400), (b'"' + b"x" * (1 << 20) + b'"', 413)],
)
async def test_a_state_that_is_none_is_told_so(
    place: Place, device_api: Rest, body: bytes, status: int
) -> None:
    answer = await device_api.ask("PATCH", "/api/v1/device/state", body, key=place.agent)
    assert answer.status == status
    assert (await device_api.ask("PATCH", "/api/v1/device/state", STATE)).status == 403
    assert (await device_api.ask("PATCH", "/api/v1/device/state", STATE, role=None)).status == 401


async def test_a_request_brings_an_agent_online(
    place: Place, device_api: Rest, heard: Presence
) -> None:
    await device_api.ask("PATCH", "/api/v1/device/state", {"uptime": 1}, key=place.agent)
    await heard.flush()
    online = "SELECT is_online FROM agents WHERE uuid = $1"
    assert await place.database.fetchval(online, place.agent)


# Reading, in both profiles


@pytest.fixture
async def agent(pool: Pool, tenant: str) -> str:
    found = str(uuid4())
    store = AgentStore(pool)
    await store.ensure_tenant(tenant)
    await store.add_agents(tenant, [(found, "agent")])
    return found


FIELDS = {
    "network_interfaces": [{"name": "eth0", "ip4": "10.0.0.5"}],
    "devices": [{"uuid": "d", "name": "plc"}],
    "endpoints_health": {"plc": {"status": "ok"}},
}


async def test_reported_fields_are_read(rest: Rest, pool: Pool, agent: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    report = Report(agent, dict(FIELDS), dict.fromkeys(FIELDS, now_ms), now_ms)
    await ReportStore(pool).merge([report])
    at = datetime.fromtimestamp(now_ms / 1000, UTC)
    for path, name, expected in (
        ("network-interfaces", "interfaces", FIELDS["network_interfaces"]),
        ("reported-devices", "devices", FIELDS["devices"]),
        ("device-health", "devices", FIELDS["endpoints_health"]),
    ):
        answer = await rest.ask("GET", f"/api/v1/agents/{agent}/{path}")
        assert answer.status == 200
        assert (answer.body["count"], answer.body[name]) == (1, expected)
        assert datetime.fromisoformat(answer.body["reported_at"]) == at


async def test_the_history_of_an_endpoint_has_what_changed_of_its_health(
    rest: Rest, pool: Pool, agent: str
) -> None:
    store, begun = ReportStore(pool), time.time_ns() // 1_000_000 - 60_000
    good = {"status": "online", "connected": True, "errorCount": 0, "lastPoll": "1"}
    bad = {"status": "offline", "connected": False, "errorCount": 3, "lastError": "x" * 600}
    told: list[tuple[int, Any]] = [
        (0, {"plc": good, "other": "ok"}),
        (1, {"plc": {**good, "lastPoll": "2", "errorCount": 1}, "other": "ok"}),
        (3, {"plc": bad}),
        (2, {"plc": good}),  # late: what is newer stands
        (4, "strange"),
        (5, {"plc": {**good, "lastPoll": "3"}}),
    ]
    for second, health in told:
        at = begun + second * 1000
        fields = {"endpoints_health": health}
        await store.merge([Report(agent, fields, dict.fromkeys(fields, at), at)])
    path = f"/api/v1/agents/{agent}/protocol-adapters/modbus"
    answer = await rest.ask("GET", f"{path}/plc/history?hours=1")
    assert answer.status == 200
    history = answer.body.pop("history")
    assert answer.body == {
        "agent_uuid": agent,
        "protocol_type": "modbus",
        "device_name": "plc",
        "hours": 1,
        "count": 3,
    }
    names = ("status", "connected", "error_count", "last_error", "last_poll")
    assert [tuple(one[name] for name in names) for one in history] == [
        ("online", True, 0.0, None, "3"),
        ("offline", False, 3.0, "x" * 500, None),
        ("online", True, 0.0, None, "1"),
    ]
    times = [datetime.fromisoformat(one["timestamp"]).timestamp() * 1000 for one in history]
    assert [round(one) - begun for one in times] == [5000, 3000, 0]
    assert {one["device_name"] for one in history} == {"plc"}
    other = await rest.ask("GET", f"{path}/other/history")
    assert [one["status"] for one in other.body["history"]] == ["ok"]
    assert (await rest.ask("GET", f"{path}/none/history")).body["count"] == 0
    assert (await rest.ask("GET", f"{path}/plc/history", tenant="another")).status == 404


PATHS = ("metrics", "network-interfaces", "reported-devices", "device-health")


@pytest.mark.parametrize("path", PATHS)
async def test_an_agent_that_reported_nothing_has_nothing(
    rest: Rest, agent: str, path: str
) -> None:
    answer = await rest.ask("GET", f"/api/v1/agents/{agent}/{path}")
    assert (answer.status, answer.body["count"]) == (200, 0)
    stranger = await rest.ask("GET", f"/api/v1/agents/{agent}/{path}", tenant="another")
    nobody = await rest.ask("GET", f"/api/v1/agents/{uuid4()}/{path}")
    assert stranger.status == nobody.status == 404


async def test_system_metrics_are_read_by_moment_and_by_period(
    rest: Rest, pool: Pool, agent: str
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    days = sorted({(now - timedelta(minutes=n)).date() for n in range(20)})
    epoch = datetime(1970, 1, 1, tzinfo=UTC).date()
    if await pool.fetchval("SELECT to_regproc('readings_make_days') IS NOT NULL"):
        await pool.execute("SELECT readings_make_days($1)", [(day - epoch).days for day in days])
    rows = [
        (now - timedelta(minutes=n), agent, metric, float(value), protocol)
        for n in range(20)
        for metric, value, protocol in (
            ("cpu_usage", n, "system"),
            ("memory_usage", 100 + n, "system"),
            ("pressure", 1, "modbus"),
        )
    ]
    await pool.executemany(
        "INSERT INTO readings (time, agent_uuid, metric_name, value, protocol) "
        "VALUES ($1, $2, $3, $4, $5)",
        rows,
    )
    newest = (await rest.ask("GET", f"/api/v1/agents/{agent}/metrics?limit=3")).body
    assert newest["count"] == 3
    assert [(one["cpu_usage"], one["memory_usage"]) for one in newest["metrics"]] == [
        (0, 100),
        (1, 101),
        (2, 102),
    ]
    assert newest["metrics"][0]["cpu_temp"] is None
    period = (await rest.ask("GET", f"/api/v1/agents/{agent}/metrics?period=6h")).body
    # 6 h in 60 steps: 6 minutes each.
    assert 4 <= period["count"] <= 5
    assert sum(one["cpu_usage"] is not None for one in period["metrics"]) == period["count"]
    assert period["metrics"][-1]["cpu_usage"] > period["metrics"][0]["cpu_usage"]
    for query in ("limit=0", "period=1y", "pages=2"):
        assert (await rest.ask("GET", f"/api/v1/agents/{agent}/metrics?{query}")).status == 400
