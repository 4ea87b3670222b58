"""What an agent's messages do to the dictionaries that are kept of it. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from iotistica.dictionaries.delta import Delta, Gap, extend
from iotistica.dictionaries.dictionary import Dictionary


class Arrival(enum.Enum):
    """How a full dictionary came."""

    FRESH = enum.auto()
    """The agent published it just now: this is its dictionary, whatever it had before."""
    RETAINED = enum.auto()
    """The broker keeps it and sent it once more; deltas may have followed it long ago."""
    LATE = enum.auto()
    """It lay among the dead letters."""


@dataclass(slots=True)
class Shelf:
    """The dictionaries of one agent. An agent that was reset counts from 1 again, so a version
    alone names none of them."""

    current: Dictionary | None = None
    known: set[bytes] = field(default_factory=set)
    """Digests of all that are kept."""
    full: bytes | None = None
    """Digest of the last one that came as a whole."""
    learned: list[Dictionary] = field(default_factory=list)
    """To be kept, the current one last; one that is kept already moves to the end."""

    def put(self, dictionary: Dictionary, arrival: Arrival) -> None:
        """Take a full dictionary."""
        digest = dictionary.digest
        if arrival is Arrival.RETAINED and (digest == self.full or digest in self.known):
            return
        if arrival is Arrival.LATE and self.current is not None:
            if self.current.version >= dictionary.version:
                if digest not in self.known:
                    self.learned += (dictionary, self.current)
                return
        else:
            self.full = digest
        self._learn(dictionary)

    def extend(self, delta: Delta) -> None:
        """Take a delta; one that is not newer changes nothing. Raises `Gap`, `BadRequest`."""
        if self.current is None:
            raise Gap("no dictionary of the agent is known that the delta could extend")
        if delta.version > self.current.version:
            self._learn(extend(self.current, delta))

    def _learn(self, dictionary: Dictionary) -> None:
        if self.current is None or self.current.digest != dictionary.digest:
            self.current = dictionary
            self.learned.append(dictionary)
