"""Keeps the agents of a tenant within its allowance, however many come at once."""

from __future__ import annotations

from datetime import UTC, datetime

from iotistica.allowance import Allowance
from iotistica.errors import Forbidden
from iotistica.store.pool import Connection, Pool, unavailable

# Whoever adds agents holds the tenant's row until the commit, so that they are counted right.
_LOCK = "SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE"
_COUNT = "SELECT count(*) FROM agents WHERE tenant_id = $1 AND is_active"


async def require_room(connection: Connection, tenant: str, allowance: Allowance) -> None:
    """Raise `Forbidden` where the transaction made the tenant's agents too many, or comes too late.

    Call it after the agents are added, at the end of what the transaction locks of agents.
    """
    if not allowance.is_bounded:
        return
    if allowance.until is not None and datetime.now(UTC) > allowance.until:
        raise Forbidden(
            f"the licence expired at {allowance.until.isoformat()}; "
            "agents that are registered go on, new ones need another licence"
        )
    if allowance.most_agents is None:
        return
    await connection.execute(_LOCK, tenant)
    if await connection.fetchval(_COUNT, tenant) > allowance.most_agents:
        raise Forbidden(
            f"the licence allows {allowance.most_agents} active agents, and as many there are"
        )


async def active_agents(pool: Pool, tenant: str) -> int:
    """How many the tenant has. Raises `StoreUnavailable`."""
    with unavailable("count agents"):
        return int(await pool.fetchval(_COUNT, tenant))
