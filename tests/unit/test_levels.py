"""Which level answers, and in what steps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from iotistica.series.levels import MOST_RAW, plan, plan_of_points

DAY = timedelta(days=1)
SPANS = [
    *(timedelta(seconds=seconds) for seconds in (500, 3599, 40_000)),
    *(timedelta(hours=hours) for hours in (5, 13, 47, 100, 1000)),
    *(timedelta(days=days) for days in (30, 100, 365, 366, 730, 3000)),
]


@pytest.mark.parametrize("points", [100, 499, 1000], ids=str)
@pytest.mark.parametrize("span", SPANS, ids=lambda span: f"{span.total_seconds():g}s")
def test_at_least_half_of_the_points_are_there(span: timedelta, points: int) -> None:
    """But for seconds, and for minutes where single readings are too many."""
    step = plan(span, points).step
    assert step is not None
    assert span <= points * step
    least = timedelta(minutes=1) if span > MOST_RAW else timedelta(seconds=1)
    assert step == least or 2 * span >= points * step


@pytest.mark.parametrize(
    ("days", "points", "hours", "level"),
    [(365, 499, 18, "1h"), (365, 365, 24, "daily"), (3660, 300, 12 * 24 + 24, "daily")],
)
def test_years_as_points_are_made_of_hours(days: int, points: int, hours: int, level: str) -> None:
    found = plan_of_points(points, days * DAY)
    assert (found.step, found.level) == (timedelta(hours=hours), level)


@pytest.mark.parametrize("points", [100, 499, 1000], ids=str)
@pytest.mark.parametrize("span", SPANS, ids=lambda span: f"{span.total_seconds():g}s")
def test_asked_for_by_number_most_of_the_points_are_there(span: timedelta, points: int) -> None:
    step = plan_of_points(points, span).step
    assert step is not None
    assert span <= points * step
    # Where the unit cannot be finer, each step is one.
    least = timedelta(minutes=1) if span > MOST_RAW else timedelta(seconds=1)
    assert span * 9 >= points * step * 8 or step <= 8 * least
