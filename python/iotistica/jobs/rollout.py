"""How many more agents may have a job now, and whether too many failed. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_MAX_RATE = 1_000_000.0
_FIRST_CREDIT = 1.0
"""One agent begins at once, however low the rate is."""

_MAX_PAUSE_S = 60.0
"""Time for which a rollout that nobody moved on is made up: never more than a minute at once."""

Rate = Annotated[float, Meta(gt=0, le=_MAX_RATE)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class Rollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Agents a minute: base * factor ^ (succeeded // every), at most the ceiling."""

    base_rate_per_minute: Rate
    maximum_per_minute: Rate = _MAX_RATE
    increment_factor: Annotated[float, Meta(ge=1, le=100)] = 1.0
    increase_every_succeeded: Count = 10
    """So many successes multiply the rate once."""

    def rate(self, succeeded: int) -> float:
        """Agents a minute after so many successes."""
        steps = succeeded // self.increase_every_succeeded
        grown = math.log(self.base_rate_per_minute) + steps * math.log(self.increment_factor)
        # The power itself may be too large for a float.
        ceiling = self.maximum_per_minute
        return ceiling if grown >= math.log(ceiling) else math.exp(grown)


class AbortRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The job is given up where this share of the agents that are done ended so."""

    failure_type: Literal["FAILED", "TIMED_OUT", "REJECTED", "ALL"] = "ALL"
    threshold_percent: Annotated[float, Meta(gt=0, le=100)]
    min_executed: Count = 1
    """Before so many agents are done nothing is decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Agents of a job by where they stand."""

    waiting: int = 0
    """For the rollout to come to them."""
    queued: int = 0
    in_progress: int = 0
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    rejected: int = 0
    canceled: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.queued + self.in_progress + self.executed + self.canceled

    @property
    def executed(self) -> int:
        """Those that came to an end of their own."""
        return self.succeeded + self.failed + self.timed_out + self.rejected

    def failures(self, kind: str) -> int:
        """How many ended in failure of a kind, or of any."""
        by_kind = {
            "FAILED": self.failed,
            "TIMED_OUT": self.timed_out,
            "REJECTED": self.rejected,
        }
        return by_kind.get(kind, self.executed - self.succeeded)


@dataclass(frozen=True, slots=True)
class Pace:
    """When a rollout was last moved on, and the part of an agent that was left then."""

    at: datetime | None = None
    credit: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done now: let so many more agents have it, or give it up."""

    release: int
    pace: Pace
    abort: str | None = None
    """Why it is given up."""


def decide(
    rollout: Rollout | None,
    rules: Sequence[AbortRule],
    counts: Counts,
    pace: Pace,
    now: datetime,
) -> Decision:
    """The next step of a job. Without a rollout all agents may have it at once."""
    reason = next((why for rule in rules if (why := _broken(rule, counts)) is not None), None)
    if reason is not None:
        return Decision(0, pace, reason)
    if rollout is None:
        return Decision(counts.waiting, pace)
    if pace.at is None:
        credit = _FIRST_CREDIT
    else:
        passed_s = min(max((now - pace.at).total_seconds(), 0.0), _MAX_PAUSE_S)
        credit = pace.credit + passed_s * rollout.rate(counts.succeeded) / 60
    # What rounding took from a whole agent is given back.
    release = min(math.floor(credit + 1e-9), counts.waiting)
    return Decision(release, Pace(now, min(max(credit - release, 0.0), 1.0)))


def _broken(rule: AbortRule, counts: Counts) -> str | None:
    failures = counts.failures(rule.failure_type)
    if counts.executed < rule.min_executed:
        return None
    # No division: a share that is met exactly must count.
    if failures * 100 < rule.threshold_percent * counts.executed:
        return None
    what = "failed, timed out or refused" if rule.failure_type == "ALL" else rule.failure_type
    return (
        f"{failures} of {counts.executed} agents that are done: {what};"
        f" the limit is {rule.threshold_percent:g} %"
    )
