"""Every metric in one place: name, labels, meaning. Import the object and use it.

One process has one registry; its `/metrics` is `render()`. Names carry units.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from iotistica.breaker import Breaker, State

if TYPE_CHECKING:
    from iotistica.spool import Spool

REGISTRY = CollectorRegistry()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class RecentHistogram(Histogram):
    """A histogram that remembers its last hundred observations, for decisions and gauges."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=100)
        super().__init__(*args, **kwargs)

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Take one observation into account."""
        super().observe(amount, exemplar)
        self._recent.append((time.monotonic(), amount))

    def recent(self, within_s: float = 60.0) -> list[float]:
        """The last hundred, without those that are older."""
        since = time.monotonic() - within_s
        return [amount for at, amount in self._recent if at >= since]

    def p95(self, within_s: float = 60.0) -> float | None:
        """Of `recent`; None where there is none."""
        found = sorted(self.recent(within_s))
        return found[int(0.95 * (len(found) - 1))] if found else None


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"iotistica_{name}", text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"iotistica_{name}", text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, *labels: str) -> RecentHistogram:
    return RecentHistogram(f"iotistica_{name}", text, labels, registry=REGISTRY, buckets=_SECONDS)


# Bridge
BRIDGE_MESSAGES = _counter("bridge_messages_total", "MQTT messages received", "kind")
BRIDGE_BYTES = _counter(
    "bridge_payload_bytes_total", "Payload bytes of telemetry that Redis accepted"
)
BRIDGE_REJECTED = _counter("bridge_rejected_total", "MQTT messages refused at the door", "reason")
BRIDGE_ACKED = _counter(
    "bridge_acknowledged_total", "MQTT messages acknowledged after Redis had them"
)
BRIDGE_IN_FLIGHT = _gauge(
    "bridge_in_flight_messages", "MQTT messages received and not yet acknowledged"
)
BRIDGE_CONNECTED = _gauge("bridge_connected", "1 while the MQTT session is up")
BRIDGE_RECONNECTS = _counter("bridge_reconnects_total", "MQTT sessions opened after the first")
BRIDGE_BATCH_SECONDS = _histogram(
    "bridge_batch_seconds", "First message of a batch to its reply from Redis"
)
BRIDGE_SPOOLED = _counter("bridge_spooled_total", "MQTT messages written to the spool")
BRIDGE_HELD = _counter(
    "bridge_held_total", "Attempts to hand on a batch that neither Redis nor the disk took"
)
OVER_QUOTA = _counter(
    "over_quota_messages_total", "Messages sent to the backfill stream for their quota", "tenant"
)
REDIS_LOSSES = _counter("redis_losses_total", "Times that Redis was seen to have lost its data")
REDIS_PRESSURE = _gauge("redis_memory_ratio", "Share of its memory that Redis uses")
BROKER_DROPPED = _gauge(
    "broker_dropped_messages", "Messages the broker says it dropped ($SYS); must stay 0"
)
BROKER_FIGURES = _gauge(
    "broker_figure", "What the broker says about itself ($SYS), by name; of one process", "figure"
)

# Control: everything that agents send beside telemetry
CONTROL_MESSAGES = _counter(
    "control_messages_total", "MQTT messages acknowledged after they were committed", "family"
)
CONTROL_REJECTED = _counter(
    "control_rejected_total", "MQTT messages that became dead letters", "reason"
)
CONTROL_HELD = _counter(
    "control_held_total", "Attempts to commit a batch while a server was away", "family"
)
CONTROL_BATCH_SECONDS = _histogram(
    "control_batch_seconds", "Time to decode and commit a batch", "family"
)
CHORE_DEFECTS = _counter(
    "chore_defects_total", "Defects of ours that a chore met; it is tried again", "chore"
)
PRUNED = _counter(
    "pruned_total",
    "Rows, or days of tables by days, removed at the end of their retention",
    "table",
)
RETENTION_REMOVED = _counter(
    "retention_removed_total", "Readings removed by rules and quotas of a tenant", "tenant"
)
RETENTION_BEHIND = _gauge(
    "retention_behind", "1 while a turn of retention ends before all is removed"
)
STORAGE_FILL = _gauge(
    "storage_quota_fill", "Readings that a tenant has stored as a share of its quota", "tenant"
)
PARTITIONS_AHEAD = _gauge(
    "partition_days_ahead", "Days to come whose partitions of readings are there"
)
ALERT_EVALUATION_SECONDS = _histogram(
    "alert_evaluation_seconds", "Time to evaluate the rules of a tenant that were due"
)
ALERTS = _counter("alerts_total", "Alerts of rules, by what happened to them", "event")
WEBHOOK_DELIVERIES = _counter(
    "webhook_deliveries_total",
    "Attempts to call a webhook, by what became of the delivery",
    "result",
)
CONTROL_CONNECTED = _gauge("control_connected", "1 while the MQTT session is up")
CONTROL_RECONNECTS = _counter("control_reconnects_total", "MQTT sessions opened after the first")
CONTROL_IN_FLIGHT = _gauge(
    "control_in_flight_messages", "MQTT messages received and not yet acknowledged"
)
LOG_LINES = _counter("log_lines_total", "Lines of container logs written to the table")
LOG_STREAM_ENTRIES = _gauge("log_stream_entries", "Entries of container logs that wait")
PRESENCE_CHANGES = _counter("presence_changes_total", "Agents that came or went", "presence")
OUTBOX_SENT = _counter("outbox_sent_total", "Messages to agents that the broker has")
OUTBOX_REFUSED = _counter("outbox_refused_total", "Messages to agents that the broker refused")
OUTBOX_WAITING = _gauge("outbox_messages", "Messages that wait for a control process")

# Live values
LIVE_SOCKETS = _gauge("live_sockets", "WebSockets that are open")
LIVE_SUBSCRIPTIONS = _counter("live_subscriptions_total", "Channels subscribed to", "channel")
LIVE_MESSAGES = _counter("live_messages_total", "Messages sent to those who listen")
LIVE_CLOSED = _counter(
    "live_closed_total",
    "Sockets that were closed by this side: expired, revoked, flood, slow, stopping",
    "reason",
)

# Supervisor
PROCESS_RESTARTS = _counter(
    "process_restarts_total", "Processes started again after they ended", "name"
)
PROCESS_UP = _gauge("process_up", "1 where a process answers its operations listener", "name")

# Ingestion
INGESTION_ENTRIES = _counter("ingestion_entries_total", "Stream entries read")
INGESTION_MESSAGES = _counter("ingestion_messages_total", "MQTT messages read from the stream")
READINGS_STORED = _counter("readings_stored_total", "Rows inserted into readings")
READINGS_DUPLICATE = _counter("readings_duplicate_total", "Readings whose key was already there")
READINGS_COLLIDED = _counter(
    "readings_collided_total", "Readings of different devices that share agent, metric and time"
)
READINGS_REJECTED = _counter(
    "readings_rejected_total", "Readings that can never pass", "stage", "reason"
)
READINGS_DROPPED = _counter(
    "readings_dropped_total", "Readings without content, such as metadata nodes"
)
DEAD_LETTERS = _counter("dead_letters_total", "Entries written to the dead-letter stream", "stage")
DEAD_LETTERS_REPLAYED = _counter(
    "dead_letters_replayed_total", "Dead letters tried once more", "result"
)
WRITES = _counter("ingestion_writes_total", "Batches committed", "path")
WRITE_FAILURES = _counter(
    "ingestion_write_failures_total", "Batches that PostgreSQL did not take", "kind"
)
WORKER_CRASHES = _counter(
    "ingestion_worker_crashes_total", "Batches that a defect of ours ended; they stay pending"
)
WORKERS = _gauge("ingestion_workers", "Batches that may be under way at once")
WORKERS_BUSY = _gauge("ingestion_workers_busy", "Batches that are being encoded or committed")
TENANTS = _gauge("ingestion_tenants", "Tenants whose streams are read")
LANES_QUEUED = _gauge("ingestion_lanes_queued", "Streams that have entries and wait for their turn")
LAG_SECONDS = _gauge(
    "ingestion_lag_seconds", "Longest that an entry waited to be read, within the last second"
)
CLAIMED = _counter("ingestion_claimed_entries_total", "Entries taken over from dead consumers")
CONSUMERS_REMOVED = _counter(
    "ingestion_consumers_removed_total", "Consumers removed that held nothing and did nothing"
)
GROUPS_RECREATED = _counter(
    "ingestion_groups_recreated_total", "Consumer groups that Redis had lost", "tenant"
)
LOST_AT_MOST = _counter(
    "ingestion_lost_entries_at_most_total", "Entries that may have gone with lost groups", "tenant"
)
BACKPRESSURE = _counter(
    "ingestion_backpressure_total", "Times that less was read to spare the database", "reason"
)
BATCH_SHARE = _gauge("ingestion_batch_share", "Share of a full batch that is read at once")
LOOP_DELAY_SECONDS = _histogram(
    "ingestion_event_loop_delay_seconds", "How much later than asked for the event loop calls back"
)
DATABASE_POOL = _gauge("database_pool_connections", "Connections of the pool", "state")
STAGE_SECONDS = _histogram("ingestion_stage_seconds", "Time of a batch in one stage", "stage")
DWELL_SECONDS = _histogram("ingestion_dwell_seconds", "Accepted by Redis to committed")
BREAKER_STATE = _gauge("breaker_state", "0 closed, 1 half-open, 2 open", "server")
BREAKER_OPENED = _gauge("breaker_opened", "How often a breaker has opened", "server")
SPOOL_BYTES = _gauge("spool_bytes", "Bytes that wait in the disk spool")
SPOOL_SEGMENTS = _gauge("spool_segments", "Files that wait in the disk spool")
SPOOL_PRESSURE = _gauge("spool_pressure_ratio", "Share of the bound of the spool in use")
SPOOL_QUARANTINED = _gauge("spool_quarantined_segments", "Damaged files that were put aside")
SPOOL_REPLAYED = _counter("spool_replayed_total", "Segments replayed")
SPOOLED_ENTRIES = _counter("ingestion_spooled_entries_total", "Entries written to the spool")
PARKED = _counter("ingestion_parked_total", "Messages that had to wait for a dictionary", "tenant")
PARKED_NOW = _gauge("parked_messages", "Messages that wait for a dictionary", "tenant")
UNPARKED = _counter(
    "ingestion_unparked_total", "Messages that waited for a dictionary, by how it ended", "end"
)
DICTIONARY_RESYNCS = _counter(
    "dictionary_resyncs_total", "Requests to agents to send their dictionary once more"
)
DIVERTED = _counter("ingestion_diverted_total", "Messages moved to the backfill stream")
SETTLED_BEFORE = _counter(
    "ingestion_settled_before_total", "Entries that had been settled when they were to be"
)
STREAM_LENGTH = _gauge(
    "ingestion_stream_entries", "Entries in an ingestion stream", "tenant", "feed"
)
STREAM_LAG = _gauge(
    "ingestion_lag_entries", "Entries not yet delivered to the group", "tenant", "feed"
)
STREAM_PENDING = _gauge(
    "ingestion_pending_entries", "Entries delivered and not acknowledged", "tenant", "feed"
)
DLQ_LENGTH = _gauge("dead_letter_entries", "Entries in the dead-letter stream", "tenant")
DLQ_BOUND = _gauge(
    "dead_letter_bound_ratio", "Dead letters against dlq_max_entries; nothing is trimmed", "tenant"
)
DLQ_SHARE = _gauge(
    "dead_letter_share", "Share of the last minute's messages that became dead letters", "tenant"
)

# Loss ledger: by the process that keeps it for the tenant; since Redis last lost its data
LEDGER_MESSAGES = _gauge(
    "ledger_messages", "Messages by what became of them; in flight is the rest", "tenant", "counter"
)
LEDGER_READINGS = _gauge(
    "ledger_readings", "Readings of settled messages by what became of them", "tenant", "counter"
)
LEDGER_SNAPSHOT_SECONDS = _histogram(
    "ledger_snapshot_seconds", "Time to read a tenant's ledger and to store what changed"
)
LEDGER_LOSSES = _counter("ledger_losses_total", "Times that Redis lost its data", "tenant")
LEDGER_LOST = _counter(
    "ledger_lost_messages_total",
    "Messages that were in flight at the last snapshot before Redis lost its data",
    "tenant",
)
LEDGER_UNSEEN = _counter(
    "ledger_unseen_messages_total",
    "Messages between that snapshot and the loss, estimated; most were stored, none is counted",
    "tenant",
)

# Redis
REDIS_CONNECTED = _gauge("ingestion_redis_connected", "1 while Redis answers")
REDIS_RECONNECTS = _counter("ingestion_redis_reconnects_total", "Connections to Redis made again")
REDIS_FULL = _counter("redis_out_of_memory_total", "Commands that a full Redis refused")
REDIS_MEMORY = _gauge("redis_memory_bytes", "Memory of Redis: used, and the most it may", "kind")

# Control path
TARGETS_KNOWN = _gauge("target_etags", "Agents whose ETag this process remembers")
TARGET_POLLS = _counter(
    "target_polls_total", "Polls of target states: answered from memory, or by a query", "from"
)
TARGET_POLLS_EARLY = _counter(
    "target_polls_early_total", "Polls that came sooner than the minimum interval"
)
NUDGES = _counter("target_nudges_total", "Agents told over MQTT to poll", "result")

# Web
HTTP_REQUESTS = _counter("http_requests_total", "HTTP requests answered", "route", "status")
HTTP_SECONDS = _histogram("http_request_seconds", "Time to answer an HTTP request", "route")
LOGINS = _counter("logins_total", "Logins, by what became of them", "outcome")
HTTP_LIMITED = _counter("http_limited_total", "HTTP requests over a rate limit", "limit")


def observe_breaker(server: str, breaker: Breaker) -> None:
    """Expose a breaker as it stands at each scrape."""
    states = list(State)
    BREAKER_STATE.labels(server).set_function(lambda: states.index(breaker.state))
    BREAKER_OPENED.labels(server).set_function(lambda: breaker.opened)


def observe_spool(spool: Spool) -> None:
    """Expose a spool as it stands at each scrape."""
    SPOOL_BYTES.set_function(lambda: spool.bytes)
    SPOOL_SEGMENTS.set_function(lambda: spool.segments)
    SPOOL_PRESSURE.set_function(lambda: spool.pressure)
    SPOOL_QUARANTINED.set_function(lambda: spool.quarantined)


def render() -> bytes:
    """Prometheus text exposition of this process."""
    return generate_latest(REGISTRY)


class _Merged:
    """A collector of what several processes exposed."""

    def __init__(self, expositions: Mapping[str, bytes]) -> None:
        self._expositions = expositions

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for process, text in self._expositions.items():
            for family in text_string_to_metric_families(text.decode()):
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = {**sample.labels, "process": process}
                    merged.add_sample(sample.name, labels, sample.value, sample.timestamp)
        yield from families.values()


def merge(expositions: Mapping[str, bytes]) -> bytes:
    """One exposition of several, by process name, told apart by the label `process`."""
    registry = CollectorRegistry()
    registry.register(_Merged(expositions))
    return generate_latest(registry)
