"""The Cloud API as a whole, over real HTTP: supervisor, bridge and web process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.cloud_api import (
    AGENT,
    EMPTY,
    FOREIGN,
    KEY,
    ODD,
    TENANT,
    Api,
    ready,
    start,
    token,
)

from iotistica._native import format_topic
from iotistica.api.door import listen
from iotistica.api.main import check
from iotistica.embedded.ports import free_port
from iotistica.errors import ConfigError
from iotistica.settings import Settings
from iotistica.streams import DeadLetter, Streams

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_root_says_what_this_is(api: Api) -> None:
    status, body, _ = await api.get("/", as_tenant=None)
    assert status == 200
    assert body["service"] == "Iotistica API"
    assert body["apiBase"] == "/api/v1"


async def test_health_is_the_references(api: Api) -> None:
    status, body, _ = await api.get("/health", as_tenant=None)
    assert (status, body["status"]) == (200, "healthy")
    assert body["uptime"] > 0


async def test_queries_need_a_valid_token(api: Api) -> None:
    for query in ("timeseries", "latest"):
        path = f"/api/v1/readings/{AGENT}/{query}"
        status, body, headers = await api.get(path, as_tenant=None)
        assert (status, body["error"]) == (401, "Unauthorized")
        assert headers["www-authenticate"] == "Bearer"
        for bad in ("Basic x", "Bearer ", "Bearer x.y.z", f"Bearer {token(key='k' * 64)}"):
            assert (await api.get(path, as_tenant=None, authorization=bad))[0] == 401


async def test_the_audit_is_served(api: Api) -> None:
    status, body, _ = await api.get("/api/v1/audit")
    assert (status, body["tenant"], body["clean"]) == (200, TENANT, True)
    assert (await api.get("/api/v1/audit/losses"))[1] == {"count": 0, "losses": []}
    assert (await api.get(f"/api/v1/audit/{EMPTY}"))[1]["agent"] == EMPTY
    assert (await api.get(f"/api/v1/audit/{FOREIGN}"))[0] == 404
    assert (await api.get("/api/v1/audit", as_tenant=None))[0] == 401


async def test_an_agent_of_another_tenant_does_not_exist(api: Api) -> None:
    for agent in (FOREIGN, str(uuid.uuid4())):
        for query in ("timeseries", "timeseries?metric=plain", "latest"):
            status, body, _ = await api.get(f"/api/v1/readings/{agent}/{query}")
            assert (status, body["error"]) == (404, "Not found")
            assert body["message"] == f"agent {agent} does not exist"


async def test_timeseries_gives_the_newest_readings_first(api: Api) -> None:
    rows = await api.readings("timeseries?metric=plain&limit=3")
    assert [row["value"] for row in rows] == [1499.0, 1498.0, 1497.0]
    assert rows[0] == {
        "time": "2024-10-04T00:24:59Z",
        "agent_uuid": AGENT,
        "metric_name": "plain",
        "value": 1499.0,
        "quality": "good",
        "unit": "C",
        "protocol": "modbus",
        "extra": {"device_name": "d"},
        "anomaly_score": 0.5,
        "anomaly_threshold": None,
    }


async def test_timeseries_gives_a_thousand_readings_unless_told(api: Api) -> None:
    assert len(await api.readings("timeseries?metric=plain")) == 1000
    assert len(await api.readings("timeseries?metric=plain&limit=10000")) == 1500


async def test_start_and_end_are_included(api: Api) -> None:
    window = "start=2024-10-04T00:00:10Z&end=2024-10-04T02:00:12%2B02:00"
    rows = await api.readings(f"timeseries?metric=plain&{window}")
    assert [row["value"] for row in rows] == [12.0, 11.0, 10.0]


async def test_a_plus_that_was_not_encoded_is_still_a_zone(api: Api) -> None:
    rows = await api.readings("timeseries?metric=plain&end=2024-10-04T02:00:00+02:00")
    assert [row["value"] for row in rows] == [0.0]


async def test_all_metrics_of_an_agent_are_merged_by_time(api: Api) -> None:
    rows = await api.readings("timeseries?limit=4")
    assert [(row["value"], row["metric_name"]) for row in rows] == [
        (1499.0, ODD),
        (1499.0, "plain"),
        (1498.0, ODD),
        (1498.0, "plain"),
    ]


async def test_readings_can_be_of_one_protocol(api: Api) -> None:
    rows = await api.readings("timeseries?protocol=modbus&limit=10000")
    assert {row["metric_name"] for row in rows} == {"plain"}
    assert len(rows) == 1500


async def test_a_metric_may_have_any_character(api: Api) -> None:
    encoded = quote(ODD, safe="")
    assert (await api.readings(f"timeseries?metric={encoded}&limit=1"))[0]["metric_name"] == ODD
    rows = await api.readings(f"latest?metrics={encoded},none")
    assert [row["metric_name"] for row in rows] == [ODD]


async def test_latest_gives_one_reading_of_each_series(api: Api) -> None:
    rows = await api.readings("latest")
    assert [row["metric_name"] for row in rows] == [ODD, "plain"]
    assert rows[1] == {
        "time": "2024-10-04T00:24:59Z",
        "agent_uuid": AGENT,
        "metric_name": "plain",
        "value": 1499.0,
        "quality": "good",
        "unit": "C",
        "protocol": "modbus",
        "extra": {"device_name": "d"},
    }


async def test_an_agent_without_readings_has_none(api: Api) -> None:
    assert await api.readings("timeseries", EMPTY) == []
    assert await api.readings("timeseries?metric=plain", EMPTY) == []
    assert await api.readings("latest", EMPTY) == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", "parameter limit is '0': expected int >= 1"),
        ("limit=10001", "parameter limit is '10001': expected int <= 10000"),
        ("limit=x", "parameter limit is 'x': expected int, got str"),
        ("limit=1&limit=2", "parameter limit is given 2 times; once is allowed"),
        (
            "start=yesterday",
            "parameter start is 'yesterday'; allowed is an ISO 8601 time such as "
            "2026-01-31T12:00:00Z, now, or a time before now such as 7d-ago (s, m, h, d, w)",
        ),
        (
            "start=2024-01-02&end=2024-01-01",
            "parameter start (2024-01-02T00:00:00+00:00) is after end (2024-01-01T00:00:00+00:00)",
        ),
        (
            "metric=a%00b",
            "parameter metric is 'a\\x00b': expected str matching regex '^[^\\\\x00]*$'",
        ),
    ],
)
async def test_a_wrong_parameter_is_named(api: Api, query: str, message: str) -> None:
    status, body, _ = await api.get(f"/api/v1/readings/{AGENT}/timeseries?{query}")
    assert (status, body) == (400, {"error": "Bad request", "message": message})


async def test_an_agent_that_is_no_uuid_is_named(api: Api) -> None:
    status, body, _ = await api.get("/api/v1/readings/x%2Fy/latest")
    assert (status, body["message"]) == (400, "parameter uuid is 'x/y': Invalid UUID")


async def test_dead_letters_are_found_and_replayed_over_http(api: Api) -> None:
    streams = Streams(api.environment["REDIS_URL"])
    reading = {"metric": "replayed", "value": 4.5, "timestamp": int(time.time() * 1000)}
    letter = DeadLetter(
        data=json.dumps({"messages": [{"deviceName": "d", "readings": [reading]}]}).encode(),
        topic=format_topic(TENANT, AGENT, "endpoints/x"),
        original_id="",
        error="as it was",
        reason="unknown_agent",
        stage="topic",
        failed_at=datetime.now(UTC),
    )
    await streams.dead_letter(TENANT, [letter, letter])
    await streams.close()
    status, body, _ = await api.get("/api/v1/dead-letters?reason=unknown_agent&limit=1")
    assert (status, body["count"]) == (200, 1)
    assert [one["error"] for one in body["letters"]] == ["as it was"]
    filters = {"filters": {"ids": [body["letters"][0]["id"]]}}
    bearer = {"authorization": f"Bearer {token()}"}
    url = f"{api.url}/api/v1/dead-letters/replay"
    async with api.client.post(url, json=filters, headers=bearer) as reply:
        answer = await reply.json()
        assert (reply.status, answer["passed"], answer["inserted"]) == (200, 1, 1)
    assert [row["value"] for row in await api.readings("latest?metrics=replayed")] == [4.5]
    status, body, _ = await api.get("/api/v1/dead-letters?all=true", method="DELETE")
    assert (status, body["purged"]) == (200, 1)


async def test_unknown_paths_and_methods_are_answered_in_json(api: Api) -> None:
    status, body, _ = await api.get("/api/v1/nothing", method="PUT")
    assert (status, body["error"]) == (404, "Not found")
    assert body["message"] == "Route PUT /api/v1/nothing not found"
    path = f"/api/v1/readings/{AGENT}/latest"
    status, body, headers = await api.get(path, method="DELETE")
    assert (status, body["error"], headers["allow"]) == (405, "Method not allowed", "GET")
    status, body, _ = await api.get("/health", method="HEAD")
    assert (status, body) == (200, b"")


async def test_a_request_id_is_honored_or_made(api: Api) -> None:
    _, _, headers = await api.get("/health", **{"x-request-id": "mine-1"})
    assert headers["x-request-id"] == "mine-1"
    _, _, headers = await api.get("/nothing")
    assert len(headers["x-request-id"]) == 16


async def test_metrics_of_all_processes_are_one_exposition(api: Api) -> None:
    status, text, headers = await api.get("/metrics", as_tenant=None)
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(text.decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    connected = next(f for f in families if f.name == "iotistica_bridge_connected")
    assert {s.labels["process"]: s.value for s in connected.samples}["bridge-0"] == 1.0
    up = next(f for f in families if f.name == "iotistica_process_up")
    by_name = {s.labels["name"]: s.value for s in up.samples}
    assert by_name == {"bridge-0": 1.0, "control-0": 1.0, "door": 1.0, "supervisor": 1.0}


async def test_a_truncated_body_is_refused(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    writer.write_eof()
    answer = await reader.read(100)
    writer.close()
    await writer.wait_closed()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


def children_of(process: subprocess.Popen[bytes]) -> dict[str, int]:
    """Process ids by module."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return {line.split()[-1]: int(line.split()[0]) for line in listed if " -m " in line}


async def test_a_bridge_that_dies_is_started_again(api: Api) -> None:
    os.kill(children_of(api.process)["iotistica.api.bridge"], signal.SIGKILL)

    async def restarted() -> bool:
        _, text, _ = await api.get("/metrics", as_tenant=None)
        line = 'iotistica_process_restarts_total{name="bridge-0",process="supervisor"} 1.0'
        return line in text.decode()

    async with asyncio.timeout(15):
        while not await restarted():
            await asyncio.sleep(0.05)
    await ready(api)


async def test_no_process_outlives_a_supervisor_that_was_killed(api: Api) -> None:
    port = str(free_port())
    changes = {"API_PORT": port, "MQTT_CLIENT_ID": f"other-{port}"}
    process = start(**{**api.environment, **changes})
    other = Api(f"http://127.0.0.1:{port}", process, api.client, {})
    await ready(other)
    children = children_of(process)
    modules = {f"iotistica.api.{one}" for one in ("bridge", "control", "door", "robyn_app")}
    assert set(children) == modules
    process.kill()
    process.wait()
    async with asyncio.timeout(10):
        while any(is_alive(pid) for pid in children.values()):
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_missing_secret_is_one_clear_sentence() -> None:
    process = start(
        DATABASE_URL="postgresql://x", REDIS_URL="redis://x", MQTT_URL="mqtt://x", API_PORT="0"
    )
    _, error = await asyncio.to_thread(process.communicate)
    assert b"JWT_SECRET (or JWT_SECRET_FILE) is not set" in error


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cors_origins": "https://a/b"}, "CORS_ORIGINS has 'https://a/b'"),
        ({"door_trusted_proxies": "10.0.0.1/8"}, "TRUSTED_PROXIES: 10.0.0.1/8 has host bits set"),
        ({"door_tls_key_file": Path("/k.pem")}, "go together"),
        (
            {"door_tls_key_file": Path("/k.pem"), "door_tls_certificate_file": Path("/c.pem")},
            "/c.pem is not a file",
        ),
        ({"api_host": "192.0.2.1"}, "cannot listen on 192.0.2.1:"),
    ],
)
async def test_wrong_settings_stop_the_start(changes: dict[str, Any], sentence: str) -> None:
    settings = Settings.load(
        database_url="postgresql://x",
        redis_url="redis://x",
        mqtt_url="mqtt://x",
        jwt_secret=KEY,
        api_port=free_port(),
    )
    check(settings)
    with pytest.raises(ConfigError, match=sentence):
        check(settings.model_copy(update=changes))


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings.load(api_port=port, jwt_secret=KEY)
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            listen(settings)
