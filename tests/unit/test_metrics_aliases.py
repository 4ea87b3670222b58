"""The reference's metric names, computed from ours."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from iotistica import metrics, metrics_aliases

# Reference section 4.5, without what is left out on purpose.
GAUGES = [
    "stream_length",
    "worker_lag",
    "pending_count",
    "dlq_length",
    "worker_count",
    "process_cpu_percent",
    "process_rss_bytes",
    "event_loop_delay_mean_ms",
    "event_loop_delay_p95_ms",
    "redis_connected",
    "redis_memory_used_bytes",
    "redis_memory_max_bytes",
    "batch_latency_p95_ms",
    "insert_latency_p95_ms",
    "ack_latency_p95_ms",
    "processing_latency_p95_ms",
    "dwell_latency_p95_ms",
    "db_pool_total_connections",
    "db_pool_idle_connections",
    "db_pool_active_connections",
    "db_pool_saturation_pct",
    "db_pool_configured_max",
]
COUNTERS = [
    "messages_processed_total",
    "readings_inserted_total",
    "messages_failed_total",
    "messages_dropped_total",
    "oom_errors_total",
    "db_backpressure_events_total",
    "redis_reconnects_total",
]


def exposed() -> dict[str, float]:
    metrics_aliases.register()
    return {
        sample.name.removeprefix(metrics_aliases.PREFIX): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith(metrics_aliases.PREFIX)
    }


def test_every_name_is_there_once_it_has_a_value() -> None:
    for stage in ("store", "encode", "commit", "settle"):
        metrics.STAGE_SECONDS.labels(stage).observe(0.25)
    metrics.DWELL_SECONDS.observe(0.25)
    metrics.LOOP_DELAY_SECONDS.observe(0.25)
    assert sorted(exposed()) == sorted(GAUGES + COUNTERS)


def test_values_are_sums_over_tenants_and_in_the_units_of_the_reference() -> None:
    metrics.STREAM_LENGTH.clear()  # what other tests of this process have left
    for tenant, feed, entries in (("a", "live", 3), ("a", "backfill", 4), ("b", "live", 5)):
        metrics.STREAM_LENGTH.labels(tenant, feed).set(entries)
    for state, connections in (("active", 3), ("idle", 1), ("most", 8)):
        metrics.DATABASE_POOL.labels(state).set(connections)
    metrics.STAGE_SECONDS.labels("commit")._recent.clear()
    for _ in range(100):
        metrics.STAGE_SECONDS.labels("commit").observe(0.25)
    before = exposed()
    metrics.READINGS_STORED.inc(7)
    after = exposed()
    metrics.STREAM_LENGTH.clear()
    assert after["stream_length"] == 12
    assert after["insert_latency_p95_ms"] == 250
    assert after["db_pool_saturation_pct"] == 37.5
    assert (after["db_pool_total_connections"], after["db_pool_configured_max"]) == (4, 8)
    assert after["readings_inserted_total"] - before["readings_inserted_total"] == 7
    assert after["process_rss_bytes"] > 1e6


def test_a_p95_is_of_the_last_hundred_and_forgets_what_is_old() -> None:
    histogram = metrics.RecentHistogram("p95_of_a_test", "For a test", registry=None)
    assert histogram.p95() is None
    for _ in range(50):
        histogram.observe(9.0)
    for number in range(100):
        histogram.observe(number / 100)
    assert histogram.p95() == 0.94
    assert histogram.p95(within_s=0) is None
