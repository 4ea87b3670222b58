"""Every Redis key and MQTT topic that iotistica uses, as functions of the tenant.

The braces are literal parts of the keys: a Redis Cluster hashes only what stands between
them, so all keys of one tenant live in one slot (reference section 3).
"""

from __future__ import annotations

import enum


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


def ledger_sequences(tenant: str) -> str:
    """Numbers of its messages that were seen of each agent: a hash (see `sequences.py`)."""
    return f"tenant:{{{tenant}}}:ledger:sequences"


def spooled_batches(tenant: str) -> str:
    """Batches that ingestion keeps on disk, so that each is counted once: a hash."""
    return f"tenant:{{{tenant}}}:ledger:spooled"


def dead_letter_stream(tenant: str) -> str:
    """Messages that can never pass, with their reason and original bytes."""
    return f"tenant:{{{tenant}}}:agent:devices:dlq"


GENERATION = "iotistica:generation"
"""Made anew when Redis has lost its data: so that loss is noticed where nothing else would tell."""


def device_writers_group(tenant: str) -> str:
    """Consumer group of the ingestion workers."""
    return f"{tenant}:device-writers"


def dictionary(agent: str) -> str:
    """Key-compaction dictionary of one agent: JSON of index to field name (reference section 2).

    The reference keeps version, hash, enums and name maps beside it under suffixes.
    """
    return f"dict:{agent}"


SHARED_GROUP = "iotistica-api"
"""Name of the MQTT shared subscription: replicas of the bridge divide the messages."""


def shared_filter(topic_filter: str) -> str:
    """Topic filter of the shared subscription (MQTT 5.0 section 4.8.2)."""
    return f"$share/{SHARED_GROUP}/{topic_filter}"


STRAY = "stray"
"""In the place of a tenant, for the dead letters of messages that belong to none of ours."""

TELEMETRY_FILTER = "i/+/a/+/endpoints/#"
"""Agents may use topics of several levels below `endpoints`."""

DICTIONARY_FILTER = "i/+/a/+/meta/dictionary"
"""Retained, and retained messages do not reach shared subscriptions."""

BROKER_DROPPED_TOPIC = "$SYS/broker/publish/messages/dropped"
"""Mosquitto's count of messages that it dropped since its start."""
