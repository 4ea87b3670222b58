"""The control process between a real broker, Redis and PostgreSQL, with its misfortunes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
import uuid
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
import ormsgpack
import pytest
from tests.control import Place, short, until

from iotistica import keys, metrics, mqtt
from iotistica.api import control
from iotistica.api.bridge import Bridge
from iotistica.api.chore import Chore
from iotistica.api.duties import Means
from iotistica.api.families import Family, Incoming, Refusal
from iotistica.api.tenants import Tenants
from iotistica.spool import Spool
from iotistica.store.pool import Pool, open_pool, unavailable
from iotistica.store.tenants import tenant_ids
from iotistica.streams import Outgoing, Streams
from iotistica.supervisor import Role, _assignment

NOTES = """
CREATE TABLE notes (
    id bigserial, agent text, tenant text, rest text, value text UNIQUE CHECK (value <> '"cursed"')
)
"""
ADD = """
INSERT INTO notes (agent, tenant, rest, value)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) ON CONFLICT DO NOTHING
"""


class Notes:
    """A family that keeps what it is given, each value once."""

    filters = ("state",)
    shared = True

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.batches: list[int] = []

    async def take(self, messages: Sequence[Incoming]) -> Sequence[Refusal]:
        kept = [one for one in messages if one.value not in ("bad", "boom")]
        columns = [[getattr(one, name) for one in kept] for name in ("agent", "tenant", "rest")]
        values = [orjson.dumps(one.value).decode() for one in kept]
        with unavailable("keep notes"):
            await self._pool.execute(ADD, *columns, values)
        self.batches.append(len(messages))
        if any(one.value == "boom" for one in messages):
            raise ZeroDivisionError("boom")
        bad = [one for one in messages if one.value == "bad"]
        return [Refusal(one, "bad_note", "the note is bad") for one in bad]


def notes(means: Means) -> dict[str, Family]:
    return {"state": Notes(means.pool)}


@pytest.fixture
async def noted(place: Place) -> Place:
    await place.database.execute(NOTES)
    return place


async def values(place: Place) -> list[Any]:
    rows = await place.database.fetch("SELECT value FROM notes ORDER BY id")
    return [orjson.loads(row["value"]) for row in rows]


def sample(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"iotistica_{name}", labels) or 0.0


async def test_messages_arrive_in_order_and_in_batches(noted: Place) -> None:
    made: list[Notes] = []

    def remembered(means: Means) -> dict[str, Family]:
        made.append(Notes(means.pool))
        return {"state": made[0]}

    before = sample("control_messages_total", family="state")
    async with noted.control(made=remembered):
        await noted.tell("state", *range(1000))

        async def all_there() -> bool:
            return len(await values(noted)) == 1000

        await until(all_there)
    assert await values(noted) == list(range(1000))
    assert sum(made[0].batches) == 1000
    assert len(made[0].batches) < 200
    assert sample("control_messages_total", family="state") == before + 1000
    assert sample("control_in_flight_messages") == 0


async def test_a_chore_with_a_defect_ends_nothing_else(
    noted: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_broken = True
    turns = 0

    async def work() -> None:
        nonlocal turns
        turns += 1
        if is_broken:
            raise ZeroDivisionError("boom")

    async def other() -> None:
        nonlocal others
        others += 1

    others = 0
    broken = [Chore("broken", 0.01, work, most_pause_s=0.05), Chore("other", 0.01, other)]
    monkeypatch.setattr(control, "chores", lambda *_, **__: broken)
    said = "the chore 'broken' meets a defect: ZeroDivisionError('boom')"
    async with noted.control(made=notes) as running:

        async def failed_often() -> bool:
            return turns > 2

        await until(failed_often)
        assert running.reasons() == [said]
        assert sample("chore_defects_total", chore="broken") >= 2
        await noted.tell("state", 1)

        async def there() -> bool:
            return await values(noted) == [1]

        await until(there)
        is_broken, others = False, 0

        async def mended() -> bool:
            return others > 0 and not running.reasons()

        await until(mended)


async def test_every_encoding_is_decoded(noted: Place) -> None:
    value = {"cpu": 1.5, "names": ["ä", None]}
    forms = [{**value, "n": n} for n in range(4)]
    async with noted.control(made=notes):
        await noted.tell(
            "state",
            orjson.dumps(forms[0]),
            ormsgpack.packb(forms[1]),
            zlib.compress(orjson.dumps(forms[2])),
            zlib.compress(ormsgpack.packb(forms[3])),
        )

        async def all_there() -> bool:
            return len(await values(noted)) == 4

        await until(all_there)
    assert await values(noted) == forms


@pytest.mark.parametrize(
    ("payload", "reason", "error"),
    [
        (b"\x00nothing", b"undecodable", b"decode"),
        (b'"bad"', b"bad_note", b"the note is bad"),
        (b'"boom"', b"defect", b"a defect of ours met it: ZeroDivisionError"),
        (b'"cursed"', b"refused_by_database", b"PostgreSQL refuses the message: "),
        (b'"' + b"x" * 2000 + b'"', b"too_large", b"payload has 2002 bytes; at most 1999 are"),
    ],
)
async def test_a_message_that_cannot_pass_costs_itself_alone(
    noted: Place, payload: bytes, reason: bytes, error: bytes
) -> None:
    async with noted.control(made=notes, max_message_bytes=1999):
        await noted.tell("state", 1, 2, payload, 3, 4)
        (letter,) = await until(noted.letters)

        async def all_there() -> bool:
            return len(await values(noted)) == 4

        await until(all_there)
    assert await values(noted) == [1, 2, 3, 4]
    assert letter[b"data"] == payload
    assert letter[b"topic"] == noted.topic("state").encode()
    assert (letter[b"stage"], letter[b"reason"]) == (b"control", reason)
    assert letter[b"error"].startswith(error)
    assert letter[b"tenant"] == noted.tenant.encode()
    assert letter[b"agent"] == noted.agent.encode()
    assert int(letter[b"received_ms"]) > 1_700_000_000_000


async def test_an_agent_of_another_tenant_does_not_exist(noted: Place) -> None:
    other = secrets.token_hex(6)
    await noted.database.execute("INSERT INTO tenants VALUES ($1, 'other')", other)
    url = await noted.broker.add_agent(other, noted.agent)
    topic = f"i/{short(other)}/a/{short(noted.agent)}/state"
    async with noted.control(made=notes), noted.publisher(url) as agent:
        await agent.publish(topic, b'"mine"')
        (letter,) = await until(partial(noted.letters, other))
    assert (letter[b"reason"], letter[b"data"]) == (b"unknown_agent", b'"mine"')
    error = f"agent {noted.agent!r} is not one of tenant {other!r}"
    assert letter[b"error"] == error.encode()
    assert await values(noted) == []


async def test_a_tenant_that_does_not_exist_leaves_its_letters_apart(noted: Place) -> None:
    stranger = secrets.token_hex(6)
    url = await noted.broker.add_agent(stranger, noted.agent)
    topic = f"i/{short(stranger)}/a/{short(noted.agent)}/state"
    async with noted.control(made=notes), noted.publisher(url) as agent:
        await agent.publish(topic, b'"mine"')
        (letter,) = await until(partial(noted.letters, keys.STRAY))
    assert letter[b"reason"] == b"unknown_tenant"


async def test_an_agent_made_a_moment_ago_is_known_soon(noted: Place) -> None:
    young = str(uuid.uuid4())
    url = await noted.broker.add_agent(noted.tenant, young)
    topic = f"i/{short(noted.tenant)}/a/{short(young)}/state"
    async with noted.control(made=notes), noted.publisher(url) as agent:
        await agent.publish(topic, b'"too early"')
        await until(noted.letters)
        await noted.database.execute(
            "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, 'young')",
            young,
            noted.tenant,
        )

        async def arrived() -> bool:
            await agent.publish(topic, b'"in time"')
            return await values(noted) == ["in time"]

        await until(arrived)


async def test_states_wait_while_postgresql_hangs_and_telemetry_goes_on(noted: Place) -> None:
    async with noted.control(made=notes) as control, bridge(noted), noted.publisher() as agent:
        await noted.tell("state", "before")

        async def arrived() -> bool:
            at_rest = sample("control_in_flight_messages") == 0
            return at_rest and await values(noted) == ["before"]

        await until(arrived)
        acknowledged = sample("bridge_acknowledged_total")
        with noted.stopped_postgres():
            await agent.publish_many(
                (noted.topic("state"), orjson.dumps(number)) for number in range(300)
            )
            for number in range(300):
                await agent.publish(noted.topic("endpoints/modbus"), b'{"n":%d}' % number)

            async def telemetry_is_acknowledged() -> bool:
                return sample("bridge_acknowledged_total") == acknowledged + 300

            await until(telemetry_is_acknowledged)
            assert [value["n"] for _, value in await noted.readings()] == list(range(300))

            async def says_why() -> bool:
                return any("PostgreSQL" in reason for reason in control.reasons())

            await until(says_why)
            assert sample("control_in_flight_messages") == 300

        async def all_there() -> bool:
            return len(await values(noted)) == 301

        await until(all_there, 40)

        async def is_well() -> bool:
            return not control.reasons() and sample("control_in_flight_messages") == 0

        await until(is_well, 40)
    assert await values(noted) == ["before", *range(300)]
    assert await noted.letters() == []


@asynccontextmanager
async def bridge(place: Place) -> AsyncIterator[Bridge]:
    settings = place.settings
    pool = await open_pool(settings, application_name="bridge")
    streams = Streams(settings.require("redis_url"))
    tenants = Tenants(partial(tenant_ids, pool), refresh_s=settings.tenant_refresh_s)
    spool = Spool(settings.spool_root("bridge"), max_bytes=1 << 26)
    bridge = Bridge(settings, name="bridge-0", streams=streams, spool=spool, tenants=tenants)
    stop = asyncio.Event()
    task = asyncio.create_task(bridge.run(stop))

    async def connected() -> bool:
        return bridge.broker_error is None

    await until(connected)
    try:
        yield bridge
    finally:
        stop.set()
        await task
        await streams.close()
        pool.terminate()
        spool.close()


async def test_a_control_that_is_away_gets_everything_when_it_is_back(noted: Place) -> None:
    async with noted.control(made=notes):
        pass
    await noted.tell("state", *range(50))
    async with noted.control(made=notes):

        async def all_there() -> bool:
            return len(await values(noted)) == 50

        await until(all_there)
    assert await values(noted) == list(range(50))


async def test_several_controls_share_the_messages(noted: Place) -> None:
    async with noted.control("control-0", notes), noted.control("control-1", notes):
        await noted.tell("state", *range(200))

        async def all_there() -> bool:
            return len(await values(noted)) == 200

        await until(all_there)
    assert sorted(await values(noted)) == list(range(200))


# The outbox


async def test_messages_for_agents_are_published_with_their_flags(noted: Place) -> None:
    streams = Streams(noted.settings.require("redis_url"))
    async with noted.control(made=notes), noted.publisher() as agent:
        await agent.subscribe(noted.topic("jobs/#"))
        await streams.outbox.put(
            [
                Outgoing(noted.topic("jobs/notify"), b"one"),
                Outgoing(noted.topic("jobs/kept"), b"two", retain=True),
            ]
        )
        received: list[mqtt.Message] = []
        async with asyncio.timeout(10):
            while len(received) < 2:
                received += await agent.receive()

        async def empty() -> bool:
            return await streams.outbox.waiting() == 0

        await until(empty)
        assert [(one.topic, one.payload, one.qos) for one in received] == [
            (noted.topic("jobs/notify"), b"one", 1),
            (noted.topic("jobs/kept"), b"two", 1),
        ]
        await agent.publish(noted.topic("jobs/kept"), b"", retain=True)
    await streams.close()


async def test_messages_for_agents_wait_for_a_control(noted: Place) -> None:
    streams = Streams(noted.settings.require("redis_url"))
    await streams.outbox.put([Outgoing(noted.topic("jobs/notify"), b"%d" % n) for n in range(600)])
    # One that read some and died before their PUBACKs: by the same name, and by another.
    name = noted.settings.mqtt_client_id
    await streams.outbox.read(f"{name}-control-0", count=10)
    async with noted.publisher() as agent:
        await agent.subscribe(noted.topic("jobs/#"))
        async with noted.control(made=notes):
            received: list[bytes] = []
            async with asyncio.timeout(10):
                while len(received) < 600:
                    received += [one.payload for one in await agent.receive()]

            async def empty() -> bool:
                return await streams.outbox.waiting() == 0

            await until(empty)
    assert received == [b"%d" % n for n in range(600)]
    await streams.close()


async def test_a_message_that_the_broker_refuses_becomes_a_dead_letter(noted: Place) -> None:
    streams = Streams(noted.settings.require("redis_url"))
    async with noted.control(made=notes):
        await streams.outbox.put([Outgoing("outside/of/our/tree", b"no")])
        (letter,) = await until(partial(noted.letters, keys.STRAY))

        async def empty() -> bool:
            return await streams.outbox.waiting() == 0

        await until(empty)
    await streams.close()
    assert (letter[b"stage"], letter[b"reason"]) == (b"outbox", b"refused_by_broker")
    assert (letter[b"topic"], letter[b"data"]) == (b"outside/of/our/tree", b"no")


# The process


async def test_the_process_serves_its_health_and_stops_with_its_supervisor(place: Place) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "iotistica.api.control"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ},
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(_assignment(Role("control-0", "iotistica.api.control"), place.settings))
    process.stdin.flush()
    while b"MQTT session open" not in (line := await asyncio.to_thread(process.stderr.readline)):
        assert line, "the process ended"
    process.stdin.close()
    assert await asyncio.to_thread(process.wait, 10) == 0
    with contextlib.closing(process.stderr):
        assert b"Traceback" not in process.stderr.read()
