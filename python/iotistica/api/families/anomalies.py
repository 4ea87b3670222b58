"""`events/anomaly`: what agents find strange (reference sections 1.4 and 7)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from iotistica import keys, log
from iotistica._native import format_topic
from iotistica.anomalies.event import read
from iotistica.api.batch import Batch, Telemetry
from iotistica.api.families.family import Incoming, Refusal
from iotistica.errors import BadRequest, StoreUnavailable
from iotistica.instants import iso
from iotistica.store.anomalies import AnomalyStore, Found
from iotistica.streams import Channels

_PROTOCOLS = frozenset(("modbus", "opcua", "snmp", "can", "mqtt", "bacnet", "system"))
_DAY_MS = 86_400_000

_occasional = log.Occasional(log.get(__name__))


class Anomalies:
    """Stores events, sends what was observed the way of all readings, then tells who listens.

    Everything may be done again: an event is known by its `msgId` or its content, a reading by its
    time.
    """

    filters = ("events/anomaly",)
    shared = True

    def __init__(
        self,
        store: AnomalyStore,
        channels: Channels,
        send: Callable[[Batch], Awaitable[None]],
        *,
        retention_days: int,
        max_future_s: int,
    ) -> None:
        self._store = store
        self._channels = channels
        self._send = send
        self._oldest_ms = retention_days * _DAY_MS
        self._most_future_ms = max_future_s * 1000

    async def take(self, messages: Sequence[Incoming]) -> Sequence[Refusal]:
        """Store and publish them. Raises `StoreUnavailable`."""
        refusals: list[Refusal] = []
        found: list[tuple[Incoming, Found]] = []
        for message in messages:
            one = self._read(message)
            if isinstance(one, Refusal):
                refusals.append(one)
            else:
                found.append((message, one))
        await self._store.keep([one for _, one in found])
        batches: dict[str, Telemetry] = {}
        for message, one in found:
            batch = batches.setdefault(one.tenant, Telemetry(one.tenant, time.monotonic()))
            _add_reading(batch, message, one)
        for batch in batches.values():
            if batch.fields:
                await self._send(batch)
        await self._publish([one for _, one in found if one.is_new])
        return refusals

    def _read(self, message: Incoming) -> Found | Refusal:
        try:
            event = read(message.value)
        except BadRequest as error:
            return Refusal(message, "invalid_anomaly", str(error))
        if (event.agent_uuid or message.agent).lower() != message.agent:
            rule = f"agentUuid is {str(event.agent_uuid)[:64]!r}; it was sent by {message.agent}"
            return Refusal(message, "foreign_agent", rule)
        age_ms = message.received_ms - event.timestamp_ms
        if age_ms > self._oldest_ms:
            rule = f"timestampMs is {event.timestamp_ms}; the retention is {self._oldest_ms} ms"
            return Refusal(message, "too_old", rule)
        if -age_ms > self._most_future_ms:
            rule = f"timestampMs is {event.timestamp_ms}; it lies {-age_ms} ms ahead"
            return Refusal(message, "in_the_future", rule)
        endpoint, metric = event.split(message.agent)
        return Found(
            tenant=message.tenant,
            agent=message.agent,
            metric=metric,
            endpoint=endpoint,
            event=event,
        )

    async def _publish(self, events: Sequence[Found]) -> None:
        try:
            await self._channels.publish_many(
                (keys.anomalies_channel(one.tenant, one.agent), _live(one)) for one in events
            )
        except StoreUnavailable as error:
            # Live values are for now; everything else is kept.
            _occasional.warning("anomalies were not published", error=str(error))


def _add_reading(batch: Telemetry, message: Incoming, one: Found) -> None:
    """Append what was observed to a stream entry, as a message of its protocol.

    Where the agent sent it as telemetry too, it is the same row.
    """
    event = one.event
    if event.observed_value is None:
        return
    protocol = event.device_type if event.device_type in _PROTOCOLS else None
    reading: dict[str, Any] = {
        "metric": one.metric,
        "value": event.observed_value,
        "quality": "good",
        "timestamp": event.timestamp_ms,
        "protocol": protocol,
        "deviceName": event.device_name,
        "device_uuid": event.device_uuid,
        "endpoint_uuid": one.endpoint,
        "anomaly_score": event.anomaly_score,
    }
    given = {name: value for name, value in reading.items() if value is not None}
    payload = orjson.dumps({"readings": [given]})
    topic = format_topic(message.tenant, message.agent, "endpoints/anomaly")
    batch.add(message.received_ms, topic, payload)


def _live(one: Found) -> bytes:
    event = one.event
    moment = datetime.fromtimestamp(event.timestamp_ms / 1000, UTC)
    content = {
        "metric": one.metric,
        "deviceName": event.device_name,
        "severity": event.severity,
        "observedValue": event.observed_value,
        "anomalyScore": event.anomaly_score,
        "fingerprint": event.fingerprint,
        "suppressed": bool(event.suppressed),
        "incidentId": one.incident_id,
        "alert": None if one.alert is None else one.alert.severity,
    }
    return orjson.dumps({"deviceUuid": one.agent, "anomaly": content, "timestamp": iso(moment)})
