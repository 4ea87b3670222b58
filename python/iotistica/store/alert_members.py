"""Which agents rules with tags or a group are about, as things are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg
import orjson

from iotistica import selection
from iotistica.selection import AgentFilter
from iotistica.store.pool import Connection
from iotistica.store.selection import Condition

_FILTERS = "SELECT id, filter FROM groups WHERE tenant_id = $1 AND id = ANY ($2)"
_MEMBERS = "SELECT a.uuid FROM agents AS a WHERE {condition}"

Selector: TypeAlias = tuple[str | None, Any]
"""Tags as JSON, and a group."""


@dataclass(slots=True)
class Members:
    """Agents by selector; rules that say the same of tags and group share one."""

    selector_of: dict[int, int] = field(default_factory=dict)
    """By the rule; rules without tags and group have none."""
    selectors: list[int] = field(default_factory=list)
    agents: list[Any] = field(default_factory=list)
    """UUIDs, beside `selectors`."""


async def members(connection: Connection, tenant: str, rules: Sequence[asyncpg.Record]) -> Members:
    """Look up who is meant, once for each selector."""
    rules_of: dict[Selector, list[int]] = {}
    for rule in rules:
        if (selector := (rule["tags"], rule["group_id"])) != (None, None):
            rules_of.setdefault(selector, []).append(rule["id"])
    found = Members()
    if not rules_of:
        return found
    groups = {group for _, group in rules_of if group is not None}
    rows = await connection.fetch(_FILTERS, tenant, list(groups)) if groups else []
    filters = {row["id"]: selection.read(row["filter"]) for row in rows}
    for number, (selector, ids) in enumerate(rules_of.items()):
        found.selector_of |= dict.fromkeys(ids, number)
        condition = Condition(tenant, _filter(selector, filters))
        text = _MEMBERS.format(condition=condition.text)
        agents = [row["uuid"] for row in await connection.fetch(text, *condition.parameters)]
        found.agents += agents
        found.selectors += [number] * len(agents)
    return found


def _filter(selector: Selector, filters: Mapping[Any, AgentFilter]) -> AgentFilter:
    tags, group = selector
    return AgentFilter(
        tags=None if tags is None else orjson.loads(tags),
        all_of=None if group is None else [filters[group]],
    )
