"""Times on the wire."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(at: datetime) -> str:
    """As JavaScript writes times, which agents and dashboards read."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_ms(epoch_ms: int) -> str:
    """The same of epoch milliseconds."""
    return iso(datetime.fromtimestamp(epoch_ms / 1000, UTC))
