"""Filling steps in which nothing was read, by value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from iotistica.errors import BadRequest
from iotistica.series.fill import Fill, Grid, fill
from iotistica.series.levels import plan_of_step

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
GRID = Grid(since=START, until=START + 6 * MINUTE, step=MINUTE)
BLANK = {"sample_count": 0}


def row(minute: int, value: float | None, metric: str = "m") -> dict[str, Any]:
    return {
        "time": START + minute * MINUTE,
        "metric_name": metric,
        "protocol": "modbus",
        "unit": "C",
        "value": value,
        "sample_count": 1,
    }


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("null", [None, 2.0, None, None, 8.0, None]),
        ("previous", [None, 2.0, 2.0, 2.0, 8.0, 8.0]),
        ("linear", [None, 2.0, 4.0, 6.0, 8.0, None]),
    ],
)
def test_each_way_to_fill(how: Fill, expected: list[float | None]) -> None:
    rows = fill([row(4, 8.0), row(1, 2.0)], GRID, how, BLANK)
    assert [one["time"] for one in rows] == [START + n * MINUTE for n in (5, 4, 3, 2, 1, 0)]
    assert [one["value"] for one in rows][::-1] == [
        value if value is None else pytest.approx(value) for value in expected
    ]
    assert [one["sample_count"] for one in rows] == [0, 1, 0, 0, 1, 0]
    assert {(one["metric_name"], one["protocol"], one["unit"]) for one in rows} == {
        ("m", "modbus", "C")
    }


def test_a_step_whose_readings_have_no_value_stays_and_is_passed_over() -> None:
    rows = fill([row(4, 8.0), row(2, None), row(0, 0.0)], GRID, "linear", BLANK)
    assert [one["value"] for one in rows][::-1] == [0.0, 2.0, None, 6.0, 8.0, None]


def test_metrics_are_filled_apart_and_merged() -> None:
    grid = Grid(since=START, until=START + 2 * MINUTE, step=MINUTE)
    rows = fill([row(1, 5.0, "b"), row(0, 1.0, "a")], grid, "previous", BLANK)
    assert [(one["metric_name"], one["value"]) for one in rows] == [
        ("a", 1.0),
        ("b", 5.0),
        ("a", 1.0),
        ("b", None),
    ]


def test_lines_between_the_largest_numbers_do_not_overflow() -> None:
    rows = fill([row(2, 1.7e308), row(0, -1.7e308)], GRID, "linear", BLANK)
    assert [one["value"] for one in rows][4] == 0.0


def test_nothing_fills_nothing() -> None:
    assert fill([], GRID, "previous", BLANK) == []
    assert len(Grid(since=START, until=START - MINUTE, step=MINUTE)) == 0
    assert len(Grid(since=START, until=START + MINUTE / 2, step=MINUTE)) == 1


@pytest.mark.parametrize(
    ("step", "level"),
    [
        ("90 s", "raw"),
        ("15 m", "1m"),
        ("90 m", "1m"),
        ("2 h", "1h"),
        ("36 h", "1h"),
        ("7 d", "daily"),
    ],
)
def test_steps_are_made_of_the_longest_buckets_that_divide_them(step: str, level: str) -> None:
    number, unit = step.split()
    seconds = int(number) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[unit]
    plan = plan_of_step(timedelta(seconds=seconds), timedelta(hours=2))
    assert (plan.level, plan.step) == (level, timedelta(seconds=seconds))


def test_steps_of_seconds_over_long_ranges_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"the step is 90 s.* at most 12 hours"):
        plan_of_step(timedelta(seconds=90), timedelta(days=2))
