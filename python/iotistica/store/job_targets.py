"""Which agents a job is for, as a condition of SQL: values are parameters, never text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from iotistica.errors import BadRequest


class AgentFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Agents that fit all that is given."""

    uuids: tuple[UUID, ...] | None = None
    name: str | None = None
    """`*` is any characters, `?` one."""


class Condition:
    """What stands after WHERE, for rows `a` of `agents`, and its parameters."""

    def __init__(
        self,
        tenant: str,
        target_type: str,
        agents: Sequence[UUID],
        chosen: Mapping[str, Any] | None,
    ) -> None:
        """Raises `BadRequest` for a filter that nobody understands."""
        self.parameters: list[Any] = []
        own = f"a.tenant_id = {self.parameter(tenant)}"
        self.text = " AND ".join((own, *self._parts(target_type, agents, chosen)))

    def parameter(self, value: Any, kind: str = "text") -> str:
        """The place of a value."""
        self.parameters.append(value)
        return f"${len(self.parameters)}::{kind}"

    def _parts(
        self, target_type: str, agents: Sequence[UUID], chosen: Mapping[str, Any] | None
    ) -> Iterator[str]:
        if target_type == "device":
            yield f"a.uuid = ANY ({self.parameter(list(agents), 'uuid[]')})"
        elif target_type == "group":
            found = read_filter(chosen)
            if found.uuids is not None:
                yield f"a.uuid = ANY ({self.parameter(list(found.uuids), 'uuid[]')})"
            if found.name is not None:
                yield f"lower(a.name) LIKE lower({self.parameter(_like(found.name))})"


def read_filter(chosen: Mapping[str, Any] | None) -> AgentFilter:
    """The filter of a job for a group. Raises `BadRequest`."""
    if not chosen:
        raise BadRequest("field target_filter is empty; target_type group needs one")
    try:
        return msgspec.convert(chosen, AgentFilter)
    except msgspec.ValidationError as error:
        raise BadRequest(f"field target_filter: {error}") from None


def _like(pattern: str) -> str:
    """`*` and `?` as LIKE has them, and its own signs as plain ones."""
    for sign in "\\%_":
        pattern = pattern.replace(sign, f"\\{sign}")
    return pattern.replace("*", "%").replace("?", "_")
