"""Models of what administrators look after (reference section 5.2, Admin)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec


class Heartbeat(msgspec.Struct, kw_only=True, rename="camel"):
    """How agents that fall silent are found."""

    enabled: bool
    """Whether a control process watches now."""
    check_interval_s: float
    offline_after_s: float
    watching_since: datetime | None
    """Without a gap since then; silence from before says nothing."""
    last_check_at: datetime | None


class HeartbeatReply(msgspec.Struct, kw_only=True):
    """The same, as the reference answers it."""

    status: Literal["ok"] = "ok"
    heartbeat: Heartbeat


class Checked(msgspec.Struct, kw_only=True):
    """What a look found."""

    status: Literal["ok"] = "ok"
    message: str
    offline: list[str]
    """Agents that are offline since this look."""


class LogQueue(msgspec.Struct, kw_only=True):
    """The stream of the tenant's container logs, in entries of up to some hundred lines."""

    stream: str
    length: int
    limit: int
    """Beyond it, logs are refused."""
    pending: int
    """Read by a writer, and not yet in the table."""
    lag: int | None
    """Not yet read; null where Redis cannot tell."""
    consumers: int
