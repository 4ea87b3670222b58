"""The loss ledger: names of its counters. Pure.

One hash for each tenant in Redis counts, for each agent, what became of its messages. What counts
changes with the stream in one transaction, so at any moment, for each agent:

    accepted = settled + spooled + messages in the live and the backfill stream, and parked
    readings = stored + duplicate + collided + redelivered + dropped + sum of rejected:{reason}
"""

from __future__ import annotations

import re
from collections.abc import Mapping

EPOCH = "epoch"
"""Field of the hash that names it: an id made when the hash first had none. As it vanishes with
the data of Redis, another one says that they were lost."""

ACCEPTED = "accepted"
"""Messages that Redis took."""
SETTLED = "settled"
"""Messages that are done: their rows are committed, or their dead letter is written."""
SPOOLED = "spooled"
"""Messages that wait in the disk spool of ingestion."""
REFUSED = "refused"
"""By reason: settled messages that could not be decoded as far as their readings."""

READINGS = "readings"
"""Readings of the settled messages."""
STORED = "stored"
"""Rows inserted."""
DUPLICATE = "duplicate"
"""Readings whose key was in the table or in the same batch already."""
COLLIDED = "collided"
"""Readings that share the key of a reading of another device in the same batch."""
REDELIVERED = "redelivered"
"""Readings that were in the table already when their message came again: as a rule it was this very
message that had stored them, before a crash."""
DROPPED = "dropped"
"""Readings without content, such as metadata nodes."""
REJECTED = "rejected"
"""By reason: readings that can never pass."""
LATE = "late"
"""Readings, of those above, that came by way of the backfill stream."""

NOBODY = ""
"""In the place of an agent, for messages whose agent cannot be told."""

Counts = Mapping[str, int]
"""Counters of one agent, by name: `stored`, or with its reason, `rejected:too_old`."""

OUTCOMES = (STORED, DUPLICATE, COLLIDED, REDELIVERED, DROPPED, REJECTED)
"""What becomes of a reading: one of these."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def agent_of(identifier: str) -> str:
    """An agent as the ledger names it: its UUID, else `NOBODY`."""
    return identifier if _UUID.fullmatch(identifier) else NOBODY


def field(agent: str, counter: str, reason: str = "") -> str:
    """Field of the hash, `{agent}|{counter}` or `{agent}|{counter}:{reason}`."""
    return f"{agent}|{counter}:{reason}" if reason else f"{agent}|{counter}"


def parse(name: str) -> tuple[str, str, str]:
    """Agent, counter and reason of a field."""
    agent, _, counter = name.rpartition("|")
    counter, _, reason = counter.partition(":")
    return agent, counter, reason


def count(counts: Counts, counter: str) -> int:
    """A counter, summed over its reasons."""
    prefix = f"{counter}:"
    return counts.get(counter, 0) + sum(
        number for name, number in counts.items() if name.startswith(prefix)
    )


def reasons(counts: Counts, counter: str) -> dict[str, int]:
    """A counter by its reasons, the most frequent first."""
    found = [(name.partition(":"), number) for name, number in counts.items()]
    named = {parts[2]: number for parts, number in found if parts[0] == counter and parts[2]}
    return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))


def added(*several: Counts) -> dict[str, int]:
    """The sum of counters."""
    total: dict[str, int] = {}
    for counts in several:
        for name, number in counts.items():
            total[name] = total.get(name, 0) + number
    return total
