"""What to do about a series, from what is seen of it and what is known. Pure.

An alert is opened by a value that raises it, and resolved when values have not held it for a while.
A series that opened several alerts within the hour is flapping: its next alert stays open until the
series has been clear for a quarter of an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from iotistica.alerting.rule import Band

FLAPS = 3
"""Alerts of a series within the window that make it flap."""
FLAP_WINDOW = timedelta(hours=1)
FLAP_HOLD = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a rule says about a series."""

    band: Band
    held_for: timedelta = timedelta()
    clear_for: timedelta = timedelta()
    max_age: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of a series now."""

    value: float | None
    """None where it cannot be told."""
    at: datetime
    since: datetime | None = None
    """Since when it has been outside without a break, as far as readings tell."""


@dataclass(frozen=True, slots=True)
class Standing:
    """An alert that is not resolved."""

    cleared_since: datetime | None = None
    flapping: bool = False


class Verb(Enum):
    """What happens to the alert of a series."""

    OPEN = "opened"
    KEEP = "kept"
    RESOLVE = "resolved"


@dataclass(frozen=True, slots=True)
class Step:
    """What to do; for `KEEP`, since when the alert has been clear."""

    verb: Verb
    cleared_since: datetime | None = None
    flapping: bool = False


def decide(
    policy: Policy, seen: Seen, standing: Standing | None, *, now: datetime, recent: int = 0
) -> Step | None:
    """What to do about a series; None is nothing.

    `recent` is how many alerts it opened within `FLAP_WINDOW`.
    """
    if standing is None:
        return _opened(policy, seen, now, recent)
    if seen.value is None:
        return None
    if policy.band.holds(seen.value):
        return Step(Verb.KEEP, None, standing.flapping)
    since = standing.cleared_since or now
    hold = max(policy.clear_for, FLAP_HOLD) if standing.flapping else policy.clear_for
    if now - since >= hold:
        return Step(Verb.RESOLVE, since, standing.flapping)
    return Step(Verb.KEEP, since, standing.flapping)


def _opened(policy: Policy, seen: Seen, now: datetime, recent: int) -> Step | None:
    if seen.value is None or not policy.band.raises(seen.value):
        return None
    # A device whose clock is ahead is not from the future.
    since = min(seen.since or seen.at, now)
    if now - seen.at > policy.max_age or now - since < policy.held_for:
        return None
    return Step(Verb.OPEN, None, recent >= FLAPS)
