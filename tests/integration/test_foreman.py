"""Jobs moved on by the chore of the control processes, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import asyncpg
import orjson
import pytest
from tests.control import until
from tests.jobs import DOCUMENT, Yard, open_yard
from tests.rest import KEY, Rest

from iotistica import keys
from iotistica._native import format_topic
from iotistica.api import foreman as foremen
from iotistica.errors import StoreUnavailable
from iotistica.store import job_steps
from iotistica.store.journal import Filter, Journal
from iotistica.store.pool import Connection, Pool
from iotistica.store.turn import turn
from iotistica.streams import Streams


@pytest.fixture
async def yard(rest: Rest, pool: Pool, streams: Streams) -> Yard:
    return open_yard(rest, pool, streams, KEY)


def millis(yard: Yard) -> int:
    return round(yard.clock.now.timestamp() * 1000)


# What agents are told


async def test_agents_are_told_on_both_topics_once(yard: Yard) -> None:
    """The reference publishes `notify`, its agents listen on `notify-next` (section 1.3)."""
    (agent,) = await yard.hire(1)
    job = (await yard.execute())["job_id"]
    queued_ms = millis(yard)
    yard.clock.pass_s(1)
    await yard.foreman.work()
    payload = {
        "execution": {
            "jobId": job,
            "jobDocument": DOCUMENT,
            "queuedAt": queued_ms,
            "lastUpdatedAt": queued_ms,
            "versionNumber": 1,
            "executionNumber": 1,
            "status": "QUEUED",
        },
        "timestamp": queued_ms + 1000,
    }
    told = [(topic, orjson.loads(text)) for topic, text in await yard.told()]
    assert told == [
        (format_topic(yard.tenant, agent, "jobs/notify"), payload),
        (format_topic(yard.tenant, agent, "jobs/notify-next"), payload),
    ]
    await yard.foreman.work()
    assert await yard.told() == []


async def test_who_knew_of_a_job_is_told_that_it_ended(yard: Yard) -> None:
    agents = await yard.hire(3)
    job = (await yard.execute())["job_id"]
    await yard.foreman.work()
    late = (await yard.execute())["job_id"]
    assert (await yard.next(agents[0])).body["job_id"] == job
    assert len(await yard.told()) == 6
    for one in (job, late):
        await yard.rest.ask("POST", f"/api/v1/jobs/executions/{one}/cancel", {"reason": "no"})
    await yard.foreman.work()
    told = await yard.told()
    # Nobody had heard of the later one.
    assert sorted(topic for topic, _ in told) == sorted(
        format_topic(yard.tenant, agent, f"jobs/{job}/ended") for agent in agents
    )
    said = {topic: orjson.loads(text) for topic, text in told}
    assert said[format_topic(yard.tenant, agents[0], f"jobs/{job}/ended")] == {
        "execution": {
            "jobId": job,
            "queuedAt": millis(yard),
            "startedAt": millis(yard),
            "lastUpdatedAt": millis(yard),
            "versionNumber": 3,
            "executionNumber": 1,
            "status": "CANCELED",
        },
        "reason": "no",
        "timestamp": millis(yard),
    }


async def test_a_full_outbox_is_waited_for(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foremen, "_TOLD_AT_ONCE", 2)
    monkeypatch.setattr(foremen, "_MOST_WAITING", 3)
    await yard.hire(5)
    await yard.execute()
    await yard.foreman.work()
    assert len(await yard.told()) == 4
    await yard.foreman.work()
    await yard.foreman.work()
    assert len(await yard.told()) == 4
    await yard.foreman.work()
    assert len(await yard.told()) == 2


async def test_what_redis_did_not_take_is_told_later(yard: Yard) -> None:
    await yard.hire(2)
    job = (await yard.execute())["job_id"]
    put = yard.streams.outbox.put

    async def away(messages: Any) -> None:
        raise StoreUnavailable("Redis is away")

    yard.streams.outbox.put = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await yard.foreman.work()
    yard.streams.outbox.put = put  # type: ignore[method-assign]
    await yard.foreman.work()
    assert len(await yard.told()) == 4
    assert await yard.counts(job) == {"total": 2, "queued": 2}


async def test_events_are_published_as_they_happen_and_kept(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    heard: list[dict[str, Any]] = []
    listener = yard.streams.channels._redis.pubsub()
    await listener.subscribe(keys.jobs_channel(yard.tenant, agent))
    job = (await yard.execute(timeout_minutes=1))["job_id"]
    await yard.next(agent)
    await yard.say(agent, job, status="IN_PROGRESS", status_details={"progress": 5})
    await yard.say(agent, job, status="FAILED", stderr="x" * 600, exit_code=2)
    canceled = (await yard.execute())["job_id"]
    await yard.rest.ask("POST", f"/api/v1/jobs/executions/{canceled}/cancel")
    slow = (await yard.execute(timeout_minutes=1))["job_id"]
    await yard.next(agent)
    yard.clock.pass_s(61)
    await yard.foreman.work()
    begun = (await yard.execute())["job_id"]
    await yard.say(agent, begun, status="IN_PROGRESS")
    await yard.say(agent, begun, status="SUCCEEDED")
    async with asyncio.timeout(10):
        while len(heard) < 8:
            message = await listener.get_message(ignore_subscribe_messages=True, timeout=1)
            if message is not None:
                heard.append(orjson.loads(message["data"]))
    await listener.aclose()
    assert [(one["type"], one["data"]["jobId"]) for one in heard] == [
        ("job.started", job),
        ("job.progress", job),
        ("job.failed", job),
        ("job.cancelled", canceled),
        ("job.started", slow),
        ("job.timeout", slow),
        ("job.started", begun),
        ("job.completed", begun),
    ]
    assert heard[1]["data"]["statusDetails"] == {"progress": 5}
    assert heard[2] == {
        "deviceUuid": agent,
        "type": "job.failed",
        "data": {
            "jobId": job,
            "jobName": "j",
            "status": "FAILED",
            "executionNumber": 1,
            "exitCode": 2,
            "stderr": "x" * 500,
            "statusDetails": {"exit_code": 2},
        },
        "timestamp": "2026-03-01T12:00:00+00:00",
    }
    kept = await yard.pool.fetch(
        "SELECT type, data FROM agent_events WHERE tenant_id = $1 AND source = 'jobs' ORDER BY id",
        yard.tenant,
    )
    assert [(row["type"], orjson.loads(row["data"])) for row in kept] == [
        (one["type"], one["data"]) for one in heard if one["type"] != "job.progress"
    ]


# Time-outs and retries


async def test_an_agent_that_takes_too_long_is_timed_out_by_its_own_start(yard: Yard) -> None:
    agents = await yard.hire(2)
    job = (await yard.execute(timeout_minutes=2))["job_id"]
    await yard.next(agents[0])
    yard.clock.pass_s(60)
    await yard.next(agents[1])
    yard.clock.pass_s(60)
    await yard.foreman.work()
    assert await yard.counts(job) == {"total": 2, "timed_out": 1, "in_progress": 1}
    part = await yard.part(agents[0])
    assert (part["status"], part["completed_at"]) == ("TIMED_OUT", "2026-03-01T12:02:00Z")
    assert part["reason"] == "no end was reported within 2 minutes"
    assert (await yard.say(agents[0], job, status="SUCCEEDED")).status == 409
    told = [topic for topic, _ in await yard.told()]
    assert told == [format_topic(yard.tenant, agents[0], f"jobs/{job}/ended")]
    yard.clock.pass_s(60)
    await yard.foreman.work()
    found = await yard.job(job)
    assert (found["status"], found["timed_out_agents"]) == ("COMPLETED", 2)
    assert found["completed_at"] == "2026-03-01T12:03:00Z"


async def test_attempts_that_fail_or_take_too_long_are_followed_by_others(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    order = {"max_retries": 2, "retry_delay_seconds": 30, "timeout_minutes": 1}
    job = (await yard.execute(**order))["job_id"]
    await yard.next(agent)
    await yard.say(agent, job, status="FAILED", stderr="first")
    yard.clock.pass_s(29)
    await yard.foreman.work()
    assert await yard.told() == []
    assert (await yard.next(agent)).status == 404
    yard.clock.pass_s(1)
    await yard.foreman.work()
    (notified, _) = [orjson.loads(text)["execution"] for _, text in await yard.told()]
    assert (notified["executionNumber"], notified["status"]) == (2, "QUEUED")
    assert (await yard.next(agent)).body["execution_number"] == 2
    # What belongs to the attempt before is not of this one.
    late = await yard.say(agent, job, status="SUCCEEDED", execution_number=1)
    assert late.status == 409
    yard.clock.pass_s(60)
    await yard.foreman.work()  # the second takes too long
    part = await yard.part(agent)
    assert (part["status"], part["execution_number"]) == ("QUEUED", 3)
    assert part["available_at"] == "2026-03-01T12:02:30Z"
    assert part["stderr"] == "first"
    yard.clock.pass_s(60)
    assert (await yard.next(agent)).body["execution_number"] == 3
    await yard.say(agent, job, status="FAILED")
    await yard.foreman.work()
    found = await yard.job(job)
    assert (found["status"], found["failed_agents"]) == ("COMPLETED", 1)


# Schedules


async def test_a_scheduled_job_begins_when_its_time_has_come(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    job = await yard.execute(
        execution_type="scheduled", schedule={"scheduled_at": "2026-03-01T13:00:00+00:30"}
    )
    assert (job["status"], job["next_run_at"]) == ("SCHEDULED", "2026-03-01T12:30:00Z")
    assert job["total_agents"] == 0
    yard.clock.pass_s(1799)
    await yard.foreman.work()
    assert (await yard.next(agent)).status == 404
    (late,) = await yard.hire(1)  # who belongs to it is decided then
    yard.clock.pass_s(1)
    await yard.foreman.work()
    found = await yard.job(job["job_id"])
    assert (found["status"], found["started_at"]) == ("IN_PROGRESS", "2026-03-01T12:30:00Z")
    assert found["queued_agents"] == 2
    assert (await yard.next(late)).body["job_id"] == job["job_id"]


async def test_a_scheduled_job_can_be_canceled_before_it_begins(yard: Yard) -> None:
    await yard.hire(1)
    job = await yard.execute(
        execution_type="scheduled", schedule={"scheduled_at": "2026-03-01T12:30:00Z"}
    )
    path = f"/api/v1/jobs/executions/{job['job_id']}/cancel"
    assert (await yard.rest.ask("POST", path)).status == 200
    yard.clock.pass_s(3600)
    await yard.foreman.work()
    found = await yard.job(job["job_id"])
    assert (found["status"], found["total_agents"]) == ("CANCELED", 0)


async def test_a_recurring_job_runs_so_often_and_no_more(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    parent = await yard.execute(
        execution_type="recurring", schedule={"interval_minutes": 10}, max_executions=3
    )

    async def runs() -> list[dict[str, Any]]:
        answer = await yard.rest.ask("GET", "/api/v1/jobs/executions")
        found = answer.body["executions"]
        return [one for one in found if one["parent_job_id"] == parent["job_id"]]

    await yard.foreman.work()
    assert len(await runs()) == 1
    assert (await yard.job(parent["job_id"]))["next_run_at"] == "2026-03-01T12:10:00Z"
    await yard.foreman.work()
    assert len(await runs()) == 1
    yard.clock.pass_s(25 * 60)  # a run was missed; one is made, and the rhythm is kept
    await yard.foreman.work()
    assert len(await runs()) == 2
    assert (await yard.job(parent["job_id"]))["next_run_at"] == "2026-03-01T12:30:00Z"
    yard.clock.pass_s(5 * 60)
    await yard.foreman.work()
    await yard.foreman.work()
    found = await yard.job(parent["job_id"])
    assert (found["status"], found["executions"]) == ("COMPLETED", 3)
    yard.clock.pass_s(3600)
    await yard.foreman.work()
    made = await runs()
    assert [one["queued_agents"] for one in made] == [1, 1, 1]
    taken = [(await yard.next(agent)).body["job_id"] for _ in range(3)]
    assert taken == [one["job_id"] for one in reversed(made)]


async def test_canceling_a_recurring_job_ends_its_runs(yard: Yard) -> None:
    await yard.hire(1)
    parent = await yard.execute(execution_type="recurring", schedule={"interval_minutes": 10})
    await yard.foreman.work()
    path = f"/api/v1/jobs/executions/{parent['job_id']}"
    assert (await yard.rest.ask("DELETE", f"/api/v1/jobs/{parent['job_id']}")).status == 409
    assert (await yard.rest.ask("POST", f"{path}/cancel")).status == 200
    yard.clock.pass_s(3600)
    await yard.foreman.work()
    listed = (await yard.rest.ask("GET", "/api/v1/jobs/executions")).body["executions"]
    assert [one["status"] for one in listed] == ["CANCELED", "CANCELED"]
    assert (await yard.rest.ask("DELETE", f"/api/v1/jobs/{parent['job_id']}")).status == 200
    assert (await yard.rest.ask("GET", "/api/v1/jobs/executions")).body["count"] == 0


# Rollouts


async def test_a_rollout_lets_agents_in_by_its_rate_and_grows(yard: Yard) -> None:
    agents = await yard.hire(40)
    rollout = {
        "base_rate_per_minute": 60,
        "increment_factor": 3,
        "increase_every_succeeded": 5,
        "maximum_per_minute": 540,
    }
    job = (await yard.execute(rollout=rollout))["job_id"]
    assert await yard.counts(job) == {"total": 40, "waiting": 39, "queued": 1}
    assert [(await yard.next(agent)).status for agent in agents[:2]] == [200, 404]
    for _ in range(4):
        yard.clock.pass_s(1)
        await yard.foreman.work()
    assert (await yard.counts(job))["waiting"] == 35
    await yard.finish(agents[:5], job, "SUCCEEDED")  # 180 a minute from now on
    yard.clock.pass_s(1)
    await yard.foreman.work()
    assert await yard.counts(job) == {"total": 40, "waiting": 32, "queued": 3, "succeeded": 5}
    await yard.foreman.work()  # no time has passed
    assert (await yard.counts(job))["waiting"] == 32
    # Whoever took it by HTTP before need not be told.
    assert len(await yard.told()) == 2 * 7
    for agent in agents[5:8]:
        assert (await yard.next(agent)).status == 200
    await yard.finish(agents[5:8], job, "SUCCEEDED")
    yard.clock.pass_s(1)
    await yard.foreman.work()
    assert (await yard.counts(job))["queued"] == 3
    await yard.finish(agents[8:11], job, "SUCCEEDED")  # 540 a minute, the ceiling
    yard.clock.pass_s(2)
    await yard.foreman.work()
    assert (await yard.counts(job))["queued"] == 18
    yard.clock.pass_s(60)
    await yard.foreman.work()
    assert await yard.counts(job) == {"total": 40, "queued": 29, "succeeded": 11}


async def test_a_rollout_is_given_up_where_too_many_fail(yard: Yard) -> None:
    agents = await yard.hire(10)
    rules = [{"threshold_percent": 50, "min_executed": 4}]
    rollout = {"base_rate_per_minute": 300}
    job = (await yard.execute(rollout=rollout, abort=rules))["job_id"]
    yard.clock.pass_s(1)
    await yard.foreman.work()
    for agent in agents[:5]:
        assert (await yard.next(agent)).status == 200
    await yard.finish(agents[:1], job, "SUCCEEDED")
    await yard.finish(agents[1:3], job, "FAILED")
    await yard.foreman.work()
    assert (await yard.job(job))["status"] == "IN_PROGRESS"
    await yard.finish(agents[3:4], job, "SUCCEEDED")
    await yard.told()
    await yard.foreman.work()
    found = await yard.job(job)
    reason = "2 of 4 agents that are done: failed, timed out or refused; the limit is 50 %"
    assert (found["status"], found["reason"]) == ("ABORTED", reason)
    assert await yard.counts(job) == {"total": 10, "succeeded": 2, "failed": 2, "canceled": 6}
    assert [(await yard.next(agent)).status for agent in agents[4:]] == [404] * 6
    told = [topic for topic, _ in await yard.told()]
    # The others that were let in had been told of it too; those that waited never were.
    assert set(told) == {
        format_topic(yard.tenant, agent, f"jobs/{job}/ended") for agent in agents[4:6]
    }
    assert (await yard.part(agents[9]))["reason"] == reason
    (entry,) = await Journal(yard.pool).newest(
        yard.tenant, Filter(event_type="job.aborted"), below=None, limit=10
    )
    assert (entry["actor_type"], entry["severity"]) == ("system", "warning")
    assert orjson.loads(entry["after"]) == {"status": "ABORTED", "reason": reason}


async def test_a_job_for_nobody_is_over_at_once(yard: Yard) -> None:
    job = await yard.execute(rollout={"base_rate_per_minute": 1})
    assert (job["status"], job["total_agents"]) == ("COMPLETED", 0)


# Several processes, and their ends


async def test_one_process_at_a_time_moves_jobs_on(yard: Yard) -> None:
    await yard.hire(1)
    job = await yard.execute(
        execution_type="scheduled", schedule={"scheduled_at": "2026-03-01T12:00:01Z"}
    )
    yard.clock.pass_s(1)
    async with turn(yard.pool, "jobs") as connection:
        assert connection is not None
        await yard.foreman.work()
        assert (await yard.job(job["job_id"]))["status"] == "SCHEDULED"
    await asyncio.gather(*(yard.foreman.work() for _ in range(4)))
    await yard.foreman.work()  # each may have left a step to another that was at a step of its own
    assert await yard.counts(job["job_id"]) == {"total": 1, "queued": 1}
    assert len(await yard.told()) == 2


async def test_a_defect_costs_the_job_that_meets_it(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await yard.hire(1)
    later = {"execution_type": "scheduled", "schedule": {"scheduled_at": "2026-03-01T12:30:00Z"}}
    bad, good = [(await yard.execute(**later))["job_id"] for _ in range(2)]
    yard.clock.pass_s(1800)
    step = foremen._step

    async def defective(connection: Connection, job: str, now: datetime) -> Any:
        return 1 / 0 if job == bad else await step(connection, job, now)

    monkeypatch.setattr(foremen, "_step", defective)
    with pytest.raises(ZeroDivisionError) as found:
        await yard.foreman.work()
    assert found.value.__notes__ == [f"job {bad}"]
    assert (await yard.job(bad))["status"] == "SCHEDULED"
    assert (await yard.job(good))["status"] == "IN_PROGRESS"
    assert good in str(await yard.told())
    monkeypatch.undo()
    await yard.foreman.work()
    assert (await yard.job(bad))["status"] == "IN_PROGRESS"


async def test_a_fan_out_goes_on_where_a_killed_process_left_it(
    yard: Yard, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_steps, "AT_ONCE", 3)
    await yard.hire(10)
    job = (await yard.execute())["job_id"]
    assert await yard.counts(job) == {"total": 3, "queued": 3}
    await kill_within_a_step(yard, database, job)
    assert await yard.counts(job) == {"total": 3, "queued": 3}
    await yard.foreman.work()
    assert await yard.counts(job) == {"total": 10, "queued": 10}
    assert len(await yard.told()) == 20


async def kill_within_a_step(yard: Yard, database: str, job: str) -> None:
    """The session of a process ends after it wrote, before it committed."""
    session = await asyncpg.connect(database)
    await session.execute("BEGIN")
    found = await job_steps.lock(session, job)
    await job_steps.fan_out(session, found, yard.clock.now)
    session.terminate()

    async def gone() -> bool:
        return await job_is_free(yard, job)

    await until(gone)


async def job_is_free(yard: Yard, job: str) -> bool:
    free = "SELECT FROM job_executions WHERE job_id = $1 FOR UPDATE SKIP LOCKED"
    return await yard.pool.fetchrow(free, job) is not None


async def test_a_large_cancellation_is_finished_by_the_chore(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = await yard.hire(10)
    job = (await yard.execute())["job_id"]
    monkeypatch.setattr(job_steps, "AT_ONCE", 3)
    path = f"/api/v1/jobs/executions/{job}"
    assert (await yard.rest.ask("POST", f"{path}/cancel")).status == 200
    assert await yard.counts(job) == {"total": 10, "queued": 7, "canceled": 3}
    assert (await yard.next(agents[9])).status == 404  # though its own part still waits
    refused = await yard.rest.ask("POST", f"{path}/retry", {"statuses": ["CANCELED"]})
    assert refused.status == 409
    assert (await yard.rest.ask("DELETE", f"/api/v1/jobs/{job}")).status == 409
    await yard.foreman.work()
    assert await yard.counts(job) == {"total": 10, "canceled": 10}
    again = await yard.rest.ask("POST", f"{path}/retry", {"statuses": ["CANCELED"]})
    assert again.body["agents"] == 10
    assert await yard.counts(job) == {"total": 10, "queued": 10}


async def test_whoever_takes_a_job_while_it_is_canceled_is_told(yard: Yard) -> None:
    agents = await yard.hire(30)
    job = (await yard.execute())["job_id"]
    polls = [asyncio.create_task(yard.next(agent)) for agent in agents[:15]]
    cancel = asyncio.create_task(yard.rest.ask("POST", f"/api/v1/jobs/executions/{job}/cancel"))
    polls += [asyncio.create_task(yard.next(agent)) for agent in agents[15:]]
    answers = [await poll for poll in polls]
    assert (await cancel).status == 200
    await yard.foreman.work()
    assert await yard.counts(job) == {"total": 30, "canceled": 30}
    taken = [agent for agent, one in zip(agents, answers, strict=True) if one.status == 200]
    assert {topic for topic, _ in await yard.told()} == {
        format_topic(yard.tenant, agent, f"jobs/{job}/ended") for agent in taken
    }


async def test_jobs_that_have_long_been_over_are_forgotten(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = await yard.hire(5)
    old = (await yard.execute())["job_id"]
    parent = await yard.execute(
        execution_type="recurring", schedule={"interval_minutes": 10}, max_executions=1
    )
    waiting = (await yard.execute())["job_id"]
    await yard.foreman.work()
    await yard.foreman.work()  # the run that the first one made
    await yard.finish(agents, old, "SUCCEEDED")
    listed = (await yard.rest.ask("GET", "/api/v1/jobs/executions")).body["executions"]
    (run,) = [one["job_id"] for one in listed if one["parent_job_id"] == parent["job_id"]]
    await yard.finish(agents, run, "SUCCEEDED")
    await yard.foreman.work()
    monkeypatch.setattr(job_steps, "AT_ONCE", 2)
    yard.clock.pass_s(2 * 86_400)
    await yard.foreman.forget(days=2)
    assert (await yard.rest.ask("GET", "/api/v1/jobs/executions")).body["count"] == 4
    yard.clock.pass_s(1)
    await yard.foreman.forget(days=2)
    left = (await yard.rest.ask("GET", "/api/v1/jobs/executions")).body["executions"]
    assert [one["job_id"] for one in left] == [waiting]
    assert await yard.pool.fetchval("SELECT count(*) FROM agent_job_status") == 5
