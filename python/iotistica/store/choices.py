"""What there is to choose from: agents, devices, metrics and values of tags of a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias
from uuid import UUID

from iotistica.store.pool import Row
from iotistica.store.query_slots import QuerySlots

_AGENTS = """
SELECT name AS text, uuid::text AS value FROM agents
WHERE tenant_id = $1 AND ($2::uuid[] IS NULL OR uuid = ANY ($2))
  AND ($3::text IS NULL OR position(lower($3) IN lower(name)) > 0)
ORDER BY name, uuid LIMIT $4
"""
_OF_SERIES = """
SELECT DISTINCT l.{column} AS text, l.{column} AS value
FROM agents JOIN readings_latest AS l ON l.agent_uuid = agents.uuid
WHERE agents.tenant_id = $1 AND ($2::uuid[] IS NULL OR agents.uuid = ANY ($2))
  AND l.{column} <> '' AND ($3::text IS NULL OR position(lower($3) IN lower(l.{column})) > 0)
ORDER BY 1 LIMIT $4
"""
_STATEMENTS = {
    "agents": _AGENTS,
    "devices": _OF_SERIES.format(column="device_name"),
    "metrics": _OF_SERIES.format(column="metric_name"),
    "protocols": _OF_SERIES.format(column="protocol"),
    "units": _OF_SERIES.format(column="unit"),
}

Kind: TypeAlias = Literal["agents", "devices", "metrics", "protocols", "units"]


class Choices:
    """Lists for those who choose, of the newest row that ingestion keeps of each series."""

    def __init__(self, slots: QuerySlots) -> None:
        self._slots = slots

    async def listed(
        self,
        tenant: str,
        kind: Kind,
        *,
        agents: Sequence[UUID] | None = None,
        search: str | None = None,
        limit: int = 1000,
    ) -> list[Row]:
        """`text` and `value` of each, by text; those that have `search` in them, of these agents.

        Raises `StoreUnavailable`, `TooSlow`, `Busy`.
        """
        async with self._slots.take("list what there is") as reader:
            return await reader.fetch(_STATEMENTS[kind], tenant, agents, search, limit)
