"""What one agent measures: the value and quality of each of its metrics at any time."""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator

from iotistica.simulator.protocols import (
    DOUBTFUL_SLOTS,
    NOISE,
    POINTS,
    PROTOCOLS,
    QUALITY_CYCLE,
    STEP_US,
    Protocol,
    curve,
)


class State(enum.IntEnum):
    """Health of a sample: a bad one carries no value."""

    BAD = 0
    DOUBTFUL = 1
    GOOD = 2


class Series:
    """All series of one agent. Pure: the same agent gives the same values for the same time."""

    __slots__ = ("_curves", "_phase", "protocol")

    def __init__(self, agent: str, index: int) -> None:
        self.protocol: Protocol = PROTOCOLS[index % len(PROTOCOLS)]
        self._phase = random.Random(agent).randrange(POINTS)  # noqa: S311
        self._curves = [curve(self.protocol.name, m.name) for m in self.protocol.metrics]

    @property
    def metrics(self) -> Iterator[str]:
        """Names of the metrics, in the order of `values`."""
        return (metric.name for metric in self.protocol.metrics)

    def sample(self, time_us: int) -> tuple[State, list[float | None]]:
        """Health and values of all metrics at a time; a bad sample has no values."""
        slot = time_us // 1000 + self._phase
        state = slot % QUALITY_CYCLE
        if state == 0:
            return State.BAD, [None] * len(self._curves)
        point, wobble = (time_us // STEP_US + self._phase) % POINTS, slot % NOISE
        return State.DOUBTFUL if state <= DOUBTFUL_SLOTS else State.GOOD, [
            (day[point] + noise[wobble]) / 100 for day, noise in self._curves
        ]

    def value(self, metric: int, time_us: int) -> float | None:
        """One of the values of `sample`."""
        slot = time_us // 1000 + self._phase
        if slot % QUALITY_CYCLE == 0:
            return None
        day, noise = self._curves[metric]
        point = (time_us // STEP_US + self._phase) % POINTS
        return (day[point] + noise[slot % NOISE]) / 100
