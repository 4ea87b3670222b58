"""`/timeseries` on both storage profiles: which level answers, and the same numbers from each."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from tests.integration.test_rollups import refresh
from tests.rest import Rest

from iotistica.store.pool import Pool

START = datetime(2026, 3, 1, tzinfo=UTC)
AGENT = uuid.UUID(int=77)
DAYS = 10


@pytest.fixture
async def series(rest: Rest, pool: Pool, connection: asyncpg.Connection) -> Rest:
    """Ten days, a reading every 20 s whose value is its number; one metric with a name of any kind,
    one that has a reading a day."""
    await connection.execute(
        "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, 'press')", AGENT, rest.tenant
    )
    count = DAYS * 4320
    if await connection.fetchval(
        "SELECT to_regprocedure('readings_make_days(integer[])') IS NOT NULL"
    ):
        day = START.timestamp() // 86_400
        days = [int(day) + n for n in range(DAYS)]
        await connection.execute("SELECT readings_make_days($1)", days)
        await connection.execute(
            "INSERT INTO rollup_marks (hour, agent_uuid) SELECT h, $1"
            " FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 h', '1 h') AS h",
            *(AGENT, START, START + timedelta(days=DAYS)),
        )
    for metric, step, rows in (("a.b/c, d", 20, count), ("daily", 86_400, DAYS)):
        await connection.execute(
            """
            INSERT INTO readings
                (time, agent_uuid, metric_name, value, quality, unit, protocol, extra)
            SELECT $1::timestamptz + n * $2 * interval '1 s', $3, $4, n, 'good', 'C', 'modbus',
                   '{"device_name": "d"}'
            FROM generate_series(0, $5 - 1) AS n
            """,
            *(START, step, AGENT, metric, rows),
        )
        await connection.execute(
            """
            INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time)
            VALUES ($1, 'd', $2, 'modbus', $3)
            """,
            *(AGENT, metric, START + timedelta(seconds=step * (rows - 1))),
        )
    await refresh(pool, connection, START + timedelta(days=DAYS + 1))
    return rest


async def ask(rest: Rest, **query: Any) -> Any:
    words = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
    answer = await rest.ask("GET", f"/api/v1/readings/{AGENT}/timeseries?{words}")
    assert answer.status == 200, answer.body
    return answer.body


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("hours", "limit", "resolution", "step_s"),
    [
        (240, 2, "daily", 14 * 86_400),
        (240, 10, "daily", 2 * 86_400),
        (240, 30, "1h", 43_200),
        (240, 1000, "1m", 900),
        (48, 1000, "1m", 180),
        (6, 1000, "raw", 30),
        (1, 1000, "raw", None),
    ],
)
async def test_a_range_is_answered_in_steps_that_fit(
    series: Rest, hours: int, limit: int, resolution: str, step_s: float | None
) -> None:
    end = START + timedelta(days=DAYS, seconds=-1)
    start = end + timedelta(seconds=1) - timedelta(hours=hours)
    body = await ask(
        series, metric="a.b/c, d", start=start.isoformat(), end=end.isoformat(), limit=limit
    )
    assert (body["resolution"], body["step_s"], body["cursor"]) == (resolution, step_s, None)
    rows = body["readings"]
    assert 0 < body["count"] == len(rows) <= limit
    times = [at(row["time"]) for row in rows]
    assert times == sorted(times, reverse=True)
    assert times[0] <= end
    assert {row["metric_name"] for row in rows} == {"a.b/c, d"}
    if step_s is None:
        assert [row["value"] for row in rows] == [float(n) for n in range(43_199, 43_199 - 180, -1)]
        return
    assert sum(row["sample_count"] for row in rows) >= hours * 180
    for row in rows:
        first, last = row["first_value"], row["last_value"]
        assert (row["min_value"], row["max_value"]) == (first, last)
        assert row["value"] == pytest.approx((first + last) / 2)
        assert row["sample_count"] == last - first + 1
        assert START + timedelta(seconds=20 * first) >= at(row["time"])
        assert (row["quality"], row["unit"], row["extra"]) == ("good", "C", {"device_name": "d"})


async def test_few_readings_are_given_as_they_are_however_long_the_range(series: Rest) -> None:
    body = await ask(series, metric="daily", start="2026-01-01", end="2026-06-01")
    assert (body["resolution"], body["count"]) == ("raw", DAYS)


@pytest.mark.parametrize(
    ("hours", "points", "resolution", "step_s"),
    [(240, 100, "1m", 146 * 60), (240, 25, "1h", 10 * 3600), (6, 500, "raw", 44)],
)
async def test_as_many_points_as_are_asked_for(
    series: Rest, hours: int, points: int, resolution: str, step_s: int
) -> None:
    """Instead of lengths that people read; the same level serves them."""
    end = START + timedelta(days=DAYS)
    start = end - timedelta(hours=hours)
    window = {"start": start.isoformat(), "end": (end - timedelta(seconds=1)).isoformat()}
    body = await ask(series, metric="a.b/c, d", points=points, limit=5, **window)
    assert (body["resolution"], body["step_s"], body["cursor"]) == (resolution, step_s, None)
    assert points * 0.9 <= body["count"] <= points
    whole = [row for row in body["readings"] if at(row["time"]) >= start]
    assert {row["sample_count"] for row in whole[1:]} <= {step_s // 20, step_s // 20 + 1}


@pytest.mark.parametrize("other", ["step=1h", "resolution=1h", "downsample=lttb", "cursor=x"])
async def test_points_go_with_nothing_that_says_the_same(series: Rest, other: str) -> None:
    path = f"/api/v1/readings/{AGENT}/timeseries?start=1d-ago&points=100&{other}"
    answer = await series.ask("GET", path)
    assert answer.status == 400
    assert f"points is given with {other.partition('=')[0]}" in answer.body["message"]
    answer = await series.ask("GET", f"/api/v1/readings/{AGENT}/timeseries?points=100")
    assert "parameter points needs start" in answer.body["message"]


@pytest.mark.parametrize("resolution", ["1m", "1h", "daily", "raw"])
async def test_pages_of_a_resolution_hold_every_row_once(series: Rest, resolution: str) -> None:
    window = {"start": "2026-03-02", "end": "2026-03-02T23:59:59Z", "resolution": resolution}
    rows: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        body = await ask(series, limit=997, **window, **cursor)
        rows += body["readings"]
        if body["cursor"] is None:
            break
        cursor = {"cursor": body["cursor"]}
    keys = [(row["time"], row["metric_name"]) for row in rows]
    assert len(set(keys)) == len(keys)
    expected = {"1m": 1440 + 1, "1h": 24 + 1, "daily": 2, "raw": 4320 + 1}
    assert len(rows) == expected[resolution]
    assert keys == sorted(keys, key=lambda key: (-at(key[0]).timestamp(), key[1]))


async def test_without_a_start_the_newest_are_found_wherever_they_are(series: Rest) -> None:
    body = await ask(series, metric="daily", limit=7)
    assert [row["value"] for row in body["readings"]] == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]
    body = await ask(series, metric="daily", limit=7, end="2026-03-05T12:00:00Z")
    assert [row["value"] for row in body["readings"]] == [4.0, 3.0, 2.0, 1.0, 0.0]
    body = await ask(series, limit=3)
    assert [(row["metric_name"], row["value"]) for row in body["readings"]] == [
        ("a.b/c, d", 43_199.0),
        ("a.b/c, d", 43_198.0),
        ("a.b/c, d", 43_197.0),
    ]


async def test_a_protocol_narrows_every_level(series: Rest) -> None:
    for resolution in ("raw", "1m", "1h", "daily"):
        found = await ask(
            series, start="2026-03-02", end="2026-03-03", resolution=resolution, protocol="opcua"
        )
        assert found["count"] == 0
