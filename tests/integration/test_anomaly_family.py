"""Anomaly events from the wire to events, incidents, alerts, readings and the live channel."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from tests import books
from tests.control import Place, until

from iotistica import keys, ledger
from iotistica.anomalies.event import read
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.anomalies import AnomalyStore, Found
from iotistica.store.pool import Pool
from iotistica.store.pruning import prune

ENDPOINT = "11111111-2222-4333-8444-555555555555"
NOW_MS = int(time.time() * 1000)


def anomaly(place: Place | None = None, **changes: Any) -> dict[str, Any]:
    """As a real agent sends it."""
    return {
        "msgId": f"{uuid.uuid4()}",
        "agentUuid": place.agent if place else None,
        "deviceName": "pump-1",
        "deviceUuid": "aaaaaaaa-2222-4333-8444-555555555555",
        "deviceType": "modbus",
        "deviceState": "running",
        "metric": f"{ENDPOINT}_pressure",
        "timestampMs": NOW_MS,
        "windowStartMs": NOW_MS - 60_000,
        "windowEndMs": NOW_MS,
        "observedValue": 9.5,
        "baseline": {
            "median": 4.0,
            "mean": 4.1,
            "stdDev": 0.2,
            "sampleCount": 300,
            "method": "zscore",
            "source": "buffer",
        },
        "anomalyScore": 12.5,
        "confidence": 0.93,
        "severity": "warning",
        "severityReason": "27 deviations above the mean",
        "triggeredBy": ["zscore", "mad"],
        "suppressed": False,
        "expectedRange": [3.5, 4.7],
        "deviation": 5.4,
        "fingerprint": "pressure-high",
        "cooldownSec": 300,
        "firstSeen": NOW_MS - 1000,
        "consecutiveCount": 3,
        "eventCount": 7,
        **changes,
    }


async def stored(place: Place, count: int) -> list[Any]:
    async def enough() -> list[Any]:
        rows = await place.database.fetch("SELECT * FROM anomaly_events ORDER BY timestamp_ms, id")
        return rows if len(rows) >= count else []

    return await until(enough)


async def test_an_event_becomes_all_that_it_should(place: Place) -> None:
    subscriber = place.redis.pubsub()
    await subscriber.subscribe(keys.anomalies_channel(place.tenant, place.agent))
    event = anomaly(place, metric=f"{place.agent}_{ENDPOINT}_pressure")
    async with place.control():
        await place.tell("events/anomaly", event)
        (row,) = await stored(place, 1)
        topic, payload = (await until(place.readings))[0]
    fields = dict(row)
    for name in ("id", "received_at", "baseline"):
        del fields[name]
    assert fields == {
        "tenant_id": place.tenant,
        "msg_id": event["msgId"],
        "agent_uuid": uuid.UUID(place.agent),
        "device_name": "pump-1",
        "device_uuid": event["deviceUuid"],
        "device_type": "modbus",
        "device_state": "running",
        "metric": "pressure",
        "endpoint_uuid": uuid.UUID(ENDPOINT),
        "timestamp_ms": NOW_MS,
        "window_start_ms": NOW_MS - 60_000,
        "window_end_ms": NOW_MS,
        "observed_value": 9.5,
        "anomaly_score": 12.5,
        "confidence": 0.93,
        "severity": "warning",
        "severity_reason": "27 deviations above the mean",
        "triggered_by": ["zscore", "mad"],
        "suppressed": False,
        "expected_range": [3.5, 4.7],
        "deviation": 5.4,
        "fingerprint": "pressure-high",
        "cooldown_sec": 300.0,
        "first_seen_ms": NOW_MS - 1000,
        "consecutive_count": 3,
        "event_count": 7,
        "incident_id": row["incident_id"],
    }
    baseline = orjson.loads(row["baseline"])
    assert baseline == {**event["baseline"], "sampleCount": 300.0}
    incident = await place.database.fetchrow("SELECT * FROM anomaly_incidents")
    assert incident["incident_id"] == row["incident_id"]
    assert (incident["status"], incident["severity"]) == ("open", "warning")
    assert (incident["affected_devices"], incident["event_count"]) == (["pump-1"], 1)
    assert incident["affected_agents"] == [uuid.UUID(place.agent)]
    assert incident["first_seen"] == incident["last_seen"] == incident["opened_at"]
    assert int(incident["opened_at"].timestamp() * 1000 + 0.5) == NOW_MS
    assert (incident["max_anomaly_score"], incident["max_confidence"]) == (12.5, 0.93)
    alert = await place.database.fetchrow("SELECT * FROM anomaly_alerts")
    assert (alert["incident_id"], alert["severity"]) == (row["incident_id"], "warning")
    assert (alert["previous_severity"], alert["status"]) == (None, "open")
    assert alert["message"] == (
        "pressure of pump-1 is 9.5; expected is 3.5 to 4.7 (27 deviations above the mean)"
    )
    assert topic == place.topic("endpoints/anomaly")
    assert payload == {
        "readings": [
            {
                "metric": "pressure",
                "value": 9.5,
                "quality": "good",
                "timestamp": NOW_MS,
                "protocol": "modbus",
                "deviceName": "pump-1",
                "device_uuid": event["deviceUuid"],
                "endpoint_uuid": ENDPOINT,
                "anomaly_score": 12.5,
            }
        ]
    }
    counted = await books.counts(place.settings.require("redis_url"), place.tenant)
    assert counted == {place.agent: {ledger.ACCEPTED: 1}}
    live = await published(subscriber, 1)
    assert live[0]["deviceUuid"] == place.agent
    assert live[0]["anomaly"] == {
        "metric": "pressure",
        "deviceName": "pump-1",
        "severity": "warning",
        "observedValue": 9.5,
        "anomalyScore": 12.5,
        "fingerprint": "pressure-high",
        "suppressed": False,
        "incidentId": row["incident_id"],
        "alert": "warning",
    }
    await subscriber.aclose()


async def published(subscriber: Any, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=5)
            if message is not None:
                found.append(orjson.loads(message["data"]))
    return found


async def test_an_event_that_comes_again_changes_nothing(place: Place) -> None:
    first = anomaly(place)
    named = {**first, "timestampMs": NOW_MS - 5}  # the same msgId
    unnamed = {**first, "msgId": None}
    async with place.control("control-0"), place.control("control-1"):
        await place.tell("events/anomaly", first)
        await stored(place, 1)
        await place.tell("events/anomaly", first, named, unnamed, first)
        await place.tell("events/anomaly", anomaly(place, fingerprint="last"))
        rows = await stored(place, 2)
    assert [row["fingerprint"] for row in rows] == ["pressure-high", "last"]
    counts = await place.database.fetch(
        "SELECT event_count FROM anomaly_incidents ORDER BY incident_id"
    )
    assert [row["event_count"] for row in counts] == [1, 1]
    assert await place.database.fetchval("SELECT count(*) FROM anomaly_alerts") == 2


@pytest.mark.parametrize(
    ("change", "reason", "error"),
    [
        ({"fingerprint": None}, b"invalid_anomaly", b"the event lacks the required field fing"),
        ({"metric": None}, b"invalid_anomaly", b"the event lacks the required field metric"),
        ({"timestampMs": None}, b"invalid_anomaly", b"the event lacks the required field time"),
        ({"confidence": 7}, b"invalid_anomaly", b"confidence is 7: expected float <= 1.0"),
        ({"timestampMs": 1000}, b"too_old", b"timestampMs is 1000; the retention is "),
        ({"timestampMs": NOW_MS + 10**9}, b"in_the_future", b"timestampMs is "),
        ({"agentUuid": ENDPOINT}, b"foreign_agent", b"agentUuid is '11111111-"),
    ],
)
async def test_an_event_that_cannot_pass_is_a_dead_letter(
    place: Place, change: dict[str, Any], reason: bytes, error: bytes
) -> None:
    bad = anomaly(place, **change)
    async with place.control():
        await place.tell("events/anomaly", bad, anomaly(place))
        (letter,) = await until(place.letters)
        await stored(place, 1)
    assert (letter[b"stage"], letter[b"reason"]) == (b"control", reason)
    assert letter[b"error"].startswith(error)
    assert orjson.loads(letter[b"data"]) == bad
    assert letter[b"topic"] == place.topic("events/anomaly").encode()


async def test_suppressed_events_are_stored_too(place: Place) -> None:
    async with place.control():
        await place.tell("events/anomaly", anomaly(place, suppressed=True))
        (row,) = await stored(place, 1)
        assert len(await until(place.readings)) == 1
    assert (row["suppressed"], row["incident_id"]) == (True, None)
    assert await place.database.fetchval("SELECT count(*) FROM anomaly_incidents") == 0
    assert await place.database.fetchval("SELECT count(*) FROM anomaly_alerts") == 0


async def test_nothing_is_lost_or_doubled_while_postgres_hangs(place: Place) -> None:
    async with place.control():
        with place.stopped_postgres():
            await place.tell(
                "events/anomaly",
                *(anomaly(place, timestampMs=NOW_MS + n, msgId=f"m{n}") for n in range(5)),
            )
            await asyncio.sleep(1.5)  # longer than a statement may take
        rows = await stored(place, 5)
    assert [row["msg_id"] for row in rows] == [f"m{n}" for n in range(5)]
    assert await place.database.fetchval("SELECT event_count FROM anomaly_incidents") == 5
    assert await place.database.fetchval("SELECT count(*) FROM anomaly_alerts") == 1


# Without a broker: both storage profiles


def found(tenant: str, agent: str, **changes: Any) -> Found:
    event = read(anomaly(**{"msgId": None, **changes}))
    return Found(tenant=tenant, agent=agent, metric="pressure", endpoint=None, event=event)


async def fleet(pool: Pool, tenant: str, count: int) -> list[str]:
    await AgentStore(pool).ensure_tenant(tenant)
    agents = [str(uuid.uuid4()) for _ in range(count)]
    await AgentStore(pool).add_agents(tenant, [(one, "agent") for one in agents])
    return agents


async def test_processes_at_the_same_time_open_one_incident(pool: Pool, tenant: str) -> None:
    agents = await fleet(pool, tenant, 8)
    fingerprints = ("one", "two", "three")

    async def write(agent: str, order: Sequence[str]) -> None:
        store = AnomalyStore(pool)
        for n in range(5):
            events = [
                found(tenant, agent, fingerprint=one, timestampMs=NOW_MS + n) for one in order
            ]
            await store.keep(events)
            await store.keep(events)  # redelivered

    orders = (fingerprints, tuple(reversed(fingerprints)))
    await asyncio.gather(*(write(agent, orders[n % 2]) for n, agent in enumerate(agents)))
    rows = await pool.fetch(
        "SELECT fingerprint, event_count, affected_agents::text[] AS agents FROM anomaly_incidents"
        " ORDER BY fingerprint"
    )
    assert [(row["fingerprint"], row["event_count"]) for row in rows] == [
        ("one", 40),
        ("three", 40),
        ("two", 40),
    ]
    assert all(row["agents"] == sorted(agents) for row in rows)
    assert await pool.fetchval("SELECT count(*) FROM anomaly_alerts") == 3
    assert await pool.fetchval("SELECT count(*) FROM anomaly_events") == 120


async def test_two_tenants_share_no_incident(pool: Pool, tenant: str) -> None:
    (mine,) = await fleet(pool, tenant, 1)
    (theirs,) = await fleet(pool, "other", 1)
    await AnomalyStore(pool).keep([found(tenant, mine), found("other", theirs)])
    rows = await pool.fetch("SELECT tenant_id, event_count FROM anomaly_incidents")
    assert sorted((row["tenant_id"], row["event_count"]) for row in rows) == sorted(
        [(tenant, 1), ("other", 1)]
    )


async def test_an_incident_that_is_back_is_open_again(pool: Pool, tenant: str) -> None:
    (agent,) = await fleet(pool, tenant, 1)
    store = AnomalyStore(pool)
    await store.keep([found(tenant, agent, timestampMs=NOW_MS - 60_000)])
    await pool.execute(
        "UPDATE anomaly_incidents SET status = 'resolved', acknowledged_by = 'me',"
        " resolved_at = to_timestamp($1::float8)",
        NOW_MS / 1000 - 30,
    )
    await store.keep([found(tenant, agent)])
    row = await pool.fetchrow("SELECT * FROM anomaly_incidents")
    assert (row["status"], row["resolved_at"], row["acknowledged_by"]) == ("active", None, None)
    assert row["event_count"] == 2
    assert await pool.fetchval("SELECT count(*) FROM anomaly_alerts") == 2


async def test_old_anomalies_are_forgotten(pool: Pool, tenant: str) -> None:
    (agent,) = await fleet(pool, tenant, 1)
    store = AnomalyStore(pool)
    old = NOW_MS - 91 * 86_400_000
    await store.keep([found(tenant, agent), found(tenant, agent, timestampMs=old)])
    await pool.execute(
        "UPDATE anomaly_events SET received_at = now() - interval '91 days'"
        " WHERE timestamp_ms = $1",
        old,
    )
    removed = await prune(pool, Settings())
    assert (removed["anomaly_events"], removed["anomaly_incidents"]) == (1, 1)
    assert await pool.fetchval("SELECT array_agg(timestamp_ms) FROM anomaly_events") == [NOW_MS]
    assert await pool.fetchval("SELECT count(*) FROM anomaly_incidents") == 1
    assert await pool.fetchval("SELECT count(*) FROM anomaly_alerts") == 1
