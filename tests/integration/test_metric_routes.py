"""`/metrics/…` on both storage profiles, by value."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from tests.integration.test_metric_queries import DRILL, FOREIGN, METRIC, PRESS, plant
from tests.rest import Rest

__all__ = ["plant"]
LAST = "2026-03-04T00:00:00Z"
ENDPOINT, TWIN = uuid.UUID(int=500), uuid.UUID(int=501)


async def get(rest: Rest, path: str, **query: Any) -> Any:
    words = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
    answer = await rest.ask("GET", f"/api/v1/metrics/{path}?{words}")
    assert answer.status == 200, answer.body
    return answer.body


async def pages(rest: Rest, path: str, name: str, **query: Any) -> list[Any]:
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        body = await get(rest, path, limit=1, **query, **cursor)
        assert body["count"] == len(body[name])
        found += body[name]
        if body["cursor"] is None:
            return found
        cursor = {"cursor": body["cursor"]}


async def test_the_catalog_has_each_metric_by_unit_and_protocol(
    plant: Rest, connection: asyncpg.Connection
) -> None:
    """Of another tenant's there is nothing, though it has a metric of the same name."""
    await connection.execute(
        "UPDATE readings_latest SET unit = 'C' WHERE agent_uuid = ANY ($1)", [PRESS, FOREIGN]
    )
    await connection.execute(
        """
        INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time)
        VALUES ($1, 'z', $3, 'modbus', $4), ($1, 'y', 'Other', 'can', $4),
               ($2, '', 'secret', 'can', $4)
        """,
        *(DRILL, FOREIGN, METRIC, datetime(2026, 3, 5, tzinfo=UTC)),
    )
    line = {"metric_name": METRIC, "agents": 1, "series": 1, "last_seen": LAST}
    expected = [
        {
            "metric_name": "Other",
            "unit": None,
            "protocol": "can",
            "agents": 1,
            "series": 1,
            "last_seen": "2026-03-05T00:00:00Z",
        },
        {
            **line,
            "unit": None,
            "protocol": "modbus",
            "series": 2,
            "last_seen": "2026-03-05T00:00:00Z",
        },
        {**line, "unit": "C", "protocol": "modbus"},
        {**line, "unit": "C", "protocol": "opcua"},
    ]
    assert (await get(plant, "catalog"))["metrics"] == expected
    assert await pages(plant, "catalog", "metrics") == expected
    assert await pages(plant, "catalog", "metrics", search="SPEED [") == expected[1:]
    assert await pages(plant, "catalog", "metrics", search="100%") == []


async def test_agents_that_measure(plant: Rest, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, 'mute')",
        *(uuid.uuid4(), plant.tenant),
    )
    shared = {"metrics": 1, "last_seen": LAST}
    assert await pages(plant, "agents", "agents") == [
        {**shared, "agent_uuid": str(PRESS), "agent_name": "press-1", "devices": 2, "series": 2},
        {**shared, "agent_uuid": str(DRILL), "agent_name": "drill_1", "devices": 0, "series": 1},
    ]


async def test_newest_readings_of_the_tenant(plant: Rest) -> None:
    rows = await pages(plant, "latest", "readings")
    assert [(row["agent_name"], row["device_name"]) for row in rows] == [
        ("press-1", "x"),
        ("press-1", "y"),
        ("drill_1", None),
    ]
    assert rows[1] == {
        "agent_uuid": str(PRESS),
        "agent_name": "press-1",
        "device_name": "y",
        "metric_name": METRIC,
        "value": None,
        "quality": None,
        "unit": None,
        "protocol": "opcua",
        "time": LAST,
    }
    assert await pages(plant, "latest", "readings", agentUuid=PRESS, deviceName="y") == [rows[1]]
    assert await pages(plant, "latest", "readings", metricName="none") == []
    assert await pages(plant, "latest", "readings", agentUuid=FOREIGN) == []


async def test_whether_readings_arrive(plant: Rest, connection: asyncpg.Connection) -> None:
    health = await get(plant, "ingestion-health")
    stored = datetime.fromisoformat(health.pop("last_stored_at"))
    assert abs(datetime.now(UTC) - stored) < timedelta(minutes=2)
    assert health == {
        "status": "healthy",
        "agents_total": 2,
        "agents_reporting": 2,
        "agents_silent": 0,
        "series_total": 3,
        "last_reading_time": LAST,
        "silent_after_s": 300.0,
    }
    old = "UPDATE readings_latest SET updated_at = now() - interval '6 min' WHERE agent_uuid = $1"
    await connection.execute(old, DRILL)
    health = await get(plant, "ingestion-health")
    assert (health["status"], health["agents_reporting"], health["agents_silent"]) == (
        *("healthy", 1, 1),
    )
    await connection.execute(old, PRESS)
    assert (await get(plant, "ingestion-health"))["status"] == "stale"
    await connection.execute("DELETE FROM readings_latest")
    health = await get(plant, "ingestion-health")
    assert (health["status"], health["last_stored_at"], health["agents_total"]) == (
        *("idle", None, 2),
    )


@pytest.mark.parametrize(
    ("query", "level", "count", "first"),
    [
        # Press x has a value n at each ten minutes, y has 2 n a minute later.
        ({"startTime": "2026-03-02T01:00:00Z", "endTime": "2026-03-02T01:15:00Z"}, "raw", 2, 6.0),
        ({"startTime": "2026-03-02T01:00:00Z", "endTime": "2026-03-02T05:00:00Z"}, "1min", 24, 6.0),
        ({"timeRange": "24h", "endTime": "2026-03-03T00:00:00Z"}, "1hour", 24, 2.5),
        ({"timeRange": "7d", "endTime": "2026-03-04T00:00:00Z"}, "1hour", 48, 2.5),
        ({"timeRange": "30d", "endTime": "2026-03-04T00:00:00Z"}, "1day", 2, 71.5),
        (
            {"timeRange": "24h", "endTime": "2026-03-03T00:00:00Z", "aggregation": "1day"},
            *("1day", 1, 71.5),
        ),
    ],
)
async def test_a_metric_of_a_device_by_name(
    plant: Rest, query: dict[str, str], level: str, count: int, first: float
) -> None:
    body = await get(plant, "timeseries", deviceName="x", metricName=METRIC, **query)
    assert body["metric"] == {
        "deviceUuid": None,
        "deviceName": "x",
        "agentUuid": str(PRESS),
        "metricName": METRIC,
        "unit": "C",
        "protocol": "modbus",
    }
    metadata, data = body["metadata"], body["data"]
    assert (metadata["aggregationLevel"], len(data)) == (level, count)
    assert metadata["qualityPercentage"] == 100.0
    assert metadata["timeRange"] == query.get("timeRange")
    assert metadata["sampleCount"] == sum(point["sampleCount"] for point in data)
    assert data[0]["value"] == pytest.approx(first)
    assert [point["time"] for point in data] == sorted(point["time"] for point in data)


async def test_a_metric_of_an_agent_or_an_endpoint_by_uuid(plant: Rest) -> None:
    endpoints = [
        {"name": "y", "protocol": "opcua", "uuid": str(ENDPOINT)},
        {"name": "x", "protocol": "modbus", "uuid": str(TWIN)},
    ]
    for agent in (PRESS, DRILL):
        some = endpoints if agent == PRESS else endpoints[1:]
        answer = await plant.ask(
            "POST",
            f"/api/v1/agents/{agent}/target-state",
            {"apps": [], "config": {"endpoints": some}},
        )
        assert answer.status == 200, answer.body
    day = {
        "metricName": METRIC,
        "startTime": "2026-03-02",
        "endTime": "2026-03-03",
        "aggregation": "1day",
    }
    body = await get(plant, "timeseries", deviceUuid=ENDPOINT, **day)
    assert (body["metric"]["deviceName"], body["metric"]["deviceUuid"]) == ("y", str(ENDPOINT))
    assert body["data"] == [
        {
            "time": "2026-03-02T00:00:00Z",
            "value": pytest.approx(143.0),
            "min": 0.0,
            "max": 286.0,
            "sampleCount": 144,
            "qualityPercentage": 100.0,
        }
    ]
    body = await get(plant, "timeseries", deviceUuid=PRESS, **day)
    assert (body["metric"]["deviceName"], body["metadata"]["sampleCount"]) == (None, 288)
    # Two agents have an endpoint of one uuid.
    path = "/api/v1/metrics/timeseries"
    words = f"metricName={quote(METRIC, safe='')}&deviceUuid={TWIN}"
    answer = await plant.ask("GET", f"{path}?{words}")
    assert (answer.status, "say which by agentUuid" in answer.body["message"]) == (400, True)
    answer = await plant.ask("GET", f"{path}?{words}&agentUuid={PRESS}")
    assert answer.status == 200


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("deviceUuid=00000000-0000-0000-0000-000000000067&metricName=x", 404, "does not exist"),
        ("deviceUuid=00000000-0000-0000-0000-0000000000ff&metricName=x", 404, "does not exist"),
        ("deviceName=none&metricName=x", 404, "device 'none' with metric 'x' does not exist"),
        ("metricName=x", 400, "needs deviceUuid or deviceName"),
        ("deviceName=x", 400, "metricName"),
        ("deviceName=x&metricName=x&timeRange=2h", 400, "timeRange"),
        ("deviceName=x&metricName=x&aggregation=1year", 400, "aggregation"),
        ("deviceName=x&metricName=x&startTime=now&endTime=1h-ago", 400, "is after endTime"),
    ],
)
async def test_what_is_wrong_or_not_there_is_named(
    plant: Rest, query: str, status: int, message: str
) -> None:
    answer = await plant.ask("GET", f"/api/v1/metrics/timeseries?{query}")
    assert answer.status == status
    assert message in answer.body["message"]


async def test_nothing_has_to_be_refreshed(rest: Rest) -> None:
    answer = await rest.ask("POST", "/api/v1/metrics/refresh?view=metric_catalog")
    assert (answer.status, answer.body["status"], answer.body["view"]) == (
        *(200, "ok", "metric_catalog"),
    )


async def test_prometheus_asks_elsewhere(rest: Rest) -> None:
    assert (await rest.ask("GET", "/metrics", role=None)).status == 200
    assert (await rest.ask("GET", "/api/v1/metrics/catalog", role=None)).status == 401
