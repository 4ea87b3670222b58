"""How fast a series changes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TypeAlias

Point: TypeAlias = tuple[datetime, float]


@dataclass(frozen=True, slots=True)
class Counter:
    """How a fall is read."""

    is_counter: bool = False
    most: float | None = None
    """After which it goes on at 0; None where it falls only as it begins anew."""
    reset: float | None = None
    """A rate beyond it is no rate."""


def rates(points: Sequence[Point], counter: Counter) -> list[Point]:
    """Change a second between each point and the one before; points ascend in time."""
    return [
        (time, _rate(value - earlier, value, (time - before).total_seconds(), counter))
        for (before, earlier), (time, value) in pairwise(points)
    ]


def _rate(change: float, value: float, seconds: float, counter: Counter) -> float:
    if counter.is_counter and change < 0:
        change = value if counter.most is None else change + counter.most
    rate = change / seconds
    return 0.0 if counter.reset is not None and rate > counter.reset else rate
