"""Times on the wire and on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from iotistica.errors import ConfigError

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def iso(at: datetime) -> str:
    """As JavaScript writes times, which agents and dashboards read."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_ms(epoch_ms: int) -> str:
    """The same of epoch milliseconds."""
    return iso(datetime.fromtimestamp(epoch_ms / 1000, UTC))


def moment(option: str, text: str, now: datetime) -> datetime:
    """A time, or how long ago. Raises `ConfigError`."""
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        given = datetime.fromisoformat(text)
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{option} is {text!r}; allowed is an ISO 8601 time such as 2026-01-31T12:00:00Z, or "
            "how long ago, such as 90s, 15m, 2h, 7d"
        ) from None
