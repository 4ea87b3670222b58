"""Dictionaries from the wire to PostgreSQL and Redis, on every broker."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import uuid
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from tests.control import Place, until

from iotistica import keys
from iotistica.dictionaries.library import RESYNC
from iotistica.store.agents import AgentStore
from iotistica.store.dictionaries import DictionaryStore, Kept
from iotistica.store.pool import Pool, open_pool

FULL = {
    "version": 3,
    "fields": ["timestamp", "deviceName", "metric"],
    "format_version": 2,
    "enums": {"quality": {"GOOD": 1}},
    "metrics": {"modbus": {"temperature": 0}},
    "devices": {"modbus": {"pump": 7}},
}


def delta(version: int, index: int, *names: str, **parts: Any) -> dict[str, Any]:
    """As a real agent sends it."""
    fields = [{"name": n, "domain": "key", "index": index + i} for i, n in enumerate(names)]
    return {
        "version": version,
        "newFields": list(names),
        "newFieldsWithDomains": fields,
        "format_version": 2,
        "timestamp": "2026-11-25T12:00:00.000Z",
        **parts,
    }


@pytest.fixture
async def pool(place: Place) -> AsyncIterator[Pool]:
    pool = await open_pool(place.settings, application_name="test")
    yield pool
    pool.terminate()


@pytest.fixture
async def retained(place: Place) -> AsyncIterator[None]:
    """What is retained is not left to the tests after this one."""
    yield
    async with place.publisher() as agent:
        await agent.publish(place.topic("meta/dictionary"), b"", retain=True)


async def kept(place: Place, pool: Pool, version: int) -> Kept:
    """The current dictionary once it has this version."""

    async def current() -> Kept | None:
        [found] = await DictionaryStore(pool).current([place.agent]) or [None]
        return found if found is not None and found.dictionary.version == version else None

    return await until(current)


async def publish(place: Place, document: Any, *, retain: bool = True) -> None:
    async with place.publisher() as agent:
        topic = place.topic("meta/dictionary")
        await agent.publish(topic, orjson.dumps(document), retain=retain)


async def requests(place: Place) -> list[Any]:
    found = await place.redis.execute_command("XRANGE", keys.OUTBOX, "-", "+")
    fields = [dict(zip(one[::2], one[1::2], strict=True)) for _, one in found]
    return [orjson.loads(one[b"payload"]) for one in fields if one[b"topic"].endswith(b"/resync")]


async def test_a_dictionary_is_kept_in_both_places(
    place: Place, pool: Pool, retained: None
) -> None:
    async with place.control():
        await publish(place, FULL)
        found = (await kept(place, pool, 3)).dictionary
        names = f"dict:{place.agent}"
        await until(lambda: place.redis.exists(names))
        stored = {key: await place.redis.get(key) for key in await place.redis.keys("dict:*")}
    digest = hashlib.sha256(b'["deviceName","metric","timestamp"]').hexdigest()
    assert (found.hash, found.devices) == (digest, {"modbus": {"pump": 7}})
    key = names.encode()
    assert stored == {
        key: b'{"0":"timestamp","1":"deviceName","2":"metric"}',
        key + b":version": b"3",
        key + b":hash": digest.encode(),
        key + b":enums": b'{"quality":{"GOOD":1}}',
        key + b":metrics": b'{"modbus":{"temperature":0}}',
        key + b":agents": b'{"modbus":{"pump":7}}',
        key + b":serial": b"1",
    }
    assert 29 * 86_400 < await place.redis.ttl(names) <= 30 * 86_400


async def test_what_was_retained_before_is_taken(place: Place, pool: Pool, retained: None) -> None:
    await publish(place, FULL)
    async with place.control():
        await kept(place, pool, 3)


async def test_deltas_are_heard_and_extend_what_is_known(
    place: Place, pool: Pool, retained: None
) -> None:
    """The reference subscribes to `meta/+`, which a delta's topic does not match (section 1.6)."""
    async with place.control():
        await publish(place, FULL)
        await place.tell(
            "meta/dictionary/delta",
            delta(4, 3, "value", metrics={"modbus": {"level": 1}}),
            delta(5, 4, "unit", "quality", enums={"unit": {"C": 1}}),
            delta(5, 4, "unit", "quality"),  # once more
            delta(4, 3, "value"),
        )
        found = (await kept(place, pool, 5)).dictionary
        await until(lambda: redis_has(place, b"5"))
    assert list(found.fields.values()) == [*FULL["fields"], "value", "unit", "quality"]
    assert found.metrics == {"modbus": {"temperature": 0, "level": 1}}
    assert found.enums == {"quality": {"GOOD": 1}, "unit": {"C": 1}}
    assert [one.dictionary.version for one in await shelf(place, pool)] == [5, 4, 3]
    assert await place.letters() == []


async def redis_has(place: Place, version: bytes) -> bool:
    return await place.redis.get(f"dict:{place.agent}:version") == version


async def shelf(place: Place, pool: Pool) -> list[Kept]:
    return await DictionaryStore(pool).shelf(place.tenant, place.agent)


async def test_what_the_broker_retains_does_not_undo_deltas(
    place: Place, pool: Pool, retained: None
) -> None:
    async with place.control():
        await publish(place, FULL)
        await place.tell("meta/dictionary/delta", delta(4, 3, "value"))
        before = await kept(place, pool, 4)
    async with place.control("control-1"):  # a new session: the broker sends it again
        await place.tell("meta/dictionary/delta", delta(5, 4, "unit"))
        after = await kept(place, pool, 5)
    assert after.serial == before.serial + 1
    assert [one.dictionary.version for one in await shelf(place, pool)] == [5, 4, 3]


async def test_an_agent_that_was_reset_wins(place: Place, pool: Pool, retained: None) -> None:
    async with place.control():
        await publish(place, FULL)
        await place.tell("meta/dictionary/delta", delta(4, 3, "value"))
        await kept(place, pool, 4)
        await publish(place, {"version": 1, "fields": ["a"]})
        await kept(place, pool, 1)
        await place.tell("meta/dictionary/delta", delta(2, 1, "b"))
        await kept(place, pool, 2)
        await publish(place, FULL)  # and to what it had once
        await kept(place, pool, 3)


async def test_a_delta_without_its_base_asks_the_agent(place: Place, pool: Pool) -> None:
    """The reference ignores it (section 2)."""
    topic = place.topic(RESYNC)
    async with place.control(), place.publisher() as agent:
        await agent.subscribe(topic)
        await place.tell("meta/dictionary/delta", delta(7, 3, "value"))
        [message] = await asyncio.wait_for(agent.receive(), 20)
        agent.acknowledge([message])
        await place.tell("meta/dictionary/delta", delta(8, 4, "unit"))
        await publish(place, FULL, retain=False)
        await kept(place, pool, 3)
    request = orjson.loads(message.payload)
    assert request.pop("timestamp").endswith("Z")
    assert request == {"action": "resync", "reason": "dictionary_missing", "expectedVersion": 7}
    assert message.topic == topic
    assert await requests(place) == []  # the second is within five minutes of the first
    assert await place.letters() == []


async def test_a_gap_between_deltas_asks_the_agent(
    place: Place, pool: Pool, retained: None
) -> None:
    async with place.control():
        await publish(place, FULL)
        await place.tell("meta/dictionary/delta", delta(5, 4, "unit"))  # 3 never came
        await until(lambda: place.redis.exists(keys.dictionary_asked(place.agent)))
        await publish(place, {**FULL, "version": 5, "fields": [*FULL["fields"], "value", "unit"]})
        found = await kept(place, pool, 5)
    assert found.dictionary.length == 5


async def test_what_is_no_dictionary_becomes_a_dead_letter(place: Place) -> None:
    async with place.control():
        await place.tell("meta/dictionary", [1, 2])
        await place.tell("meta/dictionary/delta", {"version": "4"})
        await place.tell("meta/dictionary", b"\xff")
        letters = await until(lambda: some(place, 3))
    assert sorted((one[b"reason"], one[b"stage"]) for one in letters) == [
        (b"invalid_dictionary", b"control"),
        (b"invalid_dictionary", b"control"),
        (b"undecodable", b"control"),
    ]


async def some(place: Place, number: int) -> list[Any]:
    found = await place.letters()
    return found if len(found) == number else []


async def test_other_messages_below_meta_are_nobodys(
    place: Place, pool: Pool, retained: None
) -> None:
    async with place.control():
        await place.tell("meta/other/thing", {"x": 1})
        await publish(place, FULL)
        await kept(place, pool, 3)
    assert await place.letters() == []


async def test_no_tenant_sets_a_dictionary_of_anothers_agent(place: Place, pool: Pool) -> None:
    """R7: by the topic below the other tenant, and by one below its own that names the agent."""
    theirs, their_agent = secrets.token_hex(6), str(uuid.uuid4())
    await AgentStore(pool).ensure_tenant(theirs)
    await AgentStore(pool).add_agents(theirs, [(their_agent, "theirs")])
    url = await place.broker.add_agent(theirs, their_agent)
    own = place.topic("meta/dictionary")
    stolen = own.replace(own.split("/")[1], keys.agent_filter(theirs, place.agent).split("/")[1])
    async with place.control():
        async with place.publisher(url) as thief:
            for topic in (own, stolen):
                # The broker answers that it took the message, or that it did not.
                await asyncio.gather(
                    thief.publish(topic, orjson.dumps(FULL)), return_exceptions=True
                )
        # What the platform's own user sends passes every rule of the broker.
        async with place.publisher(place.broker.bridge_url) as anybody:
            await anybody.publish(stolen, orjson.dumps(FULL))
            await anybody.publish(own, orjson.dumps({"version": 9, "fields": ["mine"]}))
        found = await kept(place, pool, 9)

        async def refused() -> bool:
            return [one[b"reason"] for one in await place.letters(theirs)] == [b"unknown_agent"]

        await until(refused)
    assert [one.dictionary for one in await shelf(place, pool)] == [found.dictionary]
    assert await DictionaryStore(pool).shelf(theirs, place.agent) == []


async def test_while_postgresql_is_away_the_broker_keeps_dictionaries(
    place: Place, pool: Pool, retained: None
) -> None:
    async with place.control() as control:
        with place.stopped_postgres():
            await publish(place, FULL)
            await place.tell("meta/dictionary/delta", delta(4, 3, "value"))

            async def held() -> bool:
                return any("meta messages wait" in reason for reason in control.reasons())

            await until(held)
        found = await kept(place, pool, 4)
        await until(lambda: redis_has(place, b"4"))
    assert found.dictionary.length == 4


async def test_two_processes_hear_all_and_keep_each_once(
    place: Place, pool: Pool, retained: None
) -> None:
    async with place.control(), place.control("control-1"):
        await publish(place, FULL)
        for version in range(4, 14):
            await place.tell(
                "meta/dictionary/delta", delta(version, version - 1, f"field-{version}")
            )
        found = await kept(place, pool, 13)
        await until(lambda: redis_has(place, b"13"))
    assert found.dictionary.length == 13
    assert not await place.redis.exists(keys.dictionary_asked(place.agent))
    # Eight are kept.
    versions = [one.dictionary.version for one in await shelf(place, pool)]
    assert versions == list(range(13, 5, -1))


async def test_an_agent_that_registers_again_begins_without_a_dictionary(
    place: Place, pool: Pool, retained: None
) -> None:
    async with place.control():
        await publish(place, FULL)
        await place.tell("meta/dictionary/delta", delta(4, 3, "value"))
        await kept(place, pool, 4)
        await until(lambda: redis_has(place, b"4"))
        await place.database.execute(
            """
            WITH gone AS (DELETE FROM agents WHERE uuid = $1 RETURNING uuid, tenant_id)
            INSERT INTO agent_departures (agent_uuid, tenant_id) SELECT * FROM gone
            """,
            uuid.UUID(place.agent),
        )

        async def forgotten() -> bool:
            return await place.redis.get(f"dict:{place.agent}") is None

        await until(forgotten)
        await AgentStore(pool).add_agents(place.tenant, [(place.agent, "again")])
        assert await shelf(place, pool) == []

        async def taken() -> bool:
            # Who is gone is remembered for a moment.
            await publish(place, {"version": 1, "fields": ["a"]})
            return await redis_has(place, b"1")

        await until(taken)
        assert [one.dictionary.version for one in await shelf(place, pool)] == [1]


async def test_compaction_that_is_off_hears_nothing(
    place: Place, pool: Pool, retained: None
) -> None:
    await publish(place, FULL)
    async with place.control(key_compaction=False):
        await place.tell("meta/dictionary/delta", delta(4, 3, "value"))
        await place.tell("events/note", {"msgId": "1"})
        await until(
            lambda: place.database.fetchval("SELECT count(*) FROM agent_events WHERE type = 'note'")
        )
    assert await DictionaryStore(pool).current([place.agent]) == []
    assert await place.redis.keys("dict:*") == []
