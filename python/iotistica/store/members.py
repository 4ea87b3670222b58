"""Which agent belongs to which tenant, for many at once."""

from __future__ import annotations

from collections.abc import Sequence

from iotistica.store.pool import Pool, unavailable

_TENANTS_OF = "SELECT uuid::text, tenant_id FROM agents WHERE uuid = ANY ($1::text[]::uuid[])"


async def tenants_of(pool: Pool, agents: Sequence[str]) -> dict[str, str]:
    """The tenant of each of these agents that exists. Raises `StoreUnavailable`."""
    with unavailable("look up agents"):
        rows = await pool.fetch(_TENANTS_OF, agents)
    return {row["uuid"]: row["tenant_id"] for row in rows}
