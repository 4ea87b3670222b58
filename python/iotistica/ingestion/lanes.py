"""What one process knows about each lane."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from iotistica.backoff import Backoff
from iotistica.ingestion.pace import Pace
from iotistica.ingestion.scheduler import LaneKey
from iotistica.ingestion.station import Lane
from iotistica.streams import FIRST, GroupDepth


class Phase(enum.Enum):
    """Where a lane stands."""

    IDLE = enum.auto()
    """Redis tells when it gets something."""
    DUE = enum.auto()
    """To be looked at in the next survey."""
    QUEUED = enum.auto()
    """Has entries, and waits for its turn."""
    READING = enum.auto()
    RESTING = enum.auto()
    """Left alone for a while: it failed, or has enough in hand."""


@dataclass(slots=True, eq=False, kw_only=True)
class LaneState:
    """One lane, and how it goes."""

    lane: Lane
    pace: Pace
    phase: Phase = Phase.DUE
    queued_at: float = 0.0
    in_hand: set[bytes] = field(default_factory=set)
    unfinished: int = 0
    rest_until: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)
    futile: Backoff = field(default_factory=lambda: Backoff(first_s=0.02, most_s=0.25))
    """Pauses after turns that brought nothing."""

    depth: GroupDepth | None = None
    """At the last survey; None until the group is there."""
    looked_at_ms: float = 0.0
    """Time of the last survey, by the clock of Redis."""

    claims: bool = False
    """Whether the next turn looks for entries of the dead."""
    claims_from: bytes = FIRST
    next_claim: float = 0.0

    @property
    def key(self) -> LaneKey:
        """Tenant and feed."""
        return self.lane.tenant, self.lane.feed

    @property
    def feed(self) -> str:
        """Name of the feed in metrics."""
        return self.lane.feed.name.lower()

    def look(self, depth: GroupDepth, at_ms: float, claim_period_s: float) -> bool:
        """Take a survey into account; whether there is something to read."""
        self.depth, self.looked_at_ms = depth, at_ms
        if depth.pending > len(self.in_hand) and time.monotonic() >= self.next_claim:
            self.claims = True
            self.next_claim = time.monotonic() + claim_period_s
        return self.claims or depth.lag > 0

    def has_few(self, readings: int) -> bool:
        """Whether the lane has nothing in hand, and at most so many readings to read."""
        if self.claims or self.in_hand or self.depth is None:
            return False
        return self.depth.lag <= self.pace.entries_for(readings)

    def at_most_lost(self) -> int:
        """How many entries are gone, at the most, if the stream is gone now.

        Those in hand are safe. What came after the last survey is not known.
        """
        if self.depth is None:
            return 0
        safe = sum(id_ms(entry_id) <= self.looked_at_ms for entry_id in self.in_hand)
        return max(self.depth.entries - safe, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A consumer group that was gone and is made again; entries may have gone with it."""

    tenant: str
    feed: str
    lost_at: datetime
    entries_at_most: int
    """Of those that were there at the last survey."""

    def describe(self) -> dict[str, Any]:
        """As `/health` shows it."""
        return {
            "tenant": self.tenant,
            "feed": self.feed,
            "lost_at": self.lost_at.isoformat(timespec="milliseconds"),
            "entries_at_most": self.entries_at_most,
        }


def id_ms(entry_id: bytes) -> int:
    """When Redis accepted an entry, by its clock."""
    return int(entry_id.partition(b"-")[0])
