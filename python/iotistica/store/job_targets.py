"""Which agents a job is for."""

from __future__ import annotations

from typing import Any

from iotistica import selection
from iotistica.errors import NotFound
from iotistica.selection import AgentFilter
from iotistica.store.pool import Connection, Row
from iotistica.store.selection import Condition

_GROUP = "SELECT filter FROM groups WHERE tenant_id = $1 AND id = $2"


async def condition(connection: Connection, job: Row | dict[str, Any]) -> Condition:
    """The condition for `agents` of a job's row, by who is in its group now.

    Raises `NotFound` for a group that is not the tenant's, `BadRequest` for a filter that leads
    nowhere.
    """
    return Condition(job["tenant_id"], await _filter(connection, job))


async def _filter(connection: Connection, job: Row | dict[str, Any]) -> AgentFilter:
    match job["target_type"]:
        case "device":
            return AgentFilter(uuids=list(job["target_agents"]))
        case "all":
            # One that was taken out of service would never come for it.
            return AgentFilter(active=True)
    found = []
    if job["target_group"] is not None:
        text = await connection.fetchval(_GROUP, job["tenant_id"], job["target_group"])
        if text is None:
            raise NotFound(f"field target_group: group {job['target_group']} does not exist")
        found.append(selection.read(text))
    if job["target_filter"] is not None:
        found.append(selection.read(job["target_filter"]))
    return AgentFilter(all_of=found)
