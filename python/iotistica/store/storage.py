"""Quotas of storage: counts what tenants have stored, and says from which day on it is too much.

Removing is `store.retention`'s work. Counted are daily rollups, never readings.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime

from iotistica.quotas import Quota
from iotistica.retention import quota_since
from iotistica.store.pool import Pool, unavailable
from iotistica.store.retention_rules import stored

# Whose figures are an hour old, or of another quota.
_DUE = """
SELECT t.id, coalesce(t.quota_stored_readings, $1) AS most
FROM tenants AS t LEFT JOIN tenant_storage AS s ON s.tenant_id = t.id
WHERE coalesce(t.quota_stored_readings, $1) IS NOT NULL
  AND (s.most IS DISTINCT FROM coalesce(t.quota_stored_readings, $1)
       OR s.counted_at < now() - interval '1 hour')
ORDER BY s.counted_at NULLS FIRST
"""
# As long as the quota is the same, what was too much stays so: else what comes late for a day
# would be stored again whenever the removal of others made room.
_KEEP = """
INSERT INTO tenant_storage AS kept (tenant_id, readings, oldest, most, quota_since)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id) DO UPDATE SET
    (readings, oldest, most, counted_at) =
        (excluded.readings, excluded.oldest, excluded.most, now()),
    quota_since = CASE WHEN kept.most = excluded.most
                       THEN greatest(kept.quota_since, excluded.quota_since)
                       ELSE excluded.quota_since END
"""
_DROP = """
DELETE FROM tenant_storage AS s USING tenants AS t
WHERE t.id = s.tenant_id AND coalesce(t.quota_stored_readings, $1) IS NULL
"""
_FILL = "SELECT tenant_id, readings::double precision / most AS fill FROM tenant_storage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """How full a tenant's storage is; 1 is the quota."""

    tenant: str
    fill: float


class Storage:
    """Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool, default: Quota) -> None:
        """`default` is the quota of tenants that have none of their own."""
        self._pool = pool
        self._default = default.stored_readings

    async def count(self, now: datetime) -> list[Fill]:
        """Count those that are due; how full all are that have a quota."""
        with unavailable("count what is stored"):
            await self._pool.execute(_DROP, self._default)
            for tenant, most in await self._pool.fetch(_DUE, self._default):
                await self._count(tenant, most, now.astimezone(UTC).date())
            rows = await self._pool.fetch(_FILL)
        return [Fill(tenant=row["tenant_id"], fill=row["fill"]) for row in rows]

    async def _count(self, tenant: str, most: int, today: date) -> None:
        days = await stored_by_day(self._pool, tenant)
        await self._pool.execute(
            _KEEP,
            *(tenant, sum(days.values()), min(days, default=None), most),
            quota_since(days, most, today),
        )


async def stored_by_day(pool: Pool, tenant: str) -> Counter[date]:
    """Readings that a tenant has stored. Raises `StoreUnavailable`."""
    days: Counter[date] = Counter()
    with unavailable("count what is stored"):
        for (_, day), readings in (await stored(pool.fetch, tenant)).items():
            days[day] += readings
    return days
