"""A filter of agents as a condition of SQL: values are parameters, never text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import orjson

from iotistica.errors import BadRequest
from iotistica.selection import AgentFilter, FieldTest
from iotistica.store.documents import holds_nul

_MAX_DEPTH = 5

DOCUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "info": (
            "jsonb_build_object('cpu_usage', a.cpu_usage, 'cpu_temp', a.cpu_temp,"
            " 'memory_usage', a.memory_usage, 'memory_total', a.memory_total,"
            " 'storage_usage', a.storage_usage, 'storage_total', a.storage_total,"
            " 'uptime', a.uptime, 'ip_address', a.ip_address, 'mac_address', a.mac_address,"
            " 'os_version', a.os_version, 'architecture', a.architecture,"
            " 'agent_version', a.agent_version, 'network_interfaces', a.network_interfaces,"
            " 'location', a.location)"
        ),
        "reported": (
            "(SELECT s.system_info || jsonb_build_object('apps', s.apps, 'config', s.config,"
            " 'version', s.version) FROM agent_current_state AS s WHERE s.agent_uuid = a.uuid)"
        ),
        "target": (
            "(SELECT jsonb_build_object('apps', s.apps, 'config', s.config, 'version', s.version)"
            " FROM agent_target_state AS s WHERE s.agent_uuid = a.uuid)"
        ),
    }
)
"""Where the first part of a field's path leads: an expression of `a`, a row of `agents`."""

_TAG = (
    "EXISTS (SELECT FROM agent_tags AS t WHERE t.tenant_id = a.tenant_id AND t.agent_uuid = a.uuid"
    " AND t.key = {key} AND {value})"
)
_ORDER = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}


class Condition:
    """What stands after WHERE, for rows `a` of `agents`, and its parameters."""

    def __init__(self, tenant: str, chosen: AgentFilter) -> None:
        """Raises `BadRequest` for a path that leads nowhere, and for filters in too many levels."""
        self.parameters: list[Any] = []
        own = f"a.tenant_id = {self.parameter(tenant)}"
        self.text = " AND ".join((own, *self._parts(chosen, 1)))

    def parameter(self, value: Any, kind: str = "text") -> str:
        """The place of a value."""
        self.parameters.append(value)
        return f"${len(self.parameters)}::{kind}"

    def _parts(self, chosen: AgentFilter, depth: int) -> Iterator[str]:
        if depth > _MAX_DEPTH:
            raise BadRequest(f"filters stand in one another in {_MAX_DEPTH} levels at the most")
        yield from self._columns(chosen)
        yield from self._versions(chosen)
        for key, value in (chosen.tags or {}).items():
            is_value = "true" if value is None else f"t.value = {self.parameter(value)}"
            yield _TAG.format(key=self.parameter(key), value=is_value)
        for test in chosen.fields or ():
            yield self._field(test)
        for one in chosen.all_of or ():
            yield self._group(one, depth)
        if chosen.any_of is not None:
            yield f"({' OR '.join(self._group(one, depth) for one in chosen.any_of) or 'false'})"
        for one in chosen.none_of or ():
            # What is not known to hold does not hold.
            yield f"({self._group(one, depth)}) IS NOT TRUE"

    def _group(self, chosen: AgentFilter, depth: int) -> str:
        return f"({' AND '.join(self._parts(chosen, depth + 1)) or 'true'})"

    def _columns(self, chosen: AgentFilter) -> Iterator[str]:
        if chosen.uuids is not None:
            yield f"a.uuid = ANY ({self.parameter(chosen.uuids, 'uuid[]')})"
        if chosen.fleet is not None:
            yield f"a.fleet_uuid = {self.parameter(chosen.fleet, 'uuid')}"
        if chosen.online is not None:
            yield "a.is_online" if chosen.online else "NOT a.is_online"
        if chosen.active is not None:
            yield "a.is_active" if chosen.active else "NOT a.is_active"
        if chosen.name is not None:
            yield f"lower(a.name) LIKE lower({self.parameter(_like(chosen.name))})"
        if chosen.type is not None:
            yield f"a.type = {self.parameter(chosen.type)}"

    def _versions(self, chosen: AgentFilter) -> Iterator[str]:
        if chosen.version is not None:
            yield f"left(a.agent_version, 255) LIKE {self.parameter(_like(chosen.version))}"
        numbers = "version_numbers(a.agent_version)"
        if chosen.version_from is not None:
            yield f"{numbers} >= version_numbers({self.parameter(chosen.version_from)})"
        if chosen.version_below is not None:
            yield f"{numbers} < version_numbers({self.parameter(chosen.version_below)})"

    def _field(self, test: FieldTest) -> str:
        root, *rest = test.path.split(".")
        if root not in DOCUMENTS:
            names = ", ".join(sorted(DOCUMENTS))
            raise BadRequest(f"field path is {test.path[:64]!r}; it must begin with {names}")
        found = f"({DOCUMENTS[root]} #> {self.parameter(rest, 'text[]')})"
        if test.op == "exists":
            return f"coalesce({found}, 'null') <> 'null'"
        if test.op == "matches":
            if not isinstance(test.value, str):
                raise BadRequest(f"the value for {test.path[:64]} must be a text to match")
            return f"({found} #>> '{{}}') LIKE {self.parameter(_like(test.value))}"
        value = self.parameter(_json(test), "jsonb")
        match test.op:
            case "eq":
                return f"{found} = {value}"
            case "ne":
                return f"{found} IS DISTINCT FROM {value}"
            case "contains":
                return f"{found} @> {value}"
            case _:
                # Values of different types have an order too, but no meaning.
                return (
                    f"(jsonb_typeof({found}) = jsonb_typeof({value})"
                    f" AND {found} {_ORDER[test.op]} {value})"
                )


def _json(test: FieldTest) -> str:
    text = orjson.dumps(test.value).decode()
    if holds_nul(text):
        raise BadRequest(f"the value for {test.path[:64]} holds a NUL, which no field can hold")
    return text


def _like(pattern: str) -> str:
    """`*` and `?` as LIKE has them, and its own signs as plain ones."""
    for sign in "\\%_":
        pattern = pattern.replace(sign, f"\\{sign}")
    return pattern.replace("*", "%").replace("?", "_")
