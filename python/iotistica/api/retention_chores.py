"""Chores that keep telemetry for as long as it shall be kept, and no longer (docs/retention.md)."""

from __future__ import annotations

from datetime import UTC, datetime

from iotistica import log, metrics
from iotistica.api.chore import Chore
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.store.retention import Retention
from iotistica.store.storage import Storage
from iotistica.store.upkeep import days_ahead, make_ahead

NEARLY_FULL = 0.8
"""From this share of a quota of storage on, somebody is told."""
_SWEEP_S = 60.0
_AHEAD_S = 3600.0

_log = log.get(__name__)


def retention_chores(settings: Settings, pool: Pool) -> list[Chore]:
    """Rules and quotas of tenants, and partitions ahead."""
    retention, storage = Retention(pool, settings), Storage(pool, settings.quota())
    full: set[str] = set()

    async def sweep() -> None:
        fills = {one.tenant: one.fill for one in await storage.count(datetime.now(UTC))}
        _tell(fills, full)
        swept = await retention.sweep(datetime.now(UTC))
        for tenant, count in swept.removed.items():
            metrics.RETENTION_REMOVED.labels(tenant).inc(count)
        metrics.RETENTION_BEHIND.set(not swept.is_done)

    async def ahead() -> None:
        await make_ahead(pool, settings, datetime.now(UTC))
        if (days := await days_ahead(pool)) is not None:
            metrics.PARTITIONS_AHEAD.set(days)

    return [Chore("retention of tenants", _SWEEP_S, sweep), Chore("partitions", _AHEAD_S, ahead)]


def _tell(fills: dict[str, float], full: set[str]) -> None:
    """Set the gauges, and say once when a tenant's storage gets nearly full."""
    for tenant, fill in fills.items():
        metrics.STORAGE_FILL.labels(tenant).set(fill)
        if fill >= NEARLY_FULL and tenant not in full:
            _log.warning("a quota of storage is nearly used up", tenant=tenant, fill=round(fill, 2))
            full.add(tenant)
        elif fill < NEARLY_FULL:
            full.discard(tenant)
    for tenant in full - fills.keys():
        full.discard(tenant)
