"""Rates of change, by value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from iotistica.series.rates import Counter, rates

START = datetime(2026, 3, 1, tzinfo=UTC)
VALUES = [10.0, 30.0, 5.0, 15.0]


def points(values: list[float]) -> list[tuple[datetime, float]]:
    return [(START + n * timedelta(seconds=10), value) for n, value in enumerate(values)]


@pytest.mark.parametrize(
    ("counter", "expected"),
    [
        (Counter(), [2.0, -2.5, 1.0]),
        (Counter(is_counter=True), [2.0, 0.5, 1.0]),
        (Counter(is_counter=True, most=100.0), [2.0, 7.5, 1.0]),
        (Counter(is_counter=True, most=100.0, reset=5.0), [2.0, 0.0, 1.0]),
        (Counter(reset=1.5), [0.0, -2.5, 1.0]),
    ],
)
def test_a_fall_is_read_as_told(counter: Counter, expected: list[float]) -> None:
    found = rates(points(VALUES), counter)
    assert [time for time, _ in found] == [time for time, _ in points(VALUES)[1:]]
    assert [rate for _, rate in found] == pytest.approx(expected)


def test_one_point_has_no_rate() -> None:
    assert rates(points([1.0]), Counter()) == rates([], Counter()) == []
