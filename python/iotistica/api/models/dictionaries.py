"""Models of the dictionaries of agents."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta


class DictionaryQuery(msgspec.Struct, kw_only=True):
    """The current one, or the last of a version."""

    version: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class DictionaryVersion(msgspec.Struct, kw_only=True, rename="camel"):
    """One of those that are kept."""

    version: int
    hash: str
    learned_at: datetime
    is_current: bool


class AgentDictionary(msgspec.Struct, kw_only=True, rename="camel"):
    """With what the key-compacted telemetry of an agent is read."""

    agent_uuid: str
    version: int
    hash: str
    """SHA-256 of the JSON of the sorted names."""
    learned_at: datetime
    is_current: bool
    fields: dict[str, str]
    """Names by their index."""
    enums: dict[str, Any]
    """What numbers stand for, by field."""
    metrics: dict[str, Any]
    """The same by protocol."""
    devices: dict[str, Any]
    versions: list[DictionaryVersion]
    """All that are kept, the last one first: telemetry on its way may need an older one."""


class Asked(msgspec.Struct, kw_only=True):
    """Whether the agent is asked now; somebody may have asked it a moment ago."""

    message: str
    requested: bool
