"""Carries out what tenants keep shorter than the platform: rules, and quotas of storage.

A day of readings is looked at again when a rule begins to count for it, when rules change, and when
rows came in (the statistics of its partition or chunk tell). So nothing is scanned for what may be
old, and what comes late goes, too. See migrations 0033 and 0034, docs/retention.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from iotistica.retention import Rule
from iotistica.settings import Settings
from iotistica.store.pool import Pool, unavailable
from iotistica.store.turn import turn

_METRICS_AT_ONCE = 10
"""Their day is frozen in one transaction: at one reading a second nearly a million rows."""
_TURN = "retention"
_NOT_FOR_LONG = "SET LOCAL lock_timeout = '2s'"

_RULES = """
SELECT tenant_id, pattern, keep_days, remove_rollups, NULL::date AS quota_since
FROM retention_rules
UNION ALL
SELECT tenant_id, NULL, NULL, false, quota_since FROM tenant_storage WHERE quota_since IS NOT NULL
"""
_DAYS = "SELECT (day AT TIME ZONE 'UTC')::date AS day, inserted FROM readings_days()"
_SWEPT = "SELECT day, state FROM retention_sweeps WHERE tenant_id = $1"
_SWEEP = """
INSERT INTO retention_sweeps VALUES ($1, $2, $3)
ON CONFLICT (tenant_id, day) DO UPDATE SET state = excluded.state
"""
_FORGET = "DELETE FROM retention_sweeps WHERE day < $1"
# Series of a tenant whose readings of a day are too old, by agent. Names are matched once each.
_OLD = """
WITH series AS (
    SELECT DISTINCT l.agent_uuid, l.metric_name
    FROM agents JOIN readings_latest AS l ON l.agent_uuid = agents.uuid
    WHERE agents.tenant_id = $1
), old AS (
    SELECT metric_name, rule.keep_days < $2 AND rule.remove_rollups AS removes_rollups
    FROM (SELECT DISTINCT metric_name FROM series) AS name
    LEFT JOIN LATERAL retention_rule($1, name.metric_name) AS rule ON true
    WHERE rule.keep_days < $2 OR $3
)
SELECT agent_uuid, coalesce(removes_rollups, false) AS removes_rollups,
       array_agg(metric_name ORDER BY metric_name) AS metrics
FROM series JOIN old USING (metric_name) GROUP BY 1, 2 ORDER BY 1, 2
"""
_REMOVE = "SELECT removed, is_done FROM retention_remove($1, $2, $3, $4, $5)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one turn did."""

    removed: Mapping[str, int]
    """Readings, by tenant."""
    is_done: bool
    """False where the time was up before all was looked at."""


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What one tenant wants."""

    rules: tuple[Rule, ...]
    quota_since: date | None

    def counts(self, day: date, today: date) -> bool:
        """Whether anything of a day may be too old."""
        return self._is_over_quota(day) or any(day < rule.first_kept(today) for rule in self.rules)

    def state(self, day: date, today: date, inserted: int) -> str:
        """What decides on a day, as it is now."""
        rules = sorted((rule.pattern, rule.keep_days, rule.remove_rollups) for rule in self.rules)
        crossed = sorted({r.keep_days for r in self.rules if day < r.first_kept(today)})
        all_of_it = repr((rules, crossed, self._is_over_quota(day), inserted))
        return hashlib.sha256(all_of_it.encode()).hexdigest()[:32]

    def _is_over_quota(self, day: date) -> bool:
        return self.quota_since is not None and day < self.quota_since


class Retention:
    """Removes readings. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._until = 0.0
        self._is_elsewhere = False

    async def sweep(self, now: datetime) -> Swept:
        """Remove readings that are too old for their tenant, the oldest days first, for a while.

        By one process at a time: for another there is nothing to do.
        """
        self._until = time.monotonic() + self._settings.retention_budget_s
        self._is_elsewhere = False
        removed: dict[str, int] = {}
        with unavailable("remove readings of tenants"):
            if not (wishes := await self._wishes()):
                return Swept(removed=removed, is_done=True)
            days = {row["day"]: row["inserted"] for row in await self._pool.fetch(_DAYS)}
            if days:
                await self._pool.execute(_FORGET, min(days))
            is_done = True
            for tenant, wanted in wishes.items():
                removed[tenant] = 0
                async for count in self._tenant(tenant, wanted, days, now.astimezone(UTC).date()):
                    if count is None:
                        is_done = self._is_elsewhere
                    else:
                        removed[tenant] += count
        return Swept(removed=removed, is_done=is_done)

    async def _wishes(self) -> dict[str, _Wishes]:
        rules: dict[str, list[Rule]] = {}
        quotas: dict[str, date] = {}
        for tenant, pattern, keep_days, remove_rollups, since in await self._pool.fetch(_RULES):
            if pattern is None:
                quotas[tenant] = since
            else:
                rule = Rule(pattern=pattern, keep_days=keep_days, remove_rollups=remove_rollups)
                rules.setdefault(tenant, []).append(rule)
        return {
            tenant: _Wishes(tuple(rules.get(tenant, ())), quotas.get(tenant))
            for tenant in sorted(rules.keys() | quotas.keys())
        }

    async def _tenant(
        self, tenant: str, wishes: _Wishes, days: Mapping[date, int], today: date
    ) -> AsyncIterator[int | None]:
        """Rows removed, step by step; None where the time is up."""
        swept = {row["day"]: row["state"] for row in await self._pool.fetch(_SWEPT, tenant)}
        for day, inserted in sorted(days.items()):
            if not wishes.counts(day, today):
                continue
            state = wishes.state(day, today, inserted)
            if swept.get(day) == state:
                continue
            is_over_quota = wishes.quota_since is not None and day < wishes.quota_since
            old = await self._pool.fetch(_OLD, tenant, (today - day).days, is_over_quota)
            for agent, removes_rollups, metrics in old:
                for some in _parts(metrics):
                    async for count in self._series(agent, some, day, not removes_rollups):
                        yield count
                        if count is None:
                            return
            await self._pool.execute(_SWEEP, tenant, day, state)

    async def _series(
        self, agent: UUID, metrics: Sequence[str], day: date, keeps_rollups: bool
    ) -> AsyncIterator[int | None]:
        most = self._settings.retention_step_rows
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        is_done = False
        while not is_done:
            if time.monotonic() > self._until:
                yield None
                return
            async with turn(self._pool, _TURN) as connection:
                if connection is None:
                    self._is_elsewhere = True
                    yield None
                    return
                await connection.execute(_NOT_FOR_LONG)
                [(removed, is_done)] = await connection.fetch(
                    _REMOVE, agent, metrics, start, keeps_rollups, most
                )
            if removed:
                yield removed
                await asyncio.sleep(self._settings.retention_pause_ms / 1000)


def _parts(metrics: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(metrics), _METRICS_AT_ONCE):
        yield metrics[start : start + _METRICS_AT_ONCE]
