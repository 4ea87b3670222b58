"""Provisioning keys (reference section 5.2)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta, Struct

from iotistica.api.models.agents import Cursor, Description, Limit


class NewKey(Struct, kw_only=True, rename="camel"):
    """A key to make."""

    fleet_uuid: UUID
    max_devices: Annotated[int, Meta(ge=1, le=10_000)] = 100
    expires_in_days: Annotated[int, Meta(ge=1, le=3650)] = 365
    description: Description = ""


class SingleKey(Struct, kw_only=True, rename="camel"):
    """A key for one agent, for 30 days."""

    fleet_uuid: UUID
    new_key: bool = True
    previous_key_id: UUID | None = None
    """Is revoked."""
    deployment_type: Description = ""
    metadata: Any = None
    simulator_config: Any = None


class MadeKey(Struct, kw_only=True, rename="camel"):
    """The key, shown this once."""

    id: str
    key: str
    fleet_uuid: str
    max_devices: int
    expires_at: datetime
    description: str
    warning: str = "The key is not shown again; keep it safe"


class KeyFilter(Struct, kw_only=True):
    """Which keys."""

    fleetUuid: UUID | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class Key(Struct, kw_only=True):
    """A key that was made, without the key itself."""

    id: str
    fleet_uuid: str
    description: str
    max_agents: int
    agents_provisioned: int
    expires_at: datetime
    is_active: bool
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_reason: str | None


class KeyPage(Struct, kw_only=True):
    """Keys, newest first."""

    count: int
    keys: list[Key]
    cursor: str | None


class Revocation(Struct, kw_only=True):
    """Why a key is revoked."""

    reason: Description = ""
