"""Hours and days of a metric, and all there is of an agent: never from single
readings. Each query checks in the same statement that the agent is the tenant's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from iotistica.errors import BadRequest
from iotistica.series.levels import WIDTHS, floor
from iotistica.store.merged import FIRST, LAST, STATE
from iotistica.store.pool import Row
from iotistica.store.query_slots import QuerySlots, Reader

_IS_OWN = "SELECT EXISTS (SELECT FROM agents WHERE tenant_id = $1 AND uuid = $2)"
_BUCKETS = f"""
SELECT bucket, nullif(device_name, '') AS device_name,
       state[2] / nullif(state[1], 0) AS avg_value, min_value, max_value,
       float8_stddev_samp(state) AS stddev_value, first_value[2] AS first_value,
       last_value[2] AS last_value, sample_count
FROM (
    SELECT part.bucket, coalesce(part.device_name, '') AS device_name,
           {STATE} AS state,
           min(min_value) AS min_value, max(max_value) AS max_value,
           {FIRST} AS first_value,
           {LAST} AS last_value,
           sum(sample_count)::bigint AS sample_count
    FROM agents CROSS JOIN LATERAL
        readings_buckets($3, ARRAY[agents.uuid], ARRAY[$4], $5, $6) AS part
    WHERE agents.tenant_id = $1 AND agents.uuid = $2
    GROUP BY 1, 2
) AS merged
ORDER BY bucket DESC, device_name LIMIT $7
"""  # noqa: S608 (constants only)
_SUMMARY = """
SELECT metric_name, protocol, unit, sum(sample_count)::bigint AS total_readings,
       coalesce(max(last_time), max(bucket)) AS last_reading_time,
       coalesce(min(first_time), min(bucket)) AS first_reading_time
FROM agents CROSS JOIN LATERAL readings_buckets(
    'daily', ARRAY[agents.uuid],
    ARRAY(SELECT DISTINCT metric_name FROM readings_latest WHERE agent_uuid = agents.uuid),
    $3, $4
)
WHERE agents.tenant_id = $1 AND agents.uuid = $2
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""

_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
"""No reading is older."""
_AHEAD = timedelta(days=2)


class BucketStore:
    """Every method raises `StoreUnavailable`, `TooSlow`, `Busy`, and gives None for an agent that
    is unknown or another tenant's."""

    def __init__(self, slots: QuerySlots, *, most: int = 100_000) -> None:
        self._slots = slots
        self._most = most

    async def buckets(
        self,
        tenant: str,
        agent: UUID,
        metric: str,
        *,
        level: Literal["1h", "daily"],
        start: datetime,
        end: datetime,
    ) -> list[Row] | None:
        """Those that hold any time of the range, the newest first, each device by itself.

        Raises `BadRequest` for more than there may be in one answer.
        """
        width = WIDTHS[level]
        since, until = floor(start, width), floor(end, width) + width
        async with self._slots.take("read rollups") as reader:
            if not await _is_own(reader, tenant, agent):
                return None
            rows = await reader.fetch(
                _BUCKETS, *(tenant, agent, level, metric, since, until, self._most + 1)
            )
        if len(rows) > self._most:
            raise BadRequest(
                f"the range has more than {self._most} buckets (IOTISTICA_QUERY_MAX_POINTS); "
                "ask for a shorter one"
            )
        return rows

    async def summary(self, tenant: str, agent: UUID) -> list[Row] | None:
        """How many readings of each metric there are, and since when."""
        async with self._slots.take("read rollups") as reader:
            if not await _is_own(reader, tenant, agent):
                return None
            tomorrow = floor(datetime.now(UTC) + _AHEAD, WIDTHS["daily"])
            return await reader.fetch(_SUMMARY, tenant, agent, _FIRST, tomorrow)


async def _is_own(reader: Reader, tenant: str, agent: UUID) -> bool:
    return bool(await reader.fetchval(_IS_OWN, tenant, agent))
