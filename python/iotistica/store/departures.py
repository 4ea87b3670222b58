"""Agents that are gone, so that those who remember them can forget them."""

from __future__ import annotations

from datetime import datetime, timedelta

from iotistica.store.pool import Pool, unavailable

# A transaction may commit later than its time: what is that young is looked at again.
_OVERLAP = timedelta(seconds=60)

_SINCE = """
SELECT tenant_id, agent_uuid::text, now() AS at FROM agent_departures
WHERE departed_at > coalesce($1::timestamptz, now()) - $2::interval
UNION ALL
SELECT NULL, NULL, now()
"""


class Departures:
    """Reads departures, each for a minute at least."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._until: datetime | None = None

    async def newest(self) -> dict[str, list[str]]:
        """Agents that left since the last call, by tenant. Raises `StoreUnavailable`."""
        with unavailable("read which agents left"):
            rows = await self._pool.fetch(_SINCE, self._until, _OVERLAP)
        self._until = rows[-1]["at"]
        found: dict[str, list[str]] = {}
        for row in rows:
            if row["tenant_id"] is not None:
                found.setdefault(row["tenant_id"], []).append(row["agent_uuid"])
        return found
