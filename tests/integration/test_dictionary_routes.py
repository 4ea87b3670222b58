"""Dictionaries of agents, by REST."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import pytest
from tests.dictionaries import NAMES, learn
from tests.rest import Rest

from iotistica import keys
from iotistica._native import format_topic
from iotistica.dictionaries.library import RESYNC
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.streams import Streams, outgoing


@pytest.fixture
async def agent(rest: Rest, pool: Pool) -> str:
    agent = str(uuid.uuid4())
    await AgentStore(pool).add_agents(rest.tenant, [(agent, "test")])
    return agent


async def test_the_current_dictionary_and_those_before_it(
    rest: Rest, pool: Pool, streams: Streams, agent: str
) -> None:
    parts = {"enums": {"unit": {"C": 1}}, "metrics": {"modbus": {"t": 0}}, "hash": "new"}
    await learn(pool, streams, rest.tenant, agent, hash="old")
    await learn(
        pool, streams, rest.tenant, agent, version=2, devices={"modbus": {"plc": 3}}, **parts
    )
    answer = await rest.ask("GET", f"/api/v1/agents/{agent}/dictionary", role="viewer")
    assert answer.status == 200
    body = answer.body
    learned_at = datetime.fromisoformat(body["learnedAt"])
    assert datetime.now(UTC) - learned_at < timedelta(minutes=1)
    versions = body.pop("versions")
    assert body == {
        "agentUuid": agent,
        "version": 2,
        "hash": "new",
        "learnedAt": body["learnedAt"],
        "isCurrent": True,
        "fields": {str(index): name for index, name in enumerate(NAMES)},
        "enums": {"unit": {"C": 1}},
        "metrics": {"modbus": {"t": 0}},
        "devices": {"modbus": {"plc": 3}},
    }
    assert [(one["version"], one["hash"], one["isCurrent"]) for one in versions] == [
        (2, "new", True),
        (1, "old", False),
    ]
    old = await rest.ask("GET", f"/api/v1/agents/{agent}/dictionary?version=1")
    assert (old.body["version"], old.body["isCurrent"], old.body["enums"]) == (1, False, {})
    assert old.body["versions"] == versions


async def test_none_is_not_found(rest: Rest, pool: Pool, streams: Streams, agent: str) -> None:
    path = f"/api/v1/agents/{agent}/dictionary"
    assert (await rest.ask("GET", path)).status == 404
    await learn(pool, streams, rest.tenant, agent)
    assert (await rest.ask("GET", f"{path}?version=2")).status == 404
    assert (await rest.ask("GET", f"{path}?version=-1")).status == 400
    assert (await rest.ask("GET", f"/api/v1/agents/{uuid.uuid4()}/dictionary")).status == 404
    foreign = await rest.ask("GET", path, tenant="0123456789ab")
    assert (foreign.status, foreign.body["message"]) == (404, f"agent {agent} has no dictionary")


async def test_an_operator_asks_for_a_dictionary(
    rest: Rest, pool: Pool, streams: Streams, agent: str, connection: asyncpg.Connection
) -> None:
    path = f"/api/v1/agents/{agent}/dictionary/resync"
    await learn(pool, streams, rest.tenant, agent, version=6)
    assert (await rest.ask("POST", path, role="viewer")).status == 403
    assert (await rest.ask("POST", path, tenant="0123456789ab")).status == 404
    first = await rest.ask("POST", path, role="operator")
    assert (first.status, first.body["requested"]) == (202, True)
    again = await rest.ask("POST", path, role="operator")
    assert (again.status, again.body["requested"]) == (202, False)
    [(_, fields)] = await streams.outbox.read("test", count=10)
    sent = outgoing(fields)
    assert sent.topic == format_topic(rest.tenant, agent, RESYNC)
    request = orjson.loads(sent.payload)
    assert request.pop("timestamp").endswith("Z")
    assert request == {"action": "resync", "reason": "dictionary_missing", "expectedVersion": 6}
    events = await connection.fetch(
        "SELECT event_type FROM audit_logs WHERE agent_uuid = $1", uuid.UUID(agent)
    )
    assert [row["event_type"] for row in events] == ["agent.dictionary_asked"]
    assert keys.dictionary_asked(agent) == f"dict:{agent}:asked"
