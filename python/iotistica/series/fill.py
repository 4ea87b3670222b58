"""Steps in which nothing was read: left out, or filled. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

Fill: TypeAlias = Literal["none", "null", "previous", "linear"]

Step: TypeAlias = Mapping[str, Any]
"""One step of a series: at least `time`, `metric_name` and `value`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The steps that there should be: from `since`, before `until`."""

    since: datetime
    until: datetime
    step: timedelta

    def __len__(self) -> int:
        return max(-((self.since - self.until) // self.step), 0)

    def times(self) -> list[datetime]:
        """Starts of the steps, ascending."""
        return [self.since + number * self.step for number in range(len(self))]


def fill(rows: Sequence[Step], grid: Grid, how: Fill, blank: Step) -> list[Step]:
    """The rows and, for each metric among them, a row for each step that has none.

    These are `blank` with a value: none, that of the step before, or one on the line between the
    steps around; none where there is no such step in the window. In the order of rows: the newest
    first, then by metric.
    """
    series: dict[str, list[Step]] = {}
    for row in reversed(rows):
        series.setdefault(row["metric_name"], []).append(row)
    filled = [step for own in series.values() for step in _fill(own, grid, how, blank)]
    # Twice, as the one order descends.
    filled.sort(key=lambda row: str(row["metric_name"]))
    filled.sort(key=lambda row: row["time"], reverse=True)
    return filled


def _fill(own: list[Step], grid: Grid, how: Fill, blank: Step) -> list[Step]:
    there = {row["time"]: row for row in own}
    known = [row for row in own if row["value"] is not None]
    times = [row["time"] for row in known]
    same = {name: own[-1][name] for name in ("metric_name", "protocol", "unit")}
    filled: list[Step] = []
    for time in grid.times():
        row = there.get(time)
        if row is None:
            value = _value(known, time, bisect_left(times, time), how)
            row = {**blank, **same, "time": time, "value": value}
        filled.append(row)
    return filled


def _value(known: list[Step], time: datetime, after: int, how: Fill) -> float | None:
    """By the steps that have a value, of which that at `after` is the first later one."""
    if how == "null" or not after:
        return None
    before = known[after - 1]
    first = float(before["value"])
    if how == "previous":
        return first
    if after == len(known):
        return None
    behind = known[after]
    share: float = (time - before["time"]) / (behind["time"] - before["time"])
    # So weighted, large values of opposite signs do not overflow.
    return first * (1 - share) + float(behind["value"]) * share
