"""Letters of the families replayed: they go where their messages would have gone."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import orjson
import pytest
from tests.letters import START_MS, Letters

from iotistica._native import format_topic
from iotistica.api.again import Again
from iotistica.api.families.log_lines import entry
from iotistica.redrive import Proof, Redrive, Result
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.streams import DeadLetter, Filter, Letter, Streams, outgoing
from iotistica.streams.letter import form_of

CURRENT = "SELECT apps, system_info FROM agent_current_state WHERE agent_uuid = $1"
EVENTS = "SELECT type, data FROM agent_events WHERE agent_uuid = $1 ORDER BY id"


class Desk:
    """A tenant's letters, and what replays them."""

    def __init__(self, letters: Letters, pool: Pool, executor: ThreadPoolExecutor) -> None:
        self.letters = letters
        self.tenant, self.agent = letters.tenant, letters.agent
        self.streams = letters.streams
        self.pool = pool
        self._executor = executor

    async def register(self) -> None:
        store = AgentStore(self.pool)
        await store.ensure_tenant(self.tenant)
        await store.add_agents(self.tenant, [(self.agent, "test")])

    def dead(self, rest: str, value: Any, **changes: Any) -> DeadLetter:
        """A letter of a family, of a message of an hour ago."""
        topic = format_topic(self.tenant, self.agent, rest).encode()
        known = {"topic": topic, "stage": "control", "original_id": "", **changes}
        data = value if isinstance(value, bytes) else orjson.dumps(value)
        return self.letters.letter(data=data, **known)

    async def replay(self, *, dry_run: bool = False) -> list[Proof]:
        settings = Settings()
        tools = {"settings": settings, "pool": self.pool, "streams": self.streams}
        families = Again(**tools, executor=self._executor)
        redrive = Redrive(**tools, executor=self._executor, families=families, dry_run=dry_run)
        steps = [step async for step in redrive.run(self.tenant, Filter())]
        return [proof for step in steps for proof in step.proofs]

    async def left(self) -> list[Letter]:
        ids = await self.letters.left()
        return await self.streams.letters.whole(self.tenant, ids)


@pytest.fixture
async def desk(tenant: str, pool: Pool, streams: Streams) -> AsyncIterator[Desk]:
    letters = Letters(tenant, str(uuid.uuid4()), streams)
    with ThreadPoolExecutor(1) as executor:
        yield Desk(letters, pool, executor)


async def test_a_state_is_merged_and_its_numbers_become_telemetry(
    desk: Desk, connection: asyncpg.Connection
) -> None:
    await desk.letters.park(desk.dead("state", {"apps": {"1": {}}, "cpu_usage": 7.5}))
    await desk.register()
    [proof] = await desk.replay()
    assert (proof.result, proof.inserted, proof.counts) == (Result.PASSED, 0, {})
    assert await desk.left() == []
    row = await connection.fetchrow(CURRENT, desk.agent)
    assert orjson.loads(row["apps"]) == {"1": {}}
    depth = await desk.streams.depth(desk.tenant)
    assert (depth.entries, depth.dead_letters) == (1, 0)


async def test_an_old_state_replaces_no_newer_one(
    desk: Desk, connection: asyncpg.Connection
) -> None:
    await desk.register()
    late = desk.dead("state", {"apps": {"new": {}}}, received_ms=START_MS + 60_000)
    early = desk.dead("state", {"apps": {"old": {}}, "uptime": 5})
    await desk.letters.park(late, early)
    assert [proof.result for proof in await desk.replay()] == [Result.PASSED] * 2
    row = await connection.fetchrow(CURRENT, desk.agent)
    assert orjson.loads(row["apps"]) == {"new": {}}


async def test_an_event_counts_once_however_often_it_is_replayed(
    desk: Desk, connection: asyncpg.Connection
) -> None:
    await desk.register()
    event = desk.dead("events/door", {"msgId": "m-1", "open": True})
    await desk.letters.park(event, event)
    assert [proof.result for proof in await desk.replay()] == [Result.PASSED] * 2
    rows = await connection.fetch(EVENTS, desk.agent)
    assert [(row["type"], orjson.loads(row["data"])) for row in rows] == [
        ("door", {"msgId": "m-1", "open": True})
    ]


async def test_a_letter_that_is_refused_again_stays_one_letter(desk: Desk) -> None:
    await desk.register()
    job = uuid.uuid4()
    await desk.letters.park(desk.dead(f"jobs/{job}/update", {"status": "SUCCEEDED"}))
    for replays in (1, 2):
        [proof] = await desk.replay()
        assert (proof.result, proof.faults[0].reason) == (Result.STILL_BAD, "unknown_job")
        [letter] = await desk.left()
        assert (letter.dead.stage, letter.dead.reason) == ("control", "unknown_job")
        assert letter.dead.replays == replays
        assert letter.dead.received_ms == START_MS


async def test_an_agent_that_is_unknown_still_is_the_reason(desk: Desk) -> None:
    await desk.letters.park(desk.dead("metrics", {"cpu_usage": 1}))
    [proof] = await desk.replay()
    assert proof.faults[0].reason == "unknown_agent"
    assert proof.error == f"agent {desk.agent!r} is not one of tenant {desk.tenant!r}"


async def test_what_cannot_be_decoded_says_so(desk: Desk) -> None:
    await desk.register()
    await desk.letters.park(desk.dead("agent/status", b"{"))
    [proof] = await desk.replay()
    assert (proof.result, proof.faults[0].reason) == (Result.STILL_BAD, "undecodable")


async def test_what_the_database_refuses_costs_itself_alone(
    desk: Desk, connection: asyncpg.Connection
) -> None:
    await desk.register()
    await connection.execute("ALTER TABLE agent_events ADD CHECK (type <> 'bad')")
    await desk.letters.park(*(desk.dead(f"events/{name}", {"n": 1}) for name in ("bad", "good")))
    foretold = await desk.replay(dry_run=True)
    bad, good = await desk.replay()
    assert [proof.result for proof in foretold] == [bad.result, good.result]
    assert (bad.faults[0].reason, good.result) == ("refused_by_database", Result.PASSED)
    [letter] = await desk.left()
    assert (letter.dead.reason, letter.dead.replays) == ("refused_by_database", 1)


async def test_a_log_message_goes_into_the_log_stream(desk: Desk) -> None:
    await desk.register()
    await desk.letters.park(desk.dead("logs/pump", "started"))
    [proof] = await desk.replay()
    assert proof.result is Result.PASSED
    assert await desk.streams.logs.lengths([desk.tenant]) == {desk.tenant: 1}


async def test_an_entry_of_the_log_stream_becomes_lines(
    desk: Desk, connection: asyncpg.Connection
) -> None:
    body = orjson.dumps([{"message": "started", "serviceName": "pump"}])
    fields = entry(agent=desk.agent, batch="b", body=body, received_ms=START_MS)
    form = [one if isinstance(one, bytes) else str(one).encode() for one in fields]
    data, rest = form_of(form)
    assert base64.b64decode(data) == body
    changes = {"topic": "", "stage": "logs", "reason": "bad_log", "form": rest}
    letter = desk.dead("", data, **changes, original_id=f"{START_MS}-0")
    await desk.letters.park(letter)
    [proof] = await desk.replay()
    assert (proof.result, proof.faults[0].reason) == (Result.STILL_BAD, "bad_log")
    await desk.register()
    [proof] = await desk.replay()
    assert proof.result is Result.PASSED
    row = await connection.fetchrow("SELECT * FROM agent_logs")
    assert (str(row["agent_uuid"]), row["message"]) == (desk.agent, "started")
    assert round(row["time"].timestamp() * 1000) == START_MS


async def test_what_the_broker_refused_goes_back_into_the_outbox(desk: Desk) -> None:
    letter = desk.dead("jobs/1/accepted", b"payload", stage="outbox", reason="refused_by_broker")
    await desk.letters.park(letter)
    [proof] = await desk.replay()
    assert proof.result is Result.PASSED
    [(_, fields)] = await desk.streams.outbox.read("test", count=2)
    message = outgoing(fields)
    assert message.topic == format_topic(desk.tenant, desk.agent, "jobs/1/accepted")
    assert message.payload == b"payload"
    assert await desk.left() == []


async def test_a_rehearsal_foretells_and_changes_nothing(
    desk: Desk, connection: asyncpg.Connection
) -> None:
    await desk.register()
    await desk.letters.park(
        desk.dead("state", {"apps": {"1": {}}, "cpu_usage": 7.5}),
        desk.dead("events/door", {"msgId": "m-1"}),
        desk.dead("logs/pump", "started"),
        desk.dead(f"jobs/{uuid.uuid4()}/update", {"status": "SUCCEEDED"}),
        desk.dead("jobs/1/accepted", b"payload", stage="outbox"),
    )
    before = await desk.left()
    foretold = await desk.replay(dry_run=True)
    assert await desk.left() == before
    assert await connection.fetchrow(CURRENT, desk.agent) is None
    assert await connection.fetch(EVENTS, desk.agent) == []
    assert await desk.streams.outbox.waiting() == 0
    assert (await desk.streams.depth(desk.tenant)).entries == 0
    assert foretold == await desk.replay()
    assert [proof.result.value for proof in foretold] == ["passed"] * 3 + ["still_bad", "passed"]


async def test_telemetry_beside_letters_of_families_goes_its_own_way(
    desk: Desk, connection: asyncpg.Connection
) -> None:
    await desk.register()
    await desk.letters.park(desk.letters.letter(), desk.dead("events/door", {"msgId": "m-1"}))
    proofs = await desk.replay()
    assert sorted(proof.inserted for proof in proofs) == [0, 1]
    assert await connection.fetchval("SELECT count(*) FROM readings") == 1
    assert len(await connection.fetch(EVENTS, desk.agent)) == 1
