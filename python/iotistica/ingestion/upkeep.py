"""What a process does beside reading: measure, and remove consumers that have left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from iotistica import log, metrics
from iotistica.errors import StoreUnavailable
from iotistica.ingestion.lanes import LaneState
from iotistica.store.pool import PoolUse
from iotistica.streams import Streams

_LOG = log.get(__name__)

_AT_ONCE = 32
_LOOP_SAMPLE_S = 0.05


async def measure(streams: Streams, lanes: Iterable[LaneState], pool: PoolUse) -> None:
    """Set the gauges of streams, Redis and pool. Raises `StoreUnavailable`."""
    for state, connections in (("active", pool.active), ("idle", pool.idle), ("most", pool.most)):
        metrics.DATABASE_POOL.labels(state).set(connections)
    tenants = set()
    for lane in lanes:
        tenants.add(tenant := lane.lane.tenant)
        if (depth := lane.depth) is not None:
            metrics.STREAM_LENGTH.labels(tenant, lane.feed).set(depth.entries)
            metrics.STREAM_LAG.labels(tenant, lane.feed).set(depth.lag)
            metrics.STREAM_PENDING.labels(tenant, lane.feed).set(depth.pending)
    metrics.TENANTS.set(len(tenants))
    used, most = await streams.memory_bytes()
    metrics.REDIS_MEMORY.labels("used").set(used)
    metrics.REDIS_MEMORY.labels("most").set(most)


async def sample_loop() -> None:
    """Notice how late the event loop calls back."""
    before = time.monotonic()
    await asyncio.sleep(_LOOP_SAMPLE_S)
    metrics.LOOP_DELAY_SECONDS.observe(max(time.monotonic() - before - _LOOP_SAMPLE_S, 0))


async def remove_consumers(streams: Streams, lanes: Iterable[LaneState], *, idle_ms: int) -> None:
    """Remove consumers of other processes that hold nothing and did nothing for so long.

    Raises `StoreUnavailable`.
    """
    for state in list(lanes):
        if state.depth is None or state.depth.consumers < 2:
            continue
        lane = state.lane
        removed = await streams.remove_consumers(
            lane.tenant, min_idle_ms=idle_ms, keep=lane.consumer, feed=lane.feed
        )
        if removed:
            metrics.CONSUMERS_REMOVED.inc(len(removed))
            _LOG.info("consumers removed", tenant=lane.tenant, feed=state.feed, names=removed)


async def leave(streams: Streams, lanes: Iterable[LaneState]) -> None:
    """Remove our own consumers, except where entries are still theirs."""
    ours = [state.lane for state in lanes if state.depth is not None and state.depth.consumers]
    try:
        for first in range(0, len(ours), _AT_ONCE):
            await asyncio.gather(
                *(
                    streams.remove_consumers(
                        lane.tenant, min_idle_ms=0, only=lane.consumer, feed=lane.feed
                    )
                    for lane in ours[first : first + _AT_ONCE]
                )
            )
    except StoreUnavailable as error:
        _LOG.debug("consumers stay", error=str(error))
