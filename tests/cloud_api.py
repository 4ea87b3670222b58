"""The Cloud API as a whole, over real HTTP: supervisor, bridge and web process."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import IO, Any

import aiohttp
import asyncpg

from iotistica.api.auth import issue_token

START = (
    "import sys; from iotistica.api.main import run; from iotistica.settings import Settings; "
    "sys.exit(run(Settings.load()))"
)
TENANT, OTHER = secrets.token_hex(6), secrets.token_hex(6)
AGENT, EMPTY, FOREIGN = (str(uuid.uuid4()) for _ in range(3))
KEY = secrets.token_bytes(32).hex()
LIMITS = ("GLOBAL", "AUTH", "DEVICE_DATA", "ADMIN")
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
            "INSERT INTO rollup_marks VALUES (date '1970-01-01' + 20000, $1)", agent
        )
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


def start(log: IO[bytes] | None = None, **environment: str) -> subprocess.Popen[bytes]:
    silent = subprocess.DEVNULL if environment.get("JWT_SECRET") else subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", START, "--port", "1", "--version"],
        env={**os.environ, **environment},
        stderr=silent if log is None else log,
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
