"""What Grafana asks, and series as it draws them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from iotistica.api import panels
from iotistica.api.models.grafana import PanelQuery
from iotistica.errors import BadRequest

START = datetime(2026, 3, 2, tzinfo=UTC)
STEP = timedelta(minutes=5)


def drawn(*steps: int) -> list[tuple[int, float | None]]:
    """Numbers of the steps of a series that has these, with those that the line ends at."""
    series = [(START + number * STEP, float(number)) for number in steps]
    return [((time - START) // STEP, value) for time, value in panels.with_gaps(series, STEP)]


def test_the_line_ends_where_steps_are_missing() -> None:
    assert drawn(0, 1, 2, 5, 6) == [(0, 0), (1, 1), (2, 2), (3, None), (5, 5), (6, 6)]


def test_what_is_read_rarely_is_a_line_as_well() -> None:
    assert drawn(0, 3, 6, 9, 12) == [(0, 0), (3, 3), (6, 6), (9, 9), (12, 12)]
    assert drawn(0, 3, 6, 9, 16)[-2:] == [(10, None), (16, 16)]


def test_single_readings_have_no_gaps() -> None:
    series = [(START, 1.0), (START + STEP, 2.0), (START + 2 * STEP, 3.0), (START + 99 * STEP, 4.0)]
    assert panels.with_gaps(series, None) == series


@pytest.mark.parametrize(
    ("most", "interval_ms", "expected"),
    [(500, None, 500), (500, 1, 500), (500, 3_600_000, 24), (500, 1e13, 1), (None, None, 1000)],
)
def test_points_that_there_is_room_for(
    most: float | None, interval_ms: float | None, expected: int
) -> None:
    body = {"range": {"from": "1d-ago", "to": "now"}, "targets": []}
    query = msgspec.convert(
        {**body, "maxDataPoints": most, "intervalMs": interval_ms}, type=PanelQuery
    )
    assert panels.points(query, timedelta(days=1)) == expected


def test_names_that_variables_were_put_into() -> None:
    assert panels.names("temperature") == ["temperature"]
    assert panels.names("") == []
    assert panels.names("(a|b)") == ["(a|b)", "a", "b"]
    assert panels.names([r"a\|b", "c"]) == [r"a\|b", "a|b", "c"]
    assert panels.names(r"(line\/speed|x\(y\))") == [r"(line\/speed|x\(y\))", "line/speed", "x(y)"]


def test_too_many_metrics_of_one_panel() -> None:
    several = "(" + "|".join(f"m{number}" for number in range(200)) + ")"
    query = msgspec.convert(
        {"range": {"from": "1d-ago", "to": "now"}, "targets": [{"target": several}]}, PanelQuery
    )
    with pytest.raises(BadRequest, match="field targets asks for 201 metrics"):
        panels.asked(query)
