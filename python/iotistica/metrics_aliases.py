"""The reference platform's metric names (reference section 4.5), so that its dashboards go on
working: each is computed from ours when it is asked for.

Left out is what could not be told truthfully: the sizes of a JavaScript heap, requests that wait
for a connection of the pool (asyncpg does not say), and the latencies `resolve` and `telemetry`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from iotistica import metrics
from iotistica.metrics import RecentHistogram

PREFIX = "iotistic_ingestion_"


class Alias(NamedTuple):
    """Where a value comes from; None while there is none."""

    value: Callable[[], float | None]
    text: str


def _sum(metric: MetricWrapperBase, **labels: str) -> Callable[[], float]:
    """Over all labels but those given: the reference has one tenant to a process, and no labels."""

    def value() -> float:
        return sum(
            sample.value
            for family in metric.collect()
            for sample in family.samples
            if not sample.name.endswith("_created") and labels.items() <= sample.labels.items()
        )

    return value


def _p95_ms(histogram: RecentHistogram) -> Callable[[], float | None]:
    def value() -> float | None:
        seconds = histogram.p95()
        return None if seconds is None else 1000 * seconds

    return value


def _stage_p95_ms(stage: str) -> Callable[[], float | None]:
    return _p95_ms(metrics.STAGE_SECONDS.labels(stage))


def _mean_ms(histogram: RecentHistogram) -> Callable[[], float | None]:
    def value() -> float | None:
        seconds = histogram.recent()
        return 1000 * sum(seconds) / len(seconds) if seconds else None

    return value


def _pool_percent() -> float:
    most = _sum(metrics.DATABASE_POOL, state="most")()
    return 100 * _sum(metrics.DATABASE_POOL, state="active")() / most if most else 0.0


def _pool_open() -> float:
    return sum(_sum(metrics.DATABASE_POOL, state=state)() for state in ("active", "idle"))


def _rss_bytes() -> float | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


class _ProcessorShare:
    """Percent of one core since the last time it was asked."""

    def __init__(self) -> None:
        self._at, self._used = time.monotonic(), time.process_time()

    def __call__(self) -> float | None:
        at, used = time.monotonic(), time.process_time()
        elapsed, spent = at - self._at, used - self._used
        self._at, self._used = at, used
        return 100 * spent / elapsed if elapsed > 0 else None


GAUGES: Mapping[str, Alias] = {
    "stream_length": Alias(_sum(metrics.STREAM_LENGTH), "Entries in the ingestion streams"),
    "worker_lag": Alias(_sum(metrics.STREAM_LAG), "Entries not yet delivered"),
    "pending_count": Alias(_sum(metrics.STREAM_PENDING), "Entries delivered, not acknowledged"),
    "dlq_length": Alias(_sum(metrics.DLQ_LENGTH), "Dead letters"),
    "worker_count": Alias(_sum(metrics.WORKERS), "Batches that may be under way at once"),
    "process_cpu_percent": Alias(_ProcessorShare(), "Percent of one core since the last scrape"),
    "process_rss_bytes": Alias(_rss_bytes, "Resident memory"),
    "event_loop_delay_mean_ms": Alias(_mean_ms(metrics.LOOP_DELAY_SECONDS), "Event loop, mean"),
    "event_loop_delay_p95_ms": Alias(_p95_ms(metrics.LOOP_DELAY_SECONDS), "Event loop, p95"),
    "redis_connected": Alias(_sum(metrics.REDIS_CONNECTED), "1 while Redis answers"),
    "redis_memory_used_bytes": Alias(_sum(metrics.REDIS_MEMORY, kind="used"), "Memory of Redis"),
    "redis_memory_max_bytes": Alias(_sum(metrics.REDIS_MEMORY, kind="most"), "Its maxmemory"),
    "batch_latency_p95_ms": Alias(_stage_p95_ms("store"), "Encoded, committed and settled"),
    "processing_latency_p95_ms": Alias(_stage_p95_ms("encode"), "Decoded and normalized"),
    "insert_latency_p95_ms": Alias(_stage_p95_ms("commit"), "Committed"),
    "ack_latency_p95_ms": Alias(_stage_p95_ms("settle"), "Acknowledged"),
    "dwell_latency_p95_ms": Alias(_p95_ms(metrics.DWELL_SECONDS), "Accepted to committed"),
    "db_pool_total_connections": Alias(_pool_open, "Connections that are open"),
    "db_pool_idle_connections": Alias(_sum(metrics.DATABASE_POOL, state="idle"), "Idle ones"),
    "db_pool_active_connections": Alias(_sum(metrics.DATABASE_POOL, state="active"), "In use"),
    "db_pool_saturation_pct": Alias(_pool_percent, "Share of the pool in use"),
    "db_pool_configured_max": Alias(_sum(metrics.DATABASE_POOL, state="most"), "Its bound"),
}

COUNTERS: Mapping[str, Alias] = {
    "messages_processed": Alias(_sum(metrics.INGESTION_MESSAGES), "Messages read and decided"),
    "readings_inserted": Alias(_sum(metrics.READINGS_STORED), "Rows inserted"),
    "messages_failed": Alias(_sum(metrics.DEAD_LETTERS), "Messages that became dead letters"),
    "messages_dropped": Alias(lambda: 0.0, "Always 0: nothing is dropped"),
    "oom_errors": Alias(_sum(metrics.REDIS_FULL), "Commands that a full Redis refused"),
    "db_backpressure_events": Alias(_sum(metrics.BACKPRESSURE), "Times that less was read"),
    "redis_reconnects": Alias(_sum(metrics.REDIS_RECONNECTS), "Connections made again"),
}


class Aliases(Collector):
    """Collects all of them."""

    def collect(self) -> Iterator[Metric]:
        """The families, without those that have no value now."""
        for kind, aliases in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, alias in aliases.items():
                if (value := alias.value()) is not None:
                    yield kind(PREFIX + name, alias.text, value=value)

    def describe(self) -> Iterator[Metric]:
        """The same by name only, as reading them has side effects."""
        yield from (GaugeMetricFamily(PREFIX + name, alias.text) for name, alias in GAUGES.items())
        yield from (
            CounterMetricFamily(PREFIX + name, alias.text) for name, alias in COUNTERS.items()
        )


@cache
def register() -> Aliases:
    """Add them to this process's metrics, once."""
    aliases = Aliases()
    metrics.REGISTRY.register(aliases)
    return aliases
