"""What `/timeseries` makes of steps, on both storage profiles: values, gaps, points for plots."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from tests.integration.test_rollups import has_marks, refresh
from tests.integration.test_series import AGENT, DAYS, START, ask, at, series
from tests.rest import Rest, open_rest

from iotistica.store.pool import Pool
from iotistica.streams import Streams

__all__ = ["series"]
METRIC = "a.b/c, d"
DAY = {"start": "2026-03-02", "end": "2026-03-02T23:59:59Z"}


async def test_the_value_of_a_step_is_what_is_asked_for(series: Rest) -> None:
    """A day of numbers 4320 to 8639."""
    expected = {
        "avg": 6479.5,
        "min": 4320,
        "max": 8639,
        "first": 4320,
        "last": 8639,
        "count": 4320,
        "sum": 4320 * 6479.5,
        "stddev": (4320 * 4321 / 12) ** 0.5,
    }
    for aggregate, value in expected.items():
        for more in ({"resolution": "daily"}, {"step": "1d"}):
            body = await ask(series, metric=METRIC, aggregate=aggregate, **more, **DAY)
            [row] = body["readings"]
            assert row["value"] == pytest.approx(value), aggregate
            assert row["sample_count"] == 4320
    # Few readings are steps all the same: a count of single readings would be none.
    body = await ask(
        series, metric="daily", aggregate="count", start="2026-03-01", end="2026-03-10"
    )
    assert body["step_s"] is not None
    assert sum(row["value"] for row in body["readings"]) == DAYS


@pytest.mark.parametrize(
    ("step", "resolution", "count"), [("90m", "1m", 16), ("6h", "1h", 4), ("12h", "1h", 2)]
)
async def test_steps_of_any_length(series: Rest, step: str, resolution: str, count: int) -> None:
    body = await ask(series, metric=METRIC, step=step, **DAY)
    assert (body["resolution"], body["count"]) == (resolution, count)
    assert [row["sample_count"] for row in body["readings"]] == [4320 // count] * count


@pytest.mark.parametrize(("how", "between"), [("null", None), ("previous", 1.0), ("linear", 1.5)])
async def test_gaps_are_filled(series: Rest, how: str, between: float | None) -> None:
    window = {"start": "2026-03-02", "end": "2026-03-03"}
    body = await ask(series, metric="daily", step="12h", fill=how, **window)
    assert [(row["time"], row["value"]) for row in body["readings"]] == [
        ("2026-03-03T00:00:00Z", 2.0),
        ("2026-03-02T12:00:00Z", between),
        ("2026-03-02T00:00:00Z", 1.0),
    ]
    assert [row["sample_count"] for row in body["readings"]] == [1, 0, 1]
    assert body["readings"][1]["quality_ratio"] is None
    # What is still to come is no gap.
    body = await ask(
        series, metric="daily", step="1d", fill=how, start="2026-03-02", end="2199-01-01"
    )
    assert at(body["readings"][0]["time"]).year < 2199


async def test_a_plot_has_the_points_that_look_like_all(series: Rest) -> None:
    """Readings that rise evenly, so the ends and the number are what can be told."""
    body = await ask(series, metric=METRIC, downsample="lttb", limit=50, **DAY)
    assert (body["resolution"], body["count"], body["cursor"]) == ("raw", 50, None)
    rows = body["readings"]
    assert (rows[0]["value"], rows[-1]["value"]) == (8639.0, 4320.0)
    times = [row["time"] for row in rows]
    assert times == sorted(times, reverse=True)
    # Of both metrics, as many points each.
    whole = {"start": "2026-03-01", "end": "2026-03-10T23:59:59Z"}
    body = await ask(series, downsample="lttb", limit=20, **whole)
    names = [row["metric_name"] for row in body["readings"]]
    assert {name: names.count(name) for name in names} == {METRIC: 10, "daily": 10}


async def test_a_plot_can_be_made_of_steps(series: Rest) -> None:
    more: dict[str, Any] = {"downsample": "lttb", "limit": 100, "aggregate": "max"}
    body = await ask(series, metric=METRIC, **more, **DAY)
    assert body["step_s"] is not None
    assert body["count"] == 100
    assert body["readings"][0]["value"] == 8639.0


async def test_a_plot_of_more_readings_than_one_may_look_at_is_made_of_steps(
    series: Rest, pool: Pool, streams: Streams, redis_url: str
) -> None:
    async with open_rest(
        pool, streams, series.tenant, redis_url=redis_url, query_plot_readings=1000
    ) as bounded:
        body = await ask(bounded, metric=METRIC, downsample="lttb", limit=100, **DAY)
        assert (body["resolution"], body["step_s"], body["count"]) == ("1m", 120, 100)
        path = (
            f"/api/v1/readings/{AGENT}/timeseries?downsample=lttb&resolution=raw&start=2026-03-02"
        )
        answer = await bounded.ask("GET", path)
        assert answer.status == 400
        assert "more than 1000 points" in answer.body["message"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"fill": "null", "resolution": "raw"}, "resolution=raw has single readings"),
        ({"aggregate": "max", "resolution": "raw"}, "parameter aggregate is for steps"),
        ({"fill": "null"}, "parameter fill needs start"),
        ({"aggregate": "max"}, "parameter aggregate needs start"),
        ({"downsample": "lttb"}, "parameter downsample needs start"),
        ({"step": "1h"}, "parameter step needs start"),
        ({"step": "0h", "start": "2026-03-01"}, "parameter step"),
        ({"step": "90s", "start": "2026-03-01"}, "the step is 90 s"),
        ({"step": "1h", "resolution": "1h", "start": "2026-03-01"}, "allowed is one of them"),
        ({"fill": "null", "downsample": "lttb", "start": "2026-03-01"}, "allowed is one of them"),
        ({"fill": "zero", "start": "2026-03-01"}, "parameter fill"),
        (
            {"downsample": "lttb", "resolution": "raw", "start": "2026-03-01", "cursor": "W10"},
            "cursor",
        ),
        ({"fill": "null", "resolution": "1m", "limit": 10, **DAY}, "more than"),
        ({"fill": "null", "step": "1h", "metric": "daily", "limit": 10, **DAY}, "more than limit"),
    ],
)
async def test_what_does_not_go_together_is_refused(
    series: Rest, query: dict[str, Any], message: str
) -> None:
    words = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
    answer = await series.ask("GET", f"/api/v1/readings/{AGENT}/timeseries?{words}")
    assert answer.status == 400, answer.body
    assert message in answer.body["message"]


async def test_times_beyond_the_calendar_are_no_error(series: Rest) -> None:
    for step in ("7d", "1h"):
        body = await ask(series, metric="daily", start="0001-01-01", end="9999-12-31", step=step)
        assert body["count"] == (3 if step == "7d" else DAYS)
    body = await ask(series, metric="daily", start="9000w-ago", end="now", aggregate="sum")
    assert sum(row["value"] for row in body["readings"]) == 45.0


async def test_values_too_large_for_an_average_leave_the_others_theirs(
    series: Rest, pool: Pool, connection: asyncpg.Connection
) -> None:
    """Some devices send the largest number there is for no value; rollups are made all the same."""
    day, huge = START + timedelta(days=DAYS + 5), 1.7976931348623157e308
    if await has_marks(connection):
        await connection.execute("SELECT readings_make_days($1)", [int(day.timestamp()) // 86_400])
        await connection.execute("INSERT INTO rollup_marks VALUES ($1, $2)", day, AGENT)
    await connection.executemany(
        """
        INSERT INTO readings (time, agent_uuid, metric_name, value, protocol)
        VALUES ($1, $2, 'huge', $3, 'can')
        """,
        [
            (day + timedelta(minutes=minute, seconds=second), AGENT, value)
            for minute, second, value in ((0, 0, 0.0), (0, 1, 4.0), (0, 2, huge), (9, 0, -huge))
        ],
    )

    async def asked(step: str) -> list[Any]:
        window = {"start": day.isoformat(), "end": (day + timedelta(hours=1)).isoformat()}
        return list((await ask(series, metric="huge", step=step, **window))["readings"])

    before = {step: await asked(step) for step in ("5s", "1m", "1h", "1d")}
    await refresh(pool, connection, day + timedelta(days=2))
    for step, rows in before.items():
        assert await asked(step) == rows
        assert sum(row["sample_count"] for row in rows) == 4
        assert rows[-1]["value"] == 2.0
        assert rows[-1]["max_value"] == huge
        assert rows[0]["min_value"] == rows[0]["last_value"] == -huge
    path, window = "/api/v1/readings/query", {"start": day.isoformat(), "end": "2026-03-31"}
    put = {"metric": "huge", "agent_uuids": [str(AGENT)], "downsample": "1m-max"}
    await connection.execute(
        "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time)"
        " VALUES ($1, '', 'huge', 'can', $2)",
        *(AGENT, day),
    )
    answer = await series.ask("POST", path, {**window, "queries": [put]})
    assert [point["value"] for point in answer.body["results"][0][0]["dps"]] == [huge, -huge]


async def test_sums_that_overflow_are_told(series: Rest, connection: asyncpg.Connection) -> None:
    day = START + timedelta(days=DAYS + 5)
    if await has_marks(connection):
        await connection.execute("SELECT readings_make_days($1)", [int(day.timestamp()) // 86_400])
        await connection.execute("INSERT INTO rollup_marks VALUES ($1, $2)", day, AGENT)
    for second, device in enumerate("xy"):
        await connection.execute(
            """
            INSERT INTO readings (time, agent_uuid, metric_name, value, protocol, extra)
            VALUES ($1, $2, 'daily', 1.7e308, 'can', jsonb_build_object('device_name', $3::text))
            """,
            *(day + timedelta(seconds=second), AGENT, device),
        )
    put = {
        "metric": "daily",
        "agent_uuids": [str(AGENT)],
        "downsample": "1m-max",
        "aggregator": "sum",
    }
    body = {"start": day.isoformat(), "end": "2026-03-31", "queries": [put]}
    answer = await series.ask("POST", "/api/v1/readings/query", body)
    assert answer.status == 400, answer.body
    assert "so large that they overflow" in answer.body["message"]
