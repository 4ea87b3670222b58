"""What agents report, against what they should be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from iotistica.errors import NotFound
from iotistica.store.pool import Pool, unavailable
from iotistica.targets.state import EMPTY, Content

_COLUMNS = """
       a.uuid, a.name, c.agent_uuid IS NOT NULL AS has_reported, c.apps, c.config,
       c.reported_at, c.version,
       coalesce(t.served_version, d.version, 0) AS target_version,
       coalesce(t.served_apps, d.apps) AS target_apps,
       coalesce(t.served_config, d.config) AS target_config,
       coalesce(t.needs_deployment, false) AS needs_deployment
"""
_JOINED = """
FROM agents AS a
LEFT JOIN agent_current_state AS c ON c.agent_uuid = a.uuid
LEFT JOIN agent_target_state AS t ON t.agent_uuid = a.uuid
LEFT JOIN tenant_target_state AS d ON d.tenant_id = a.tenant_id
"""
_ONE = f"""
SELECT c.system_info, {_COLUMNS} {_JOINED}
WHERE a.tenant_id = $1 AND a.uuid = $2
"""
_PAGE = f"""
SELECT NULL AS system_info, {_COLUMNS} {_JOINED}
WHERE a.tenant_id = $1 AND ($2::uuid IS NULL OR a.uuid > $2)
ORDER BY a.uuid
LIMIT $3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One agent: what it should be, and what it says it is."""

    agent: UUID
    name: str
    target: Content
    target_version: int
    needs_deployment: bool
    """Something newer is staged."""
    reported: Content | None
    """None: it never reported."""
    reported_version: int | None
    reported_at: datetime | None
    system_info: Any


@dataclass(frozen=True, slots=True)
class ReportedStore:
    """Every method raises `StoreUnavailable`."""

    pool: Pool

    async def comparison(self, tenant: str, agent: UUID) -> Comparison:
        """An agent of the tenant. Raises `NotFound`."""
        with unavailable("read what an agent reported"):
            row = await self.pool.fetchrow(_ONE, tenant, agent)
        if row is None:
            raise NotFound(f"agent {agent} does not exist")
        return _comparison(row)

    async def page(self, tenant: str, after: UUID | None, limit: int) -> list[Comparison]:
        """Agents of the tenant, by UUID."""
        with unavailable("read what agents reported"):
            return [_comparison(row) for row in await self.pool.fetch(_PAGE, tenant, after, limit)]


def _comparison(row: Any) -> Comparison:
    return Comparison(
        agent=UUID(str(row["uuid"])),
        name=row["name"],
        target=_content(row["target_apps"], row["target_config"]),
        target_version=row["target_version"],
        needs_deployment=row["needs_deployment"],
        reported=_content(row["apps"], row["config"]) if row["has_reported"] else None,
        reported_version=row["version"],
        reported_at=row["reported_at"],
        system_info=_json(row["system_info"]),
    )


def _content(apps: str | None, config: str | None) -> Content:
    return Content(_json(apps) or EMPTY.apps, _json(config) or EMPTY.config)


def _json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)
