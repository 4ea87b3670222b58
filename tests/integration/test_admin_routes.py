"""What administrators look after: the watch on agents, and the stream of logs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from tests.rest import Rest

from iotistica import keys
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.store.presence import PresenceStore
from iotistica.streams import Streams

BEAT, CHECK = "/api/v1/admin/heartbeat", "/api/v1/admin/heartbeat/check"


async def test_the_heartbeat_tells_who_watches(
    rest: Rest, pool: Pool, connection: asyncpg.Connection
) -> None:
    nobody = (await rest.ask("GET", BEAT)).body
    assert nobody == {
        "status": "ok",
        "heartbeat": {
            "enabled": False,
            "checkIntervalS": 30.0,
            "offlineAfterS": 300.0,
            "watchingSince": None,
            "lastCheckAt": None,
        },
    }
    await PresenceStore(pool, offline_after_s=300).check(gap_s=90)
    somebody = (await rest.ask("GET", BEAT, role="manager")).body["heartbeat"]
    assert somebody["enabled"]
    assert somebody["lastCheckAt"] == somebody["watchingSince"]
    at = datetime.fromisoformat(somebody["lastCheckAt"])
    assert abs(at - datetime.now(UTC)) < timedelta(seconds=30)
    await connection.execute("UPDATE presence_watch SET checked_at = now() - interval '91 s'")
    assert not (await rest.ask("GET", BEAT)).body["heartbeat"]["enabled"]


async def test_a_look_finds_the_silent_agents_of_the_tenant_alone(
    rest: Rest, pool: Pool, connection: asyncpg.Connection
) -> None:
    store, (silent, heard, foreign) = AgentStore(pool), (str(uuid4()) for _ in range(3))
    await store.ensure_tenant("another")
    await store.add_agents(rest.tenant, [(silent, "a"), (heard, "b")])
    await store.add_agents("another", [(foreign, "c")])
    await connection.execute(
        "UPDATE agents SET is_online = true, last_seen_at = now() - interval '301 s'"
    )
    await connection.execute("UPDATE agents SET last_seen_at = now() WHERE uuid = $1", heard)

    # While nobody watches, silence says nothing.
    refused = await rest.ask("POST", CHECK)
    assert (refused.status, refused.body["message"]) == (
        409,
        "no control process watches now, so silence says nothing",
    )
    await connection.execute(
        "INSERT INTO presence_watch (since, checked_at) VALUES (now() - interval '100 s', now())"
    )
    assert (await rest.ask("POST", CHECK)).body["offline"] == []
    await connection.execute("UPDATE presence_watch SET since = now() - interval '1 h'")
    found = await rest.ask("POST", CHECK)
    assert (found.status, found.body["offline"]) == (200, [silent])
    assert found.body["message"] == "Heartbeat check completed: 1 went offline"
    rows = await connection.fetch("SELECT uuid::text FROM agents WHERE is_online")
    assert {row["uuid"] for row in rows} == {heard, foreign}
    events = await connection.fetch("SELECT agent_uuid::text, type FROM agent_events")
    assert [tuple(row) for row in events] == [(silent, "offline")]
    assert (await rest.ask("POST", CHECK)).body["offline"] == []


async def test_the_log_queue_is_that_of_the_tenant(rest: Rest, streams: Streams) -> None:
    path = "/api/v1/admin/log-queue/stats"
    empty = {
        "stream": keys.log_stream(rest.tenant),
        "length": 0,
        "limit": 500_000,
        "pending": 0,
        "lag": 0,
        "consumers": 0,
    }
    assert (await rest.ask("GET", path)).body == empty
    await streams.logs.add(rest.tenant, [("a", "1"), ("a", "2"), ("a", "3")])
    assert (await rest.ask("GET", path)).body == {**empty, "length": 3, "lag": 3}
    taken = await streams.logs.read(rest.tenant, "writer", count=2)
    assert (await rest.ask("GET", path)).body == {
        **empty,
        "length": 3,
        "pending": 2,
        "lag": 1,
        "consumers": 1,
    }
    await streams.logs.done(rest.tenant, [entry_id for entry_id, _ in taken])
    assert (await rest.ask("GET", path)).body["length"] == 1
    assert (await rest.ask("GET", path, tenant="another")).body["length"] == 0


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", BEAT, "manager"),
        ("POST", CHECK, "admin"),
        ("GET", "/api/v1/admin/log-queue/stats", "manager"),
    ],
)
async def test_administration_needs_its_permission(
    rest: Rest, method: str, path: str, allowed: str
) -> None:
    for role, refused in ((None, 401), ("operator", 403)):
        assert (await rest.ask(method, path, role=role)).status == refused
    assert (await rest.ask(method, path, role=allowed)).status in (200, 409)


async def test_the_reference_s_doubled_path_is_none(rest: Rest) -> None:
    assert (await rest.ask("GET", "/api/v1/admin/admin/heartbeat")).status == 404
