"""Which tenants there are."""

from __future__ import annotations

from iotistica.store.pool import Pool, unavailable

_IDS = "SELECT id FROM tenants"


async def tenant_ids(pool: Pool) -> set[str]:
    """Ids of all tenants. Raises `StoreUnavailable`."""
    with unavailable("list the tenants"):
        return {row["id"] for row in await pool.fetch(_IDS)}
