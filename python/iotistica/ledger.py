"""The loss ledger: names of its counters. Pure.

One hash for each tenant in Redis counts, for each agent, what became of its messages. What counts
changes with the stream in one transaction, so at any moment, for each agent:

    accepted = settled + spooled + messages in the live and the backfill stream
    readings = stored + duplicate + collided + redelivered + dropped + sum of rejected:{reason}
"""

from __future__ import annotations

import re

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


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def agent_of(identifier: str) -> str:
    """An agent as the ledger names it: its UUID, else `NOBODY`."""
    return identifier if _UUID.fullmatch(identifier) else NOBODY


def field(agent: str, counter: str, reason: str = "") -> str:
    """Field of the hash, `{agent}|{counter}` or `{agent}|{counter}:{reason}`."""
    return f"{agent}|{counter}:{reason}" if reason else f"{agent}|{counter}"


def parse(name: str) -> tuple[str, str, str]:
    """Agent, counter and reason of a field."""
    agent, _, counter = name.partition("|")
    counter, _, reason = counter.partition(":")
    return agent, counter, reason
