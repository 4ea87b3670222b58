"""The part of a series that a query asks for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from iotistica.api.http import Request
from iotistica.errors import BadRequest

DEFAULT_LIMIT, MAX_LIMIT = 1000, 10_000

# A client that does not encode the + of a zone sends a space.
_LOST_PLUS = re.compile(r"(T.*) (\d\d:?\d\d)$")


@dataclass(frozen=True, slots=True)
class Window:
    """Newest `limit` readings of `start <= time <= end`; None is without bound."""

    start: datetime | None
    end: datetime | None
    limit: int


def parse(request: Request) -> Window:
    """Parameters start, end and limit. Raises `BadRequest` naming parameter, value and rule."""
    start, end = _time(request, "start"), _time(request, "end")
    if start is not None and end is not None and start > end:
        raise BadRequest(f"parameter start ({start.isoformat()}) is after end ({end.isoformat()})")
    return Window(start, end, _limit(request))


def _time(request: Request, name: str) -> datetime | None:
    text = request.parameter(name)
    return None if text is None else moment(name, text)


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


def _limit(request: Request) -> int:
    text = request.parameter("limit")
    if text is None:
        return DEFAULT_LIMIT
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise BadRequest(
            f"parameter limit is {text[:64]!r}; allowed is a whole number from 1 to {MAX_LIMIT}"
        )
    return int(text)
