"""Models of the licence (reference sections 5.2 and 6.4)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec


class Customer(msgspec.Struct):
    """Whom it was given to."""

    id: str
    name: str


class AgentUse(msgspec.Struct, rename="camel"):
    """Active agents of the caller's tenant, against the most that there may be."""

    current: int
    max: int | None
    percent_used: int | None


class Use(msgspec.Struct):
    """What is used of it."""

    agents: AgentUse


class LicenseView(msgspec.Struct, kw_only=True, rename="camel"):
    """The licence of the deployment; in community mode everything is allowed."""

    mode: Literal["community", "licensed"]
    plan: str
    customer: Customer | None
    features: dict[str, Any]
    limits: dict[str, Any]
    subscription: dict[str, Any] | None
    max_devices: int | None
    """Null is without limit."""
    used: int
    expires_at: datetime | None
    is_expired: bool
    """Then agents that are registered go on, and new ones are refused."""
    usage: Use
