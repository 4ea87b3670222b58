"""Jobs over MQTT, by value, on every broker; with two control processes, and when things end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from tests.control import Place, short, until

from iotistica import mqtt
from iotistica.api.families import Incoming
from iotistica.api.families.jobs import Jobs
from iotistica.errors import StoreUnavailable
from iotistica.jobs.rollout import Rollout
from iotistica.store.agent_jobs import AgentJobs
from iotistica.store.agents import AgentStore
from iotistica.store.jobs import JobStore, Order
from iotistica.store.journal import Origin
from iotistica.store.pool import Pool, open_pool
from iotistica.streams import Streams
from iotistica.supervisor import Role, _assignment

DOCUMENT = {"action": "restart", "n": 1}


@pytest.fixture
async def pool(place: Place) -> AsyncIterator[Pool]:
    pool = await open_pool(place.settings, application_name="test")
    yield pool
    pool.terminate()


async def order(place: Place, pool: Pool, **changes: Any) -> str:
    """A job for all agents of the tenant."""
    now = datetime.now(UTC)
    values = {"name": "j", "document": orjson.dumps(DOCUMENT).decode(), "template": None}
    made = Order(**{**values, "target_type": "all", "begins_at": now, **changes})
    job = await JobStore(pool).add(Origin(tenant=place.tenant), made, now)
    return str(job["job_id"])


class Ear:
    """What an agent hears, by the last levels of the topics."""

    def __init__(self, place: Place, session: mqtt.Session) -> None:
        self._prefix = place.topic("jobs/")
        self.session = session
        self.heard: list[tuple[str, Any]] = []

    async def next(self, *names: str) -> list[Any]:
        """The next messages with these names, in order; others are an error."""
        async with asyncio.timeout(15):
            while len(self.heard) < len(names):
                for one in await self.session.receive():
                    rest = one.topic.removeprefix(self._prefix)
                    self.heard.append((rest, orjson.loads(one.payload)))
        assert [name for name, _ in self.heard] == list(names)
        found = [value for _, value in self.heard]
        self.heard.clear()
        return found


@asynccontextmanager
async def listening(place: Place) -> AsyncIterator[Ear]:
    """The agent listens to what the platform sends, and not to itself."""
    async with place.publisher() as session:
        for rest in ("notify", "notify-next", "start-next/+", "+/update/+", "+/ended"):
            await session.subscribe(place.topic(f"jobs/{rest}"))
        yield Ear(place, session)


def recent(stamp: Any) -> bool:
    return isinstance(stamp, int) and abs(time.time() * 1000 - stamp) < 60_000


async def test_a_job_goes_its_way_over_mqtt(place: Place, pool: Pool) -> None:
    """The reference never served one of these topics (reference section 1.6)."""
    async with place.control(job_check_s=0.05), listening(place) as ear:
        job = await order(place, pool)
        told, again = await ear.next("notify", "notify-next")
        assert told == again
        assert recent(told.pop("timestamp"))
        queued_at = told["execution"]["queuedAt"]
        assert recent(queued_at)
        assert told == {
            "execution": {
                "jobId": job,
                "jobDocument": DOCUMENT,
                "queuedAt": queued_at,
                "lastUpdatedAt": queued_at,
                "versionNumber": 1,
                "executionNumber": 1,
                "status": "QUEUED",
            }
        }
        await place.tell("jobs/start-next", {"clientToken": "t-1"})
        (given,) = await ear.next("start-next/accepted")
        started_at = given["execution"]["startedAt"]
        assert recent(started_at)
        assert recent(given.pop("timestamp"))
        assert given == {
            "execution": {
                "jobId": job,
                "jobDocument": DOCUMENT,
                "queuedAt": queued_at,
                "startedAt": started_at,
                "lastUpdatedAt": started_at,
                "versionNumber": 2,
                "executionNumber": 1,
                "status": "IN_PROGRESS",
            },
            "clientToken": "t-1",
        }
        details = {"progress": 50, "stdout": "half"}
        update = {"status": "IN_PROGRESS", "statusDetails": details, "expectedVersion": 2}
        await place.tell(f"jobs/{job}/update", update)
        (accepted,) = await ear.next(f"{job}/update/accepted")
        assert recent(accepted.pop("timestamp"))
        assert accepted == {
            "executionState": {
                "status": "IN_PROGRESS",
                "versionNumber": 3,
                "executionNumber": 1,
            }
        }
        await place.tell(
            f"jobs/{job}/update",
            {"status": "SUCCEEDED", "expectedVersion": 2, "clientToken": "t-2"},
        )
        (rejected,) = await ear.next(f"{job}/update/rejected")
        assert recent(rejected.pop("timestamp"))
        assert rejected == {
            "code": "VersionMismatch",
            "message": "expectedVersion is 2; it must be 3",
            "executionState": {
                "status": "IN_PROGRESS",
                "versionNumber": 3,
                "executionNumber": 1,
            },
            "clientToken": "t-2",
        }
        end = {"status": "SUCCEEDED", "statusDetails": {"reason": "ok"}, "executionNumber": 1}
        await place.tell(f"jobs/{job}/update", end)
        (accepted,) = await ear.next(f"{job}/update/accepted")
        assert accepted["executionState"]["status"] == "SUCCEEDED"
        await place.tell(f"jobs/{job}/update", {"status": "FAILED"})
        (rejected,) = await ear.next(f"{job}/update/rejected")
        assert rejected["code"] == "InvalidStateTransition"

        async def completed() -> bool:
            return await status_of(place, job) == "COMPLETED"

        await until(completed)
    row = await place.database.fetchrow("SELECT * FROM agent_job_status WHERE job_id = $1", job)
    assert (row["tenant_id"], str(row["agent_uuid"])) == (place.tenant, place.agent)
    assert (row["status"], row["version_number"], row["execution_number"]) == ("SUCCEEDED", 4, 1)
    assert (row["stdout"], row["stderr"], row["reason"]) == ("half", None, "ok")
    assert row["queued_at"] <= row["started_at"] < row["completed_at"]
    assert row["notice"] is None
    assert await place.letters() == []


async def status_of(place: Place, job: str) -> Any:
    query = "SELECT status FROM job_executions WHERE job_id = $1"
    return await place.database.fetchval(query, uuid.UUID(job))


@pytest.mark.parametrize(("asked", "token"), [({}, None), ({"clientToken": "x"}, "x"), ("a", None)])
async def test_who_asks_in_vain_is_told_so(place: Place, asked: Any, token: str | None) -> None:
    async with place.control(), listening(place) as ear:
        await place.tell("jobs/start-next", asked)
        (rejected,) = await ear.next("start-next/rejected")
        assert recent(rejected.pop("timestamp"))
        assert rejected == {"clientToken": token}


async def test_a_cancellation_reaches_an_agent_that_runs(place: Place, pool: Pool) -> None:
    async with place.control(job_check_s=0.05), listening(place) as ear:
        job = await order(place, pool)
        await ear.next("notify", "notify-next")
        await place.tell("jobs/start-next", {})
        await ear.next("start-next/accepted")
        origin, now = Origin(tenant=place.tenant), datetime.now(UTC)
        await JobStore(pool).cancel(origin, uuid.UUID(job), "enough", now)
        (ended,) = await ear.next(f"{job}/ended")
        assert (ended["execution"]["status"], ended["reason"]) == ("CANCELED", "enough")
        await place.tell(f"jobs/{job}/update", {"status": "SUCCEEDED"})
        (rejected,) = await ear.next(f"{job}/update/rejected")
        assert rejected["executionState"]["status"] == "CANCELED"


@pytest.mark.parametrize(
    ("rest", "value", "reason", "error"),
    [
        ("{unknown}/update", {"status": "FAILED"}, b"unknown_job", b"job {unknown} is not one of"),
        ("x/update", {"status": "FAILED"}, b"bad_job_update", b"job id in the topic is 'x'; it"),
        ("{job}/update", {"status": "DONE"}, b"bad_job_update", b"field status is 'DONE'; it must"),
    ],
)
async def test_an_update_that_can_never_pass_is_a_dead_letter(
    place: Place, pool: Pool, rest: str, value: Any, reason: bytes, error: bytes
) -> None:
    job, unknown = await order(place, pool), str(uuid.uuid4())
    async with place.control():
        await place.tell(f"jobs/{rest.format(job=job, unknown=unknown)}", value)
        (letter,) = await until(place.letters)
    assert letter[b"reason"] == reason
    assert letter[b"error"].startswith(error.replace(b"{unknown}", unknown.encode()))
    assert letter[b"agent"] == place.agent.encode()


async def test_a_job_of_another_agent_cannot_be_updated(place: Place, pool: Pool) -> None:
    other, tenant = str(uuid.uuid4()), "another-tenant"
    await AgentStore(pool).ensure_tenant(tenant)
    await AgentStore(pool).add_agents(tenant, [(other, "other")])
    now = datetime.now(UTC)
    foreign = Order(name="j", document="{}", template=None, target_type="all", begins_at=now)
    job = (await JobStore(pool).add(Origin(tenant=tenant), foreign, now))["job_id"]
    async with place.control(), listening(place) as ear:
        await place.tell(f"jobs/{job}/update", {"status": "SUCCEEDED"})
        (rejected,) = await ear.next(f"{job}/update/rejected")
        assert rejected["code"] == "ResourceNotFound"
        await place.tell("jobs/start-next", {})
        await ear.next("start-next/rejected")
    row = await place.database.fetchrow("SELECT * FROM agent_job_status")
    assert (row["status"], str(row["agent_uuid"])) == ("QUEUED", other)


async def test_two_controls_hand_every_job_to_every_agent_once(place: Place, pool: Pool) -> None:
    agents = [str(uuid.uuid4()) for _ in range(20)]
    await AgentStore(pool).add_agents(place.tenant, [(agent, "x") for agent in agents])
    jobs = [await order(place, pool, name=f"j{n}") for n in range(5)]
    url = place.broker.bridge_url  # may publish as any agent

    def topic(agent: str, rest: str) -> str:
        return f"i/{short(place.tenant)}/a/{short(agent)}/jobs/{rest}"

    async with (
        place.control("control-0", job_check_s=0.05),
        place.control("control-1", job_check_s=0.05),
        place.publisher(url) as session,
    ):
        for agent in agents:
            await session.subscribe(topic(agent, "start-next/+"))
        await session.publish_many(
            (topic(a, "start-next"), b"{}") for _ in range(6) for a in agents
        )
        taken: list[tuple[str, str]] = []
        refused = 0
        async with asyncio.timeout(30):
            while len(taken) + refused < 120:
                for one in await session.receive():
                    if one.topic.endswith("rejected"):
                        refused += 1
                    else:
                        agent = one.topic.split("/")[3]
                        taken.append((agent, orjson.loads(one.payload)["execution"]["jobId"]))
    assert len(set(taken)) == len(taken)
    left = await place.database.fetchval(
        "SELECT count(*) FROM agent_job_status WHERE status = 'QUEUED' AND agent_uuid <> $1",
        uuid.UUID(place.agent),
    )
    # A request that met another one of its agent may have found nothing; the job waits on.
    assert len(taken) + left == len(agents) * len(jobs)


# Messages that come again


@pytest.fixture
async def family(place: Place, pool: Pool) -> AsyncIterator[Jobs]:
    streams = Streams(place.settings.require("redis_url"))
    yield Jobs(AgentJobs(pool), streams.outbox, streams.channels, most_output_bytes=1000)
    await streams.close()


def incoming(place: Place, rest: str, value: Any) -> Incoming:
    return Incoming(
        tenant=place.tenant,
        agent=place.agent,
        rest=rest,
        topic=place.topic(f"jobs/{rest}"),
        value=value,
        payload=orjson.dumps(value),
        received_ms=1,
    )


async def parts(place: Place) -> list[tuple[Any, ...]]:
    rows = await place.database.fetch(
        "SELECT status, version_number, completed_at FROM agent_job_status ORDER BY id"
    )
    return [tuple(row) for row in rows]


async def test_messages_that_come_again_change_nothing(
    place: Place, pool: Pool, family: Jobs
) -> None:
    job = await order(place, pool)
    await order(place, pool)
    batch = [
        incoming(place, "start-next", {"clientToken": "a"}),
        incoming(place, f"{job}/update", {"status": "IN_PROGRESS", "expectedVersion": 1}),
        incoming(place, f"{job}/update", {"status": "IN_PROGRESS", "clientToken": "b"}),
        incoming(place, f"{job}/update", {"status": "SUCCEEDED", "clientToken": "c"}),
    ]
    assert await family.take(batch) == []
    once = await parts(place)
    assert [status for status, *_ in once] == ["SUCCEEDED", "IN_PROGRESS"]
    assert await family.take(batch) == []
    assert await parts(place) == once


async def test_what_was_handed_out_while_redis_was_away_is_answered_later(
    place: Place, pool: Pool, family: Jobs
) -> None:
    job = await order(place, pool)
    await order(place, pool)

    async def away(messages: Any) -> None:
        if messages:
            raise StoreUnavailable("Redis is away")

    family._outbox.put = away  # type: ignore[method-assign]
    await family.take([incoming(place, "start-next", {})])
    assert [status for status, *_ in await parts(place)] == ["IN_PROGRESS", "QUEUED"]
    # A new one of an hour later, instead of waiting for five seconds.
    await place.database.execute(
        "UPDATE agent_job_status SET last_updated_at = last_updated_at - interval '1 minute'"
    )
    async with listening(place) as ear, place.control(job_check_s=0.05):
        names = ["notify", "notify-next", "start-next/accepted"]
        found = dict(zip(names, [None] * 3, strict=True))
        async with asyncio.timeout(15):
            while not all(found.values()):
                for one in await ear.session.receive():
                    rest = one.topic.removeprefix(place.topic("jobs/"))
                    found[rest] = orjson.loads(one.payload)
        assert found["start-next/accepted"]["execution"]["jobId"] == job  # type: ignore[index]

        async def told() -> bool:
            query = "SELECT count(*) FROM agent_job_status WHERE notice IS NOT NULL"
            return await place.database.fetchval(query) == 0

        await until(told)


# Misfortunes


async def test_a_job_waits_while_postgresql_hangs(place: Place, pool: Pool) -> None:
    async with place.control(job_check_s=0.05) as control, listening(place) as ear:
        job = await order(place, pool)
        await ear.next("notify", "notify-next")

        async def told() -> bool:
            return await told_count(place) == 1

        await until(told)  # or it would be told again
        with place.stopped_postgres():
            await place.tell("jobs/start-next", {"clientToken": "a"})

            async def says_why() -> bool:
                return any("PostgreSQL" in reason for reason in control.reasons())

            await until(says_why)
        async with asyncio.timeout(40):
            (given,) = await ear.next("start-next/accepted")
        assert given["execution"]["jobId"] == job
        await place.tell(f"jobs/{job}/update", {"status": "SUCCEEDED"})
        await ear.next(f"{job}/update/accepted")

        async def completed() -> bool:
            return await status_of(place, job) == "COMPLETED"

        await until(completed, 40)
    assert await place.letters() == []


async def test_killed_processes_leave_no_agent_out(place: Place, pool: Pool) -> None:
    """A fan-out and a rollout to many agents, with the control process killed again and again."""
    agents = [(str(uuid.uuid4()), "x") for _ in range(7000)]
    await AgentStore(pool).add_agents(place.tenant, agents)
    process = start(place)
    job = await order(place, pool, rollout=Rollout(base_rate_per_minute=60_000))
    try:
        for _ in range(3):
            before = await told_count(place)

            async def moved(before: int = before) -> bool:
                return await told_count(place) > before

            await until(moved, 40)
            await kill(process)
            process = start(place)

        async def all_told() -> bool:
            return await told_count(place) == len(agents) + 1

        await until(all_told, 60)
    finally:
        await kill(process)
    rows = await place.database.fetch(
        "SELECT status, execution_number, count(*) FROM agent_job_status "
        "WHERE job_id = $1 GROUP BY 1, 2",
        uuid.UUID(job),
    )
    assert [tuple(row) for row in rows] == [("QUEUED", 1, len(agents) + 1)]


async def told_count(place: Place) -> int:
    query = "SELECT count(*) FROM agent_job_status WHERE notice IS NULL"
    return int(await place.database.fetchval(query))


def start(place: Place) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "iotistica.api.control"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ},
    )
    assert process.stdin is not None
    process.stdin.write(_assignment(Role("control-0", "iotistica.api.control"), place.settings))
    process.stdin.flush()
    return process


async def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    await asyncio.to_thread(process.wait)
    assert process.stdin is not None
    process.stdin.close()
