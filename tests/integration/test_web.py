"""The Cloud API as a whole, over real HTTP: supervisor, bridge and web process."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from iotistica._native import format_topic
from iotistica.api.auth import issue_token
from iotistica.embedded import broker as brokers
from iotistica.embedded.credentials import User
from iotistica.embedded.ports import free_port
from iotistica.store.migrate import migrate
from iotistica.streams import DeadLetter, Streams

START = (
    "import sys; from iotistica.api.main import run; from iotistica.settings import Settings; "
    "sys.exit(run(Settings.load()))"
)
TENANT, OTHER = secrets.token_hex(6), secrets.token_hex(6)
AGENT, EMPTY, FOREIGN = (str(uuid.uuid4()) for _ in range(3))
KEY = secrets.token_bytes(32).hex()
ODD = "Temp [°C] / 50%+1,x"


def token(tenant: str = TENANT, key: str = KEY) -> str:
    return issue_token(key, tenant=tenant)


@dataclass
class Api:
    """A running Cloud API."""

    url: str
    process: subprocess.Popen[bytes]
    client: aiohttp.ClientSession
    environment: dict[str, str]

    async def get(
        self, path: str, *, as_tenant: str | None = TENANT, method: str = "GET", **headers: str
    ) -> tuple[int, Any, Any]:
        if as_tenant is not None:
            headers["authorization"] = f"Bearer {token(as_tenant)}"
        url = aiohttp.client.URL(self.url + path, encoded=True)
        async with self.client.request(method, url, headers=headers) as reply:
            text = await reply.read()
            is_json = reply.content_type == "application/json" and text
            return reply.status, json.loads(text) if is_json else text, reply.headers

    async def readings(self, path: str, agent: str = AGENT) -> list[dict[str, Any]]:
        status, body, _ = await self.get(f"/api/v1/readings/{agent}/{path}")
        assert status == 200, body
        assert body["agent_uuid"] == agent
        assert body["count"] == len(body["readings"])
        return body["readings"]


async def fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.executemany("INSERT INTO tenants VALUES ($1, $1)", [(TENANT,), (OTHER,)])
    await connection.executemany(
        "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, 'x')",
        [(AGENT, TENANT), (EMPTY, TENANT), (FOREIGN, OTHER)],
    )
    await connection.execute("SELECT readings_make_days(ARRAY[20000, 20001])")
    for agent in (AGENT, FOREIGN):
        await connection.execute(
            """
            INSERT INTO readings (time, agent_uuid, metric_name, value, quality, unit, protocol,
                                  extra, anomaly_score)
            SELECT date '1970-01-01' + 20000 + make_interval(secs => n), $1, metric, n, 'good',
                   'C', protocol, '{"device_name": "d"}', 0.5
            FROM generate_series(0, 1499) AS n,
                 (VALUES ('plain', 'modbus'), ($2, 'opcua')) AS kinds (metric, protocol)
            """,
            agent,
            ODD,
        )
        await connection.execute(
            """
            INSERT INTO readings_latest
                (agent_uuid, device_name, metric_name, value, quality, unit, protocol, time)
            SELECT DISTINCT ON (metric_name) agent_uuid, 'd', metric_name, value, quality, unit,
                   protocol, time
            FROM readings WHERE agent_uuid = $1 ORDER BY metric_name, time DESC
            """,
            agent,
        )
    await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(servers: Any, postgres: Any, redis_server: Any) -> AsyncIterator[Api]:
    """One Cloud API for all tests of this module."""
    name = f"web_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"CREATE DATABASE {name}")
    database_url = postgres.url.rpartition("/")[0] + f"/{name}"
    await migrate(database_url)
    await fill(database_url)
    broker = brokers.Broker(servers / "web", port=free_port(), program=brokers.find_broker())
    await broker.start()
    user = User(secrets.token_urlsafe(), ("readwrite i/#", "read $SYS/#"))
    await broker.add_users({"iotistica-api": user})
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_server.url,
        "MQTT_URL": broker.url_for("iotistica-api", user.password),
        "API_PORT": str(free_port()),
        "JWT_SECRET": KEY,
    }
    process = start(**environment)
    async with aiohttp.ClientSession() as client:
        url = f"http://127.0.0.1:{environment['API_PORT']}"
        running = Api(url, process, client, environment)
        await ready(running)
        yield running
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 15) == 0
    await broker.stop()
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


def start(**environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", START, "--port", "1", "--version"],
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL if environment.get("JWT_SECRET") else subprocess.PIPE,
    )


async def ready(api: Api, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            assert api.process.poll() is None
            try:
                if (await api.get("/ready"))[0] == 200:
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


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
            "2026-01-31T12:00:00Z",
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
    assert by_name == {"bridge-0": 1.0, "supervisor": 1.0}


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
    assert set(children) == {"iotistica.api.bridge", "iotistica.api.robyn_app"}
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


async def test_more_than_one_web_process_is_refused_for_now(api: Api) -> None:
    from iotistica.api.main import check
    from iotistica.errors import ConfigError
    from iotistica.settings import Settings

    settings = Settings.load(
        database_url="postgresql://x",
        redis_url="redis://x",
        mqtt_url="mqtt://x",
        jwt_secret=KEY,
        web_processes=2,
    )
    with pytest.raises(ConfigError, match="WEB_PROCESSES is 2"):
        check(settings)
    one = settings.model_copy(update={"web_processes": 1, "api_host": "0.0.0.0"})
    with pytest.raises(ConfigError, match="loopback only"):
        check(one)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = one.model_copy(update={"api_host": "127.0.0.1", "api_port": port})
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            check(busy)
