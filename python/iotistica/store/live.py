"""What is shown at first to who begins to listen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from iotistica.errors import NotFound
from iotistica.store.pool import Pool, unavailable
from iotistica.store.reports import ReportStore

_IS_ONLINE = "SELECT is_online FROM agents WHERE tenant_id = $1 AND uuid = $2"


@dataclass(frozen=True, slots=True)
class LiveStore:
    """Every method raises `StoreUnavailable`, and `NotFound` for what is no agent of the tenant."""

    pool: Pool

    async def is_online(self, tenant: str, agent: UUID) -> bool:
        """Whether an agent is there; also the question whether it is one."""
        with unavailable("look for an agent"):
            found = await self.pool.fetchval(_IS_ONLINE, tenant, agent)
        if found is None:
            raise NotFound(f"agent {agent} does not exist")
        return bool(found)

    async def state(self, tenant: str, agent: UUID) -> dict[str, Any]:
        """All fields of its state, as it reported them."""
        row = await ReportStore(self.pool).current(tenant, agent)
        if row is None:
            raise NotFound(f"agent {agent} does not exist")
        columns = {name: row[name] for name in ("apps", "config") if row[name] is not None}
        state = {name: orjson.loads(text) for name, text in columns.items()}
        if row["version"] is not None:
            state["version"] = row["version"]
        return state | (orjson.loads(row["system_info"]) if row["system_info"] else {})

    async def metrics(self, tenant: str, agent: UUID, *, limit: int) -> list[dict[str, Any]]:
        """System metrics of the newest moments, newest first."""
        found = await ReportStore(self.pool).newest_metrics(tenant, agent, limit=limit)
        if found is None:
            raise NotFound(f"agent {agent} does not exist")
        return found
