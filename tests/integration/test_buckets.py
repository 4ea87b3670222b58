"""`/hourly`, `/daily` and `/summary` on both storage profiles, by value."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from tests.integration.test_rollups import has_marks, refresh
from tests.integration.test_series import AGENT, DAYS, START, series
from tests.rest import Answer, Rest

from iotistica.store.pool import Pool

METRIC = quote("a.b/c, d", safe="")
PATH = f"/api/v1/readings/{AGENT}"

__all__ = ["series"]


async def ask(rest: Rest, path: str, **headers: str) -> Answer:
    answer = await rest.ask("GET", f"{PATH}{path}", headers=headers)
    assert answer.status in (200, 304), answer.body
    return answer


async def renew(pool: Pool, connection: asyncpg.Connection, hour: datetime) -> None:
    """Have the rollups know of what was added to an hour past ingestion."""
    if await has_marks(connection):
        await connection.execute("INSERT INTO rollup_marks VALUES ($1, $2)", hour, AGENT)
    else:
        await refresh(pool, connection)


async def test_hours_of_a_metric_with_a_slash_in_its_name(series: Rest) -> None:
    window = "start=2026-03-02T01:30:00Z&end=2026-03-02T03:00:00Z"
    body = (await ask(series, f"/{METRIC}/hourly?{window}")).body
    rows = body.pop("aggregates")
    assert body == {
        "agent_uuid": str(AGENT),
        "metric_name": "a.b/c, d",
        "interval": "1 hour",
        "count": 3,
    }
    assert [row["bucket"] for row in rows] == [f"2026-03-02T0{hour}:00:00Z" for hour in (3, 2, 1)]
    # A reading every 20 s whose value is its number: 180 an hour.
    first = (24 + 1) * 180
    assert rows[2] == {
        "bucket": "2026-03-02T01:00:00Z",
        "device_name": "d",
        "avg_value": pytest.approx(first + 89.5),
        "min_value": first,
        "max_value": first + 179,
        "stddev_value": pytest.approx((180 * 181 / 12) ** 0.5),
        "first_value": first,
        "last_value": first + 179,
        "sample_count": 180,
    }


async def test_days_of_a_metric(series: Rest) -> None:
    body = (await ask(series, f"/{METRIC}/daily?start=2026-03-01&end=2026-03-10T23:59:59Z")).body
    assert (body["interval"], body["count"]) == ("1 day", DAYS)
    assert [row["sample_count"] for row in body["aggregates"]] == [4320] * DAYS
    assert [row["first_value"] for row in body["aggregates"]] == [
        4320.0 * day for day in range(DAYS - 1, -1, -1)
    ]
    body = (await ask(series, "/nothing/daily?start=2026-03-01&end=2026-03-10")).body
    assert (body["count"], body["aggregates"]) == (0, [])


async def test_two_devices_with_one_metric_have_buckets_of_their_own(
    series: Rest, pool: Pool, connection: asyncpg.Connection
) -> None:
    """In the reference `/hourly` asks for a column that its rollup lacks, and answers 500."""
    await connection.execute(
        """
        INSERT INTO readings (time, agent_uuid, metric_name, value, quality, protocol, extra)
        SELECT $1::timestamptz + (n * 3 + device) * interval '1 min', $2, 'two', n * 10 + device,
               'good', protocol, jsonb_build_object('device_name', name)
        FROM generate_series(0, 2) AS n,
             (VALUES (0, 'x', 'modbus'), (1, 'y', 'modbus'), (2, 'y', 'opcua'))
                 AS kinds (device, name, protocol)
        """,
        START + timedelta(days=DAYS, hours=-1),
        AGENT,
    )
    await renew(pool, connection, START + timedelta(days=DAYS, hours=-1))
    for level in ("hourly", "daily"):
        body = (await ask(series, f"/two/{level}?start=2026-03-10&end=2026-03-11")).body
        shown = [
            (row["device_name"], row["sample_count"], row["avg_value"], row["last_value"])
            for row in body["aggregates"]
        ]
        assert shown == [("x", 3, 10.0, 20.0), ("y", 6, pytest.approx(11.5), 22.0)]


async def test_the_summary_counts_all_that_is_kept(series: Rest) -> None:
    """In the reference it scans the whole table."""
    body = (await ask(series, "/summary")).body
    shared = {"protocol": "modbus", "unit": "C", "first_reading_time": "2026-03-01T00:00:00Z"}
    assert body == {
        "agent_uuid": str(AGENT),
        "total_metrics": 2,
        "metrics": [
            {
                **shared,
                "metric_name": "a.b/c, d",
                "total_readings": 43_200,
                "last_reading_time": "2026-03-10T23:59:40Z",
            },
            {
                **shared,
                "metric_name": "daily",
                "total_readings": DAYS,
                "last_reading_time": "2026-03-10T00:00:00Z",
            },
        ],
    }


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/x/hourly?start=2026-03-01", "end"),
        ("/x/daily?end=2026-03-01", "start"),
        ("/x/daily?start=yesterday&end=now", "parameter start is 'yesterday'"),
        ("/x/daily?start=2026-03-02&end=2026-03-01", "is after end"),
        ("/x%00/daily?start=2026-03-02&end=2026-03-03", "parameter metric"),
    ],
)
async def test_what_is_wrong_is_named(rest: Rest, path: str, message: str) -> None:
    answer = await rest.ask("GET", PATH + path)
    assert answer.status == 400
    assert message in answer.body["message"]


async def test_agents_of_others_do_not_exist(series: Rest) -> None:
    window = "start=2026-03-01&end=2026-03-02"
    for path in ("summary", f"{METRIC}/hourly?{window}", f"{METRIC}/daily?{window}"):
        for agent, tenant in ((uuid.uuid4(), None), (AGENT, "0123456789ff")):
            answer = await series.ask("GET", f"/api/v1/readings/{agent}/{path}", tenant=tenant)
            assert answer.status == 404
            assert answer.body["message"] == f"agent {agent} does not exist"


@pytest.mark.parametrize("path", [f"/{METRIC}/hourly?", f"/{METRIC}/daily?", "/timeseries?"])
async def test_what_is_over_is_sent_again_only_where_it_changed(
    series: Rest, pool: Pool, connection: asyncpg.Connection, path: str
) -> None:
    asked = f"{path}start=2026-03-03&end=2026-03-04"
    first = await ask(series, asked)
    etag = first.headers["etag"]
    assert etag.startswith('"')
    assert first.headers["cache-control"] == "private, no-cache"
    again = await ask(series, asked, **{"if-none-match": f'"other", {etag}'})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    # Late data changes what is over.
    hour = START + timedelta(days=2, hours=5)
    await connection.execute(
        """
        INSERT INTO readings (time, agent_uuid, metric_name, value, quality, unit, protocol, extra)
        VALUES ($1, $2, 'a.b/c, d', 1e9, 'good', 'C', 'modbus', '{"device_name": "d"}')
        """,
        hour + timedelta(seconds=1),
        AGENT,
    )
    await renew(pool, connection, hour)
    changed = await ask(series, asked, **{"if-none-match": etag})
    assert changed.status == 200
    assert changed.headers["etag"] != etag
    rows: list[Any] = changed.body.get("aggregates") or changed.body["readings"]
    assert max(row["max_value"] for row in rows) == 1e9
    # A window that goes on has none.
    open_end = await ask(series, f"{path}start=2026-03-03&end=2200-01-01")
    assert "etag" not in open_end.headers
