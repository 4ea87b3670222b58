"""Every Redis key and MQTT topic that iotistica uses, as functions of the tenant.

The braces are literal parts of the keys: a Redis Cluster hashes only what stands between
them, so all keys of one tenant live in one slot (reference section 3).
"""

from __future__ import annotations

import enum

from iotistica._native import encode_agent, encode_tenant


class Feed(enum.StrEnum):
    """The two streams of a tenant's telemetry."""

    LIVE = ""
    BACKFILL = ":backfill"
    """Old data and what is over quota: read when nothing live waits."""


def ingestion_stream(tenant: str, feed: Feed = Feed.LIVE) -> str:
    """Telemetry on its way from the API to ingestion."""
    return f"tenant:{{{tenant}}}:agent:devices:ingestion{feed.value}"


def ledger(tenant: str) -> str:
    """What became of every message: a hash of `{agent}|{counter}` (see `ledger.Counter`)."""
    return f"tenant:{{{tenant}}}:ledger"


def ledger_journal(tenant: str) -> str:
    """Accepted messages that are not in the ledger yet: a hash (see `streams/acceptance.py`)."""
    return f"tenant:{{{tenant}}}:ledger:journal"


def ledger_sequences(tenant: str) -> str:
    """Numbers of its messages that were seen of each agent: a hash (see `sequences.py`)."""
    return f"tenant:{{{tenant}}}:ledger:sequences"


def spooled_batches(tenant: str) -> str:
    """Batches that ingestion keeps on disk, so that each is counted once: a hash."""
    return f"tenant:{{{tenant}}}:ledger:spooled"


def dead_letter_stream(tenant: str) -> str:
    """Messages that can never pass, with their reason and original bytes."""
    return f"tenant:{{{tenant}}}:agent:devices:dlq"


def log_stream(tenant: str) -> str:
    """Lines of logs on their way from the API to the log writers."""
    return f"tenant:{{{tenant}}}:agent:logs"


def log_writers_group(tenant: str) -> str:
    """Consumer group of the log writers."""
    return f"{tenant}:log-writers"


def log_batch(tenant: str, agent: str, batch: str) -> str:
    """There for a day where a batch of logs was taken; in the slot of the stream that took it."""
    return f"tenant:{{{tenant}}}:batch:{agent}:{batch}"


LOG_TENANTS = "iotistica:log-tenants"
"""Tenants whose log streams may have entries."""

OUTBOX = "iotistica:outbox"
"""Messages on their way to agents."""

OUTBOX_GROUP = "control"
"""Consumer group of the control processes on the outbox."""


def state_channel(tenant: str, agent: str) -> str:
    """`{deviceUuid, state, timestamp}` of each report of an agent."""
    return _channel(tenant, agent, "state")


def metrics_channel(tenant: str, agent: str) -> str:
    """`{deviceUuid, metrics, timestamp}`: what an agent says about its machine."""
    return _channel(tenant, agent, "metrics")


def logs_channel(tenant: str, agent: str) -> str:
    """`{logs: […]}` of an agent's containers."""
    return _channel(tenant, agent, "logs")


def lifecycle_channel(tenant: str, agent: str) -> str:
    """`{deviceUuid, type, data, timestamp}` of each `agent/{type}` message."""
    return _channel(tenant, agent, "agent")


def presence_channel(tenant: str, agent: str) -> str:
    """`{deviceUuid, online, timestamp}` whenever an agent comes or goes."""
    return _channel(tenant, agent, "presence")


def tenant_presence_channel(tenant: str) -> str:
    """The same of all agents of a tenant."""
    return f"tenant:{{{tenant}}}:presence"


def jobs_channel(tenant: str, agent: str) -> str:
    """`{deviceUuid, type, data, timestamp}` of whatever happens to a job of an agent."""
    return _channel(tenant, agent, "jobs")


def anomalies_channel(tenant: str, agent: str) -> str:
    """`{deviceUuid, anomaly, timestamp}` of each anomaly event."""
    return _channel(tenant, agent, "anomalies")


def alerts_channel(tenant: str) -> str:
    """`{event, alert}` whenever a rule opens or resolves an alert."""
    return f"tenant:{{{tenant}}}:alerts"


def _channel(tenant: str, agent: str, what: str) -> str:
    return f"tenant:{{{tenant}}}:device:{agent}:{what}"


GENERATION = "iotistica:generation"
"""Made anew when Redis has lost its data: so that loss is noticed where nothing else would tell."""


IDENTITY_CHANNEL = "iotistica:identity"
"""Says which user, role or key has changed, so that no process goes by what it remembers."""


def device_writers_group(tenant: str) -> str:
    """Consumer group of the ingestion workers."""
    return f"{tenant}:device-writers"


def dictionary(agent: str) -> str:
    """Key-compaction dictionary of one agent: JSON of index to field name (reference section 2).

    The reference keeps version, hash, enums and name maps beside it under suffixes.
    """
    return f"dict:{agent}"


def dictionary_serial(agent: str) -> str:
    """Beside it: which of our commits it is, so that an older one does not replace it."""
    return f"dict:{agent}:serial"


def dictionary_asked(agent: str) -> str:
    """There while the agent need not be asked for its dictionary once more."""
    return f"dict:{agent}:asked"


def parked_stream(tenant: str) -> str:
    """Telemetry that waits for a dictionary."""
    return f"tenant:{{{tenant}}}:agent:devices:parked"


def parked_index(tenant: str) -> str:
    """Which dictionary each entry of it waits for: a hash by the ids of the entries."""
    return f"tenant:{{{tenant}}}:agent:devices:parked:index"


SHARED_GROUP = "iotistica-api"
"""Name of the MQTT shared subscription: replicas of the bridge divide the messages."""


TARGETS_CHANNEL = "iotistica:targets"
"""Told the UUID of an agent whose target state has changed, or `tenant/{id}` for a default."""

CONTROL_GROUP = "iotistica-control"
"""The same for the control processes."""


def shared_filter(topic_filter: str, group: str = SHARED_GROUP) -> str:
    """Topic filter of a shared subscription (MQTT 5.0 section 4.8.2)."""
    return f"$share/{group}/{topic_filter}"


def family_filter(rest: str) -> str:
    """Filter of what all agents publish below their own topics."""
    return f"i/+/a/+/{rest}"


STRAY = "stray"
"""In the place of a tenant, for the dead letters of messages that belong to none of ours."""

TELEMETRY_FILTER = "i/+/a/+/endpoints/#"
"""Agents may use topics of several levels below `endpoints`."""

BROKER_DROPPED_TOPIC = "$SYS/broker/publish/messages/dropped"
"""Mosquitto's count of messages that it dropped since its start."""

AGENTS_CHANNEL = "iotistica:agents"
"""Told the UUID of an agent whose keys or rights have changed."""


BROKER_USERS_CHANNEL = "iotistica:broker-users"
"""Told the name of a user of the broker whose password or rights have changed; `*` is all."""

_FIGURES = (
    *("version", "uptime", "clients/#", "load/#", "messages/#", "store/#", "subscriptions/#"),
    *("shared_subscriptions/#", "retained messages/#", "heap/#", "publish/#", "bytes/#"),
)
_NODE_FIGURES = ("version", "uptime", "stats/#", "metrics/#")
SYSTEM_FILTERS = (
    *(f"$SYS/broker/{rest}" for rest in _FIGURES),
    *(f"$SYS/brokers/+/{rest}" for rest in _NODE_FIGURES),
)
"""What Mosquitto, and EMQX, say about themselves. Figures alone: `$SYS/#` has logs and client ids
too, which are those of all tenants."""

BROKER_FIGURES = "iotistica:broker:stats"
"""JSON of the broker's figures as of now (docs/broker-monitor.md)."""

BROKER_HISTORY = "iotistica:broker:history"
"""A stream with one entry a minute, whose id is the minute and whose field `point` is JSON."""

BROKER_MONITOR = "iotistica:broker:monitor"
"""Name of the process that collects the broker's figures; expires unless it is renewed."""

BROKER_CHANNEL = "iotistica:mqtt-stats"
"""The JSON of `BROKER_FIGURES` whenever it is written."""


def topics_seen(tenant: str) -> str:
    """Topics of a tenant by the time of their last message, epoch milliseconds: a sorted set."""
    return f"tenant:{{{tenant}}}:mqtt:topics"


def topic_figures(tenant: str) -> str:
    """What is known of each topic: a hash of `{letter}:{topic}` (see `streams.topics`)."""
    return f"tenant:{{{tenant}}}:mqtt:topics:figures"


def topics_channel(tenant: str) -> str:
    """`{timestamp, source, topics: […]}`: what came on which topics since the message before."""
    return f"tenant:{{{tenant}}}:mqtt-topics"


def agent_filter(tenant: str, agent: str) -> str:
    """Topic filter of everything that is an agent's own."""
    return f"i/{encode_tenant(tenant)}/a/{encode_agent(agent)}/#"
