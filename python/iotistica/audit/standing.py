"""One reading of a tenant's ledger, reduced to what the equations ask of each agent. Pure.

A tenant may have a hundred thousand agents with a dozen counters each: an array of machine integers
for each agent is a tenth of what a dictionary would be.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from iotistica import ledger


class Sums(NamedTuple):
    """Counters of one agent, without the reasons."""

    accepted: int = 0
    settled: int = 0
    spooled: int = 0
    readings: int = 0
    outcomes: int = 0
    """Readings of which it is known what became of them."""
    stored: int = 0
    redelivered: int = 0

    @property
    def left(self) -> int:
        """Messages that left the streams."""
        return self.settled + self.spooled


_NOTHING = Sums()
_ZEROS = array("q", _NOTHING)
_OUTCOMES = frozenset(ledger.OUTCOMES)


def _places(counter: str) -> tuple[int, ...]:
    """Where a counter is added."""
    name = counter.partition(":")[0]
    found = [Sums._fields.index(name)] if name in Sums._fields else []
    return tuple(found + [Sums._fields.index("outcomes")] * (name in _OUTCOMES))


class Standing:
    """The sums of all agents, and the counters of all of them together."""

    def __init__(self) -> None:
        self.total: dict[str, int] = {}
        self._agents: dict[str, array[int]] = {}
        self._places: dict[str, tuple[int, ...]] = {}

    def add(self, counters: Iterable[tuple[str, str, int]]) -> None:
        """Take in agent, counter and number, each once."""
        for agent, counter, number in counters:
            self.total[counter] = self.total.get(counter, 0) + number
            numbers = self._agents.get(agent)
            if numbers is None:
                numbers = self._agents[agent] = _ZEROS[:]
            places = self._places.get(counter)
            if places is None:
                places = self._places[counter] = _places(counter)
            for place in places:
                numbers[place] += number

    def __iter__(self) -> Iterator[str]:
        return iter(self._agents)

    def of(self, agent: str) -> Sums:
        """The sums of an agent; zeros for one that is unknown."""
        numbers = self._agents.get(agent)
        return _NOTHING if numbers is None else Sums(*numbers)
