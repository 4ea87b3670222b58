"""The part of a series that a query asks for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from iotistica.errors import BadRequest

# A client that does not encode the + of a zone sends a space.
_LOST_PLUS = re.compile(r"(T.*) (\d\d:?\d\d)$")


@dataclass(frozen=True, slots=True)
class Window:
    """Newest `limit` readings of `start <= time <= end`; None is without bound."""

    start: datetime | None
    end: datetime | None
    limit: int


def between(start: str | None, end: str | None, limit: int) -> Window:
    """The window between two ISO 8601 times. Raises `BadRequest` naming parameter and value."""
    first = None if start is None else moment("start", start)
    last = None if end is None else moment("end", end)
    if first is not None and last is not None and first > last:
        raise BadRequest(f"parameter start ({first.isoformat()}) is after end ({last.isoformat()})")
    return Window(first, last, limit)


def moment(name: str, text: str) -> datetime:
    """An ISO 8601 time; without zone it is UTC. Raises `BadRequest` naming the parameter."""
    try:
        given = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"parameter {name} is {text[:64]!r}; allowed is an ISO 8601 time "
            "such as 2026-01-31T12:00:00Z"
        ) from None
