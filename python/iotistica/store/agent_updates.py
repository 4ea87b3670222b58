"""Updates of agents that operators ordered, and how far each is (`EventStore` moves them on)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from iotistica.errors import NotFound
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Pool, unavailable

_WAIT = timedelta(days=1)
"""After its time; a command is valid for as long (reference section 1.3)."""

_ORDER = """
INSERT INTO agent_updates
    (agent_uuid, current_version, target_version, scheduled_time, requested_by, timeout_at)
SELECT uuid, agent_version, $3, $4, $5, coalesce($4::timestamptz, now()) + $6
FROM agents
WHERE tenant_id = $1 AND uuid = $2
RETURNING id
"""
_GIVE_UP = """
UPDATE agent_updates SET status = 'failed', error = $2, completed_at = now()
WHERE id = $1 AND status = 'pending'
"""
# One row without an update says that the agent exists and has none.
_LIST = """
SELECT u.id, u.status, u.current_version, u.target_version, u.deployment_type, u.scheduled_time,
       u.requested_by, u.error, u.exit_code, u.created_at, u.acknowledged_at, u.started_at,
       u.completed_at, u.timeout_at
FROM agents AS a
LEFT JOIN LATERAL (
    SELECT * FROM agent_updates
    WHERE agent_uuid = a.uuid AND ($3::bigint IS NULL OR id < $3)
    ORDER BY id DESC
    LIMIT $4
) AS u ON true
WHERE a.tenant_id = $1 AND a.uuid = $2
ORDER BY u.id DESC
"""


class AgentUpdates:
    """Every method raises `StoreUnavailable`, and `NotFound` for what is not the tenant's."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def order(
        self, origin: Origin, agent: UUID, version: str, *, scheduled: datetime | None, shown: Any
    ) -> int:
        """Note an update before its command is sent, so that what the agent says of it is known to
        be of it. `shown` stands in the journal."""
        with unavailable("note an update"):
            async with self._pool.acquire() as connection, connection.transaction():
                update: int | None = await connection.fetchval(
                    _ORDER,
                    origin.tenant,
                    agent,
                    version,
                    scheduled,
                    origin.name or origin.id,
                    _WAIT,
                )
                if update is None:
                    raise NotFound(f"agent {agent} does not exist")
                entry = Entry(
                    event_type="agent.update_ordered",
                    subject=f"agent/{agent}",
                    agent=agent,
                    after={**shown, "update": update},
                )
                await journal.record(connection, origin, entry)
        return update

    async def give_up(self, update: int, error: str) -> None:
        """Say that the command was not sent."""
        with unavailable("note an update"):
            await self._pool.execute(_GIVE_UP, update, error)

    async def listed(
        self, tenant: str, agent: UUID, *, below: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Updates of an agent with an id below, newest first."""
        with unavailable("list updates"):
            rows = await self._pool.fetch(_LIST, tenant, agent, below, limit)
        if not rows:
            raise NotFound(f"agent {agent} does not exist")
        return [dict(row) for row in rows if row["id"] is not None]
