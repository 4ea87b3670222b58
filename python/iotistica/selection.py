"""Which agents are meant: a filter whose conditions combine (docs/agents.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

Word = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]
TagKey = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._/-]+$")]
TagValue = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00]*$")]
Path = Annotated[str, Meta(max_length=500, pattern=r"^[a-z]+(\.[^.\x00]+)+$")]
Operator = Literal["eq", "ne", "lt", "le", "gt", "ge", "exists", "contains", "matches"]


class FieldTest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test of one field of a document of the agent, such as `info.cpu_usage`."""

    path: Path
    op: Operator = "eq"
    value: Any = None


class AgentFilter(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """All that is given must hold; nothing given means every agent of the tenant."""

    uuids: Annotated[list[UUID], Meta(max_length=10_000)] | None = None
    fleet: UUID | None = None
    online: bool | None = None
    active: bool | None = None
    name: Word | None = None
    """Whatever the case of letters; `*` is any text, `?` any character."""
    type: Word | None = None
    version: Word | None = None
    """Of the agent's software; `*` and `?` as in a name."""
    version_from: Word | None = None
    """This version or a later one, by its numbers."""
    version_below: Word | None = None
    tags: dict[TagKey, TagValue | None] | None = None
    """Tags with their values; null is any value."""
    fields: Annotated[list[FieldTest], Meta(max_length=20)] | None = None
    all_of: Annotated[list[AgentFilter], Meta(max_length=20)] | None = None
    any_of: Annotated[list[AgentFilter], Meta(max_length=20)] | None = None
    none_of: Annotated[list[AgentFilter], Meta(max_length=20)] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every agent is meant."""
        return self == AgentFilter()


def read(text: str) -> AgentFilter:
    """A filter as it was saved."""
    return msgspec.json.decode(text, type=AgentFilter)


def write(chosen: AgentFilter) -> str:
    """A filter as it is saved: what is not given is left out."""
    found = msgspec.to_builtins(chosen)
    return msgspec.json.encode(_given(found)).decode()


def _given(value: Any) -> Any:
    if isinstance(value, list):
        return [_given(one) for one in value]
    if not isinstance(value, dict):
        return value
    # Null is a value of a tag, and may be one of a field.
    return {
        name: one if name in ("tags", "value") else _given(one)
        for name, one in value.items()
        if one is not None or name == "value"
    }
