"""Times as parameters of queries. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from iotistica.errors import BadRequest

# A client that does not encode the + of a zone sends a space.
_LOST_PLUS = re.compile(r"(T.*) (\d\d:?\d\d)$")
_AGO = re.compile(r"(\d{1,6})(s|m|h|d|w)-ago")
_SPAN = re.compile(r"([1-9]\d{0,5})(s|m|h|d|w)")
_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_LONGEST = timedelta(days=3660)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def between(
    start: str | None, end: str | None, now: datetime
) -> tuple[datetime | None, datetime | None]:
    """A range of times. Raises `BadRequest` naming parameter and value."""
    first = None if start is None else moment("start", start, now)
    last = None if end is None else moment("end", end, now)
    if first is not None and last is not None and first > last:
        raise BadRequest(f"parameter start ({first.isoformat()}) is after end ({last.isoformat()})")
    return first, last


def moment(name: str, text: str, now: datetime | None = None) -> datetime:
    """A time: ISO 8601, which without zone is UTC; `now`; or relative, such as `7d-ago`.

    Raises `BadRequest` naming the parameter.
    """
    try:
        if text == "now":
            return now or datetime.now(UTC)
        if ago := _AGO.fullmatch(text):
            back = timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
            return max((now or datetime.now(UTC)) - back, _FIRST)
        given = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
        given = given if given.tzinfo else given.replace(tzinfo=UTC)
        # Within bounds that leave room to reckon; nothing is beyond them.
        return min(max(given, _FIRST), _LAST).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"parameter {name} is {text[:64]!r}; allowed is an ISO 8601 time "
            "such as 2026-01-31T12:00:00Z, now, or a time before now such as 7d-ago (s, m, h, d, w)"
        ) from None


def span(name: str, text: str) -> timedelta:
    """A length of time such as `5m`. Raises `BadRequest` naming the parameter."""
    given = _SPAN.fullmatch(text)
    found = given and timedelta(seconds=int(given[1]) * _UNITS[given[2]])
    if not found or found > _LONGEST:
        raise BadRequest(
            f"parameter {name} is {text[:64]!r}; allowed is a number of s, m, h, d or w "
            f"such as 5m, up to {_LONGEST.days}d"
        )
    return found
