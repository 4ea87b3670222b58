"""Which tenants there are, and what they may send."""

from __future__ import annotations

from iotistica.errors import NotFound
from iotistica.quotas import Quota
from iotistica.store.pool import Pool, unavailable

_IDS = "SELECT id FROM tenants"
_QUOTAS = """
SELECT id, quota_messages_per_s AS messages_per_s, quota_readings_per_s AS readings_per_s,
       quota_bytes_per_s AS bytes_per_s
FROM tenants
WHERE num_nonnulls(quota_messages_per_s, quota_readings_per_s, quota_bytes_per_s) > 0
"""
_SET_QUOTA = """
UPDATE tenants
SET quota_messages_per_s = $2, quota_readings_per_s = $3, quota_bytes_per_s = $4
WHERE id = $1
"""


async def tenant_ids(pool: Pool) -> set[str]:
    """Ids of all tenants. Raises `StoreUnavailable`."""
    with unavailable("list the tenants"):
        return {row["id"] for row in await pool.fetch(_IDS)}


async def tenant_quotas(pool: Pool) -> dict[str, Quota]:
    """Quotas of the tenants that have one of their own. Raises `StoreUnavailable`."""
    with unavailable("read the quotas"):
        rows = await pool.fetch(_QUOTAS)
    return {
        row["id"]: Quota(
            messages_per_s=row["messages_per_s"],
            readings_per_s=row["readings_per_s"],
            bytes_per_s=row["bytes_per_s"],
        )
        for row in rows
    }


async def set_quota(pool: Pool, tenant: str, quota: Quota) -> None:
    """Give a tenant a quota. Raises `StoreUnavailable`, `NotFound`."""
    with unavailable("set a quota"):
        done = await pool.execute(
            _SET_QUOTA, tenant, quota.messages_per_s, quota.readings_per_s, quota.bytes_per_s
        )
    if done == "UPDATE 0":
        raise NotFound(f"tenant {tenant} does not exist")
