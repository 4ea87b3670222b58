"""Which level of the rollups answers a question, and in what steps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from iotistica.errors import BadRequest

Resolution: TypeAlias = Literal["auto", "raw", "1m", "1h", "daily"]
Level: TypeAlias = Literal["raw", "1m", "1h", "daily"]

ORIGIN = datetime(1970, 1, 5, tzinfo=UTC)
"""A Monday: where steps of every length begin, so that steps of weeks are weeks."""

WIDTHS: dict[Level, timedelta] = {
    "raw": timedelta(0),
    "1m": timedelta(minutes=1),
    "1h": timedelta(hours=1),
    "daily": timedelta(days=1),
}
_LEVELS: tuple[Level, ...] = ("raw", "1m", "1h", "daily")
_SECOND = timedelta(seconds=1)
_PARTS = 8
# Lengths that people read, each a multiple of the level that it is made of, none more than twice
# the one before: at least half of the points that are asked for are there.
_STEPS = tuple(
    timedelta(seconds=seconds)
    for seconds in (
        *(1, 2, 3, 5, 10, 15, 20, 30),
        *(minutes * 60 for minutes in (1, 2, 3, 5, 10, 15, 20, 30)),
        *(hours * 3600 for hours in (1, 2, 3, 4, 6, 8, 12)),
        *(days * 86_400 for days in (1, 2, 4, 7, 14, 28)),
    )
)
MOST_RAW = timedelta(hours=12)
"""Ranges beyond it are never answered from raw rows, unless told: at 1 Hz that is 43,200 rows."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the answer comes from."""

    level: Level
    step: timedelta | None
    """Width of the buckets; None for single readings."""


def plan(
    span: timedelta,
    points: int,
    *,
    resolution: Resolution = "auto",
    cut: Collection[str] = (),
) -> Plan:
    """Steps for a range, of which there are at most `points`, where the caller does not tell.

    A resolution that is asked for is given: one bucket of that level to a step, or single readings.
    Else levels that are `cut`, because retention removed a part of the range, leave it to coarser
    ones.
    """
    if resolution == "raw":
        return Plan("raw", None)
    if resolution != "auto":
        return Plan(resolution, WIDTHS[resolution])
    step = next((one for one in _STEPS if one * points >= span), None)
    if step is None:
        days = -(-span // (points * WIDTHS["daily"]))
        step = days * WIDTHS["daily"]
    level = _level(step)
    if level == "raw" and span > MOST_RAW:
        level = "1m"
    while level in cut and level != "daily":
        level = _LEVELS[_LEVELS.index(level) + 1]
    return Plan(level, max(step, WIDTHS[level]))


def plan_of_step(step: timedelta, span: timedelta) -> Plan:
    """Steps of a given length. Raises `BadRequest` where they cannot be made for such a range."""
    level = max(
        (name for name, width in WIDTHS.items() if not width or not step % width),
        key=WIDTHS.__getitem__,
    )
    if level == "raw" and span > MOST_RAW + _SECOND:
        raise BadRequest(
            f"the step is {step.total_seconds():g} s: steps that are no whole minutes are made of "
            f"single readings, for at most {MOST_RAW.total_seconds() / 3600:g} hours"
        )
    return Plan(level, step)


def plan_of_points(points: int, span: timedelta) -> Plan:
    """As many steps as there may be, of whole days, hours, minutes or seconds.

    Of the longest of these that are at most an eighth of a step, so that little is lost by rounding
    up, and years are still made of hours.
    """
    units = (*reversed(WIDTHS.values()),)
    exact = span / points
    unit = next((one for one in units if one and one * _PARTS <= exact), _SECOND)
    if span > MOST_RAW:
        unit = max(unit, WIDTHS["1m"])
    return plan_of_step(max(-(-exact // unit), 1) * unit, span)


def _level(step: timedelta) -> Level:
    """The coarsest level that steps of this width can be made of."""
    return max((name for name, width in WIDTHS.items() if width <= step), key=WIDTHS.__getitem__)


def floor(at: datetime, step: timedelta) -> datetime:
    """Start of the step that holds a time."""
    return ORIGIN + (at - ORIGIN) // step * step


def ceiling(at: datetime, step: timedelta) -> datetime:
    """The first start of a step that is not before a time."""
    start = floor(at, step)
    return start if start == at else start + step
