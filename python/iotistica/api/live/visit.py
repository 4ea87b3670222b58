"""A caller who may listen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from iotistica.api.live.channels import Subject
from iotistica.api.principal import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Who listens, to what, and for how long."""

    caller: Principal
    subject: Subject
    expires_at: float | None
    """Of the token, epoch seconds."""
    again: Callable[[], Awaitable[Principal]]
    """The caller as of now. Raises `Denied`, `Forbidden`, `NotFound`, `StoreUnavailable`."""
