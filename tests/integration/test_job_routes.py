"""Jobs by REST: templates, orders, what operators and agents see of them."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from tests.jobs import DOCUMENT, MOST_OUTPUT, Yard, open_yard
from tests.rest import KEY, Rest

from iotistica.selection import AgentFilter
from iotistica.store.groups import GroupStore
from iotistica.store.journal import Filter, Journal, Origin
from iotistica.store.pool import Pool
from iotistica.streams import Streams

NOWHERE = "00000000-0000-4000-8000-000000000000"
AT = "2026-03-01T12:00:00Z"


@pytest.fixture
async def yard(rest: Rest, pool: Pool, streams: Streams) -> Yard:
    return open_yard(rest, pool, streams, KEY)


async def journaled(yard: Yard, event_type: str) -> list[dict[str, Any]]:
    rows = await Journal(yard.pool).newest(
        yard.tenant, Filter(event_type=event_type), below=None, limit=10
    )
    return [dict(row) for row in rows]


# Handlers


async def test_handlers_are_made_read_changed_and_removed(yard: Yard) -> None:
    ask, path = yard.rest.ask, "/api/v1/jobs/handlers"
    made = await ask("POST", path, {"name": "rotate", "script_content": "logrotate -f x"})
    assert made.status == 201
    one = made.body
    assert {name: one[name] for name in one if not name.endswith("_at")} == {
        "id": one["id"],
        "name": "rotate",
        "description": "",
        "script_type": "bash",
        "script_content": "logrotate -f x",
        "default_args": [],
        "created_by": "development",
    }
    assert (await ask("GET", f"{path}/{one['id']}", role="viewer")).body == one
    again = await ask("POST", path, {"name": "rotate", "script_content": "x"})
    assert (again.status, again.body["message"]) == (
        409,
        "name is 'rotate'; a job handler of that name exists",
    )
    other = (await ask("POST", path, {"name": "a", "script_content": "x"})).body
    taken = await ask("PUT", f"{path}/{other['id']}", {"name": "rotate"})
    assert taken.status == 409
    change = {"script_type": "python", "default_args": ["-v"], "description": "d"}
    changed = await ask("PUT", f"{path}/{one['id']}", change)
    assert changed.status == 200
    assert changed.body == {**one, **change, "updated_at": changed.body["updated_at"]}
    first = await ask("GET", f"{path}?limit=1")
    assert first.body == {"count": 1, "handlers": [other], "cursor": "a"}
    rest = await ask("GET", f"{path}?cursor=a")
    assert rest.body == {"count": 1, "handlers": [changed.body], "cursor": None}
    assert (await ask("DELETE", f"{path}/{one['id']}", role="operator")).status == 403
    assert (await ask("DELETE", f"{path}/{one['id']}")).status == 204
    assert (await ask("GET", f"{path}/{one['id']}")).status == 404
    for what in ("created", "changed", "deleted"):
        entry = (await journaled(yard, f"job_handler.{what}"))[-1]
        assert entry["subject"] == f"job_handler/{one['id']}"


async def test_a_document_that_names_a_handler_is_sent_as_it_is(yard: Yard) -> None:
    handler = {"name": "rotate", "script_content": "secret sauce"}
    assert (await yard.rest.ask("POST", "/api/v1/jobs/handlers", handler)).status == 201
    document = {"steps": [{"action": {"type": "runHandler", "input": {"handler": "rotate"}}}]}
    body = {"job_name": "j", "job_document": document, "target_type": "all"}
    made = await yard.rest.ask("POST", "/api/v1/jobs/execute", body)
    assert made.body["job"]["job_document"] == document


# Templates


async def test_templates_are_made_read_changed_and_removed(yard: Yard) -> None:
    ask = yard.rest.ask
    template = {"name": "restart", "job_document": DOCUMENT, "description": "d"}
    made = await ask("POST", "/api/v1/jobs/templates", template)
    assert made.status == 201
    assert made.body.items() >= template.items()
    path = f"/api/v1/jobs/templates/{made.body['id']}"
    assert (await ask("GET", path, role="viewer")).body == made.body
    changed = await ask("PUT", path, {"name": "reboot"})
    assert changed.status == 200
    assert changed.body["name"] == "reboot"
    assert changed.body["job_document"] == DOCUMENT
    listed = await ask("GET", "/api/v1/jobs/templates?limit=1")
    assert listed.body == {"count": 1, "templates": [changed.body], "cursor": "reboot"}
    rest = await ask("GET", "/api/v1/jobs/templates?cursor=reboot")
    assert rest.body == {"count": 0, "templates": [], "cursor": None}
    assert (await ask("DELETE", path)).status == 204
    assert (await ask("GET", path)).status == 404
    for what in ("created", "changed", "deleted"):
        (entry,) = await journaled(yard, f"job_template.{what}")
        assert entry["subject"] == f"job_template/{made.body['id']}"


async def test_a_name_of_a_template_is_taken_once_in_a_tenant(yard: Yard) -> None:
    template = {"name": "restart", "job_document": DOCUMENT}
    other = {"name": "other", "job_document": DOCUMENT}
    assert (await yard.rest.ask("POST", "/api/v1/jobs/templates", template)).status == 201
    second = await yard.rest.ask("POST", "/api/v1/jobs/templates", other)
    again = await yard.rest.ask("POST", "/api/v1/jobs/templates", template)
    assert (again.status, again.body["message"]) == (
        409,
        "name is 'restart'; a job template of that name exists",
    )
    path = f"/api/v1/jobs/templates/{second.body['id']}"
    assert (await yard.rest.ask("PUT", path, {"name": "restart"})).status == 409
    await yard.hire(1, "other-tenant")
    elsewhere = await yard.rest.ask(
        "POST", "/api/v1/jobs/templates", template, tenant="other-tenant"
    )
    assert elsewhere.status == 201


# Orders


async def test_an_order_can_be_given_on_a_freshly_migrated_database(yard: Yard) -> None:
    """The reference writes columns that its migrations do not make (reference section 5.2)."""
    agents = await yard.hire(3)
    answer = await yard.rest.ask(
        "POST",
        "/api/v1/jobs/execute",
        {"job_name": "restart", "job_document": DOCUMENT, "target_type": "all"},
        role="operator",
    )
    assert answer.status == 201
    assert answer.body["message"] == "Job created"
    job = dict(answer.body["job"])
    assert uuid.UUID(job.pop("job_id"))
    assert job == {
        "template_id": None,
        "parent_job_id": None,
        "job_name": "restart",
        "job_document": DOCUMENT,
        "target_type": "all",
        "target_agents": [],
        "target_group": None,
        "target_filter": None,
        "execution_type": "once",
        "schedule": None,
        "max_executions": None,
        "executions": 1,
        "timeout_minutes": 60,
        "max_retries": 0,
        "retry_delay_seconds": 60,
        "rollout": None,
        "abort": [],
        "status": "IN_PROGRESS",
        "reason": None,
        "next_run_at": None,
        "created_by": job["created_by"],
        "created_at": AT,
        "started_at": AT,
        "completed_at": None,
        "total_agents": 3,
        "waiting_agents": 0,
        "queued_agents": 3,
        "in_progress_agents": 0,
        "succeeded_agents": 0,
        "failed_agents": 0,
        "timed_out_agents": 0,
        "rejected_agents": 0,
        "canceled_agents": 0,
    }
    assert (await yard.part(agents[0]))["status"] == "QUEUED"
    (entry,) = await journaled(yard, "job.ordered")
    assert entry["subject"] == f"job/{answer.body['job']['job_id']}"


async def test_a_job_takes_what_its_template_says(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    template = {"name": "restart", "job_document": DOCUMENT}
    made = await yard.rest.ask("POST", "/api/v1/jobs/templates", template)
    order = {"template_id": made.body["id"], "target_type": "device", "target_agents": [agent]}
    answer = await yard.rest.ask("POST", "/api/v1/jobs/execute", order)
    job = answer.body["job"]
    assert (job["job_name"], job["job_document"]) == ("restart", DOCUMENT)
    assert (job["template_id"], job["target_agents"]) == (made.body["id"], [agent])
    path = f"/api/v1/jobs/templates/{made.body['id']}"
    assert (await yard.rest.ask("DELETE", path)).status == 204
    assert (await yard.job(job["job_id"]))["job_document"] == DOCUMENT
    assert (await yard.rest.ask("POST", "/api/v1/jobs/execute", order)).status == 404


async def test_a_job_is_for_those_it_names_or_that_fit_its_filter(yard: Yard) -> None:
    agents = await yard.hire(12)
    named = await yard.execute(target_type="device", target_agents=agents[:2])
    assert await yard.counts(named["job_id"]) == {"total": 2, "queued": 2}
    fitting = await yard.execute(target_type="group", target_filter={"name": "PUMP-1*"})
    listed = await yard.rest.ask("GET", f"/api/v1/jobs/executions/{fitting['job_id']}/agents")
    assert {one["agent_name"] for one in listed.body["agents"]} == {"pump-1", "pump-10", "pump-11"}
    both = {"name": "pump-*", "uuids": [agents[3], NOWHERE]}
    fitting = await yard.execute(target_type="group", target_filter=both)
    assert fitting["target_filter"] == both
    assert await yard.counts(fitting["job_id"]) == {"total": 1, "queued": 1}


async def test_a_job_is_for_a_fleet_and_for_those_in_a_group_when_it_begins(yard: Yard) -> None:
    agents = await yard.hire(4)
    fleet = await yard.pool.fetchval(
        "INSERT INTO fleets (tenant_id, fleet_name) VALUES ($1, 'north') RETURNING fleet_uuid",
        yard.tenant,
    )
    join = "UPDATE agents SET fleet_uuid = $1 WHERE uuid = ANY ($2::text[]::uuid[])"
    await yard.pool.execute(join, fleet, agents[:2])
    job = await yard.execute(target_type="group", target_filter={"fleet": str(fleet)})
    assert job["total_agents"] == 2
    group = await GroupStore(yard.pool).add(
        Origin(tenant=yard.tenant),
        name="north",
        description="",
        chosen=AgentFilter(fleet=fleet),
    )
    later = await yard.execute(
        target_type="group",
        target_group=str(group),
        target_filter={"name": "pump-*", "noneOf": [{"uuids": agents[:1]}]},
        execution_type="scheduled",
        schedule={"scheduled_at": "2026-03-01T12:00:30Z"},
    )
    await yard.pool.execute(join, fleet, agents[2:3])
    yard.clock.pass_s(30)
    await yard.foreman.work()
    path = f"/api/v1/jobs/executions/{later['job_id']}/agents"
    listed = (await yard.rest.ask("GET", path)).body["agents"]
    assert [one["agent_uuid"] for one in listed] == agents[1:3]


async def test_a_job_whose_group_is_gone_when_it_begins_is_given_up(yard: Yard) -> None:
    await yard.hire(1)
    groups, origin = GroupStore(yard.pool), Origin(tenant=yard.tenant)
    group = await groups.add(origin, name="g", description="", chosen=AgentFilter())
    order = {"target_type": "group", "target_group": str(group), "execution_type": "scheduled"}
    job = await yard.execute(**order, schedule={"scheduled_at": "2026-03-01T12:00:30Z"})
    await groups.remove(origin, group)
    yard.clock.pass_s(30)
    await yard.foreman.work()
    found = await yard.job(job["job_id"])
    assert (found["status"], found["reason"], found["total_agents"]) == (
        "ABORTED",
        f"field target_group: group {group} does not exist",
        0,
    )
    whole = {"job_name": "j", "job_document": {}, **order, "execution_type": "once"}
    assert (await yard.rest.ask("POST", "/api/v1/jobs/execute", whole)).status == 404


async def test_who_is_out_of_service_is_not_one_of_all(yard: Yard) -> None:
    agents = await yard.hire(2)
    inactive = "UPDATE agents SET is_active = false WHERE uuid = $1"
    await yard.pool.execute(inactive, uuid.UUID(agents[0]))
    assert (await yard.execute())["total_agents"] == 1


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"job_name": None}, "field template_id is missing; give it, or job_name and"),
        ({"target_type": "device"}, "field target_agents is empty; target_type device needs"),
        ({"target_agents": [NOWHERE]}, "field target_agents does not go with target_type all"),
        ({"target_filter": {"name": "x"}}, "field target_filter does not go with target_type"),
        ({"target_type": "group"}, "target_type group needs a field target_group or target_f"),
        ({"target_group": NOWHERE}, "field target_group does not go with target_type all"),
        (
            {"target_type": "group", "target_filter": {"color": "red"}},
            'field target_filter is {"color":"red"}: Object contains unknown field color',
        ),
        ({"execution_type": "scheduled"}, "field schedule.scheduled_at is missing;"),
        ({"execution_type": "recurring"}, "field schedule.interval_minutes is missing;"),
        (
            {"schedule": {"interval_minutes": 5}},
            "field schedule.interval_minutes does not go with once",
        ),
        ({"max_executions": 2}, "field max_executions is 2; only recurring jobs run again"),
        (
            {"execution_type": "scheduled", "schedule": {"scheduled_at": "soon"}},
            "parameter schedule.scheduled_at is 'soon'; allowed is an ISO 8601 time",
        ),
        ({"job_document": {"a": "\0"}}, "field job_document holds a NUL character"),
        (
            {"job_document": {"a": "x" * 32_768}},
            "field job_document has 32776 bytes; at most 32768",
        ),
        ({"timeout_minutes": 0}, "field timeout_minutes is 0: expected int >= 1"),
        ({"rollout": {"base_rate_per_minute": 0}}, "field rollout.base_rate_per_minute is 0:"),
        ({"abort": [{}]}, "field abort[0]"),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused(
    yard: Yard, order: dict[str, Any], message: str
) -> None:
    whole = {"job_name": "j", "job_document": DOCUMENT, "target_type": "all", **order}
    answer = await yard.rest.ask("POST", "/api/v1/jobs/execute", whole)
    assert answer.status == 400
    assert answer.body["message"].startswith(message)
    assert (await yard.rest.ask("GET", "/api/v1/jobs/executions")).body["count"] == 0


async def test_jobs_are_listed_by_pages(yard: Yard) -> None:
    await yard.hire(1)
    jobs = [(await yard.execute(job_name=f"j{n}"))["job_id"] for n in range(5)]
    await yard.rest.ask("POST", f"/api/v1/jobs/executions/{jobs[1]}/cancel")
    path = "/api/v1/jobs/executions"
    first = (await yard.rest.ask("GET", f"{path}?limit=2")).body
    assert [one["job_id"] for one in first["executions"]] == jobs[:2:-1]
    assert "job_document" not in first["executions"][0]
    rest = (await yard.rest.ask("GET", f"{path}?cursor={first['cursor']}")).body
    assert [one["job_id"] for one in rest["executions"]] == jobs[2::-1]
    assert (rest["count"], rest["cursor"]) == (3, None)
    skipped = (await yard.rest.ask("GET", f"{path}?offset=4&limit=50")).body
    assert [one["job_id"] for one in skipped["executions"]] == jobs[:1]
    canceled = (await yard.rest.ask("GET", f"{path}?status=CANCELED")).body
    assert [one["job_id"] for one in canceled["executions"]] == [jobs[1]]
    assert canceled["executions"][0]["canceled_agents"] == 1


async def test_the_agents_of_a_job_are_listed_by_pages(yard: Yard) -> None:
    agents = await yard.hire(5)
    job = (await yard.execute())["job_id"]
    await yard.next(agents[1])
    path = f"/api/v1/jobs/executions/{job}/agents"
    first = (await yard.rest.ask("GET", f"{path}?limit=3")).body
    assert [one["agent_uuid"] for one in first["agents"]] == agents[:3]
    assert [one["status"] for one in first["agents"]] == ["QUEUED", "IN_PROGRESS", "QUEUED"]
    rest = (await yard.rest.ask("GET", f"{path}?cursor={first['cursor']}&limit=3")).body
    assert [one["agent_uuid"] for one in rest["agents"]] == agents[3:]
    assert rest["cursor"] is None
    busy = (await yard.rest.ask("GET", f"{path}?status=IN_PROGRESS")).body
    assert [one["agent_uuid"] for one in busy["agents"]] == agents[1:2]


async def test_a_job_is_canceled_for_who_waits_and_who_runs(yard: Yard) -> None:
    agents = await yard.hire(3)
    job = (await yard.execute())["job_id"]
    await yard.next(agents[0])
    await yard.next(agents[1])
    await yard.finish(agents[:1], job, "SUCCEEDED")
    path = f"/api/v1/jobs/executions/{job}/cancel"
    answer = await yard.rest.ask("POST", path, {"reason": "wrong one"})
    assert (answer.status, answer.body["status"]) == (200, "ok")
    found = await yard.job(job)
    assert (found["status"], found["reason"]) == ("CANCELED", "wrong one")
    assert found["completed_at"] == AT
    assert await yard.counts(job) == {"total": 3, "succeeded": 1, "canceled": 2}
    assert (await yard.next(agents[2])).status == 404
    late = await yard.say(agents[1], job, status="SUCCEEDED")
    assert (late.status, late.body["message"]) == (
        409,
        "status is CANCELED, which is final: SUCCEEDED",
    )
    assert (await yard.rest.ask("POST", path)).status == 409
    (entry,) = await journaled(yard, "job.canceled")
    assert entry["subject"] == f"job/{job}"


async def test_a_job_that_runs_is_not_deleted(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    job = (await yard.execute())["job_id"]
    path = f"/api/v1/jobs/{job}"
    refused = await yard.rest.ask("DELETE", path)
    assert (refused.status, refused.body["message"]) == (
        409,
        f"job {job} is IN_PROGRESS; cancel it first",
    )
    await yard.next(agent)
    await yard.finish([agent], job, "SUCCEEDED")
    await yard.foreman.work()
    assert (await yard.rest.ask("DELETE", path)).status == 200
    assert (await yard.rest.ask("DELETE", path)).status == 404
    assert (await yard.rest.ask("GET", f"/api/v1/agents/{agent}/jobs")).body["jobs"] == []
    (entry,) = await journaled(yard, "job.deleted")
    assert entry["subject"] == f"job/{job}"


async def test_agents_that_failed_try_again_when_they_are_told(yard: Yard) -> None:
    agents = await yard.hire(3)
    job = (await yard.execute())["job_id"]
    for agent, end in zip(agents, ("FAILED", "SUCCEEDED", "REJECTED"), strict=True):
        await yard.next(agent)
        await yard.finish([agent], job, end)
    await yard.foreman.work()
    assert (await yard.job(job))["status"] == "COMPLETED"
    path = f"/api/v1/jobs/executions/{job}/retry"
    answer = await yard.rest.ask("POST", path, {})
    assert answer.body == {"agents": 1, "message": "Job queued again"}
    assert (await yard.job(job))["status"] == "IN_PROGRESS"
    assert await yard.counts(job) == {"total": 3, "queued": 1, "succeeded": 1, "rejected": 1}
    again = await yard.next(agents[0])
    assert (again.body["job_id"], again.body["execution_number"]) == (job, 2)
    none = await yard.rest.ask("POST", path, {})
    assert (none.status, none.body["message"]) == (
        409,
        f"no agent of job {job} is FAILED or TIMED_OUT",
    )
    named = {"statuses": ["REJECTED"], "target_agents": [agents[2]]}
    assert (await yard.rest.ask("POST", path, named)).body["agents"] == 1
    assert len(await journaled(yard, "job.retried")) == 2


# Agents


async def test_an_agent_takes_its_oldest_job_and_reports_its_end(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    first = (await yard.execute(job_name="first", timeout_minutes=5))["job_id"]
    second = (await yard.execute(job_name="second"))["job_id"]
    taken = await yard.next(agent)
    assert taken.status == 200
    assert taken.body == {
        "job_id": first,
        "job_name": "first",
        "job_document": DOCUMENT,
        "timeout_seconds": 300,
        "created_at": AT,
        "execution_number": 1,
        "version_number": 2,
    }
    assert (await yard.counts(first))["in_progress"] == 1
    yard.clock.pass_s(60)
    done = await yard.say(
        agent,
        first,
        status="SUCCEEDED",
        exit_code=0,
        stdout="up 3 days\0",
        stderr="",
        reason="done",
        executed_steps=["a", "b"],
        status_details={"progress": 100},
    )
    assert done.body == {
        "status": "ok",
        "job_id": first,
        "job_status": "SUCCEEDED",
        "version_number": 3,
        "execution_number": 1,
    }
    listed = (await yard.rest.ask("GET", f"/api/v1/agents/{agent}/jobs", role="viewer")).body
    assert [one["job_id"] for one in listed["jobs"]] == [second, first]
    assert listed["jobs"][1] == {
        "job_id": first,
        "job_name": "first",
        "status": "SUCCEEDED",
        "execution_number": 1,
        "version_number": 3,
        "queued_at": AT,
        "available_at": AT,
        "started_at": AT,
        "last_updated_at": "2026-03-01T12:01:00Z",
        "completed_at": "2026-03-01T12:01:00Z",
        "exit_code": 0,
        "stdout": "up 3 days\ufffd",
        "stderr": "",
        "reason": "done",
        "executed_steps": ["a", "b"],
        "failed_step": None,
        "status_details": {
            "progress": 100,
            "exit_code": 0,
            "reason": "done",
            "executed_steps": ["a", "b"],
        },
    }
    assert (await yard.next(agent)).body["job_id"] == second
    nothing = await yard.next(agent)
    assert (nothing.status, nothing.body["error"]) == (404, "No pending jobs")


async def test_output_is_cut_to_its_end_and_marked(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    job = (await yard.execute())["job_id"]
    await yard.next(agent)
    long = "ä" * MOST_OUTPUT
    await yard.say(agent, job, status="IN_PROGRESS", stdout=long, stderr="short")
    part = await yard.part(agent)
    assert part["stdout"] == f"[{MOST_OUTPUT} bytes cut]\n" + "ä" * (MOST_OUTPUT // 2)
    assert part["stderr"] == "short"


async def test_an_update_of_what_is_not_given_leaves_it(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    job = (await yard.execute())["job_id"]
    await yard.next(agent)
    await yard.say(agent, job, status="IN_PROGRESS", stdout="out", stderr="err", reason="r")
    yard.clock.pass_s(1)
    await yard.say(agent, job, status="FAILED", stderr="worse")
    part = await yard.part(agent)
    assert (part["stdout"], part["stderr"], part["reason"]) == ("out", "worse", "r")
    assert (part["started_at"], part["completed_at"]) == (AT, "2026-03-01T12:00:01Z")


async def test_an_update_with_another_version_or_attempt_is_refused(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    job = (await yard.execute())["job_id"]
    await yard.next(agent)
    refused = await yard.say(agent, job, status="SUCCEEDED", expected_version=7)
    assert (refused.status, refused.body["message"]) == (
        409,
        "expectedVersion is 7; it must be 2",
    )
    refused = await yard.say(agent, job, status="SUCCEEDED", execution_number=2)
    assert refused.body["message"] == "executionNumber is 2; it must be 1"
    assert (await yard.part(agent))["status"] == "IN_PROGRESS"
    for _ in range(2):  # the answer was lost: it asks again
        done = await yard.say(agent, job, status="SUCCEEDED", expected_version=2)
        assert (done.status, done.body["version_number"]) == (200, 3)
    refused = await yard.say(agent, job, status="FAILED")
    assert refused.status == 409
    assert (await yard.part(agent))["status"] == "SUCCEEDED"


async def test_polls_at_once_hand_out_every_job_once(yard: Yard) -> None:
    agents = await yard.hire(4)
    jobs = [(await yard.execute(job_name=f"j{n}"))["job_id"] for n in range(5)]
    polls = [yard.next(agent) for agent in agents for _ in range(8)]
    answers = await asyncio.gather(*polls)
    for index, agent in enumerate(agents):
        own = answers[index * 8 : index * 8 + 8]
        taken = [one.body["job_id"] for one in own if one.status == 200]
        # A poll that met another one may have found nothing; nothing is handed out twice.
        assert len(set(taken)) == len(taken)
        while (more := await yard.next(agent)).status == 200:
            taken.append(more.body["job_id"])
        assert sorted(taken) == sorted(jobs)


# Others


async def test_jobs_of_another_tenant_do_not_exist(yard: Yard) -> None:
    (agent,) = await yard.hire(1)
    (stranger,) = await yard.hire(1, "other-tenant")
    job = (await yard.execute())["job_id"]
    template = await yard.rest.ask(
        "POST", "/api/v1/jobs/templates", {"name": "t", "job_document": {}}
    )

    async def ask(method: str, target: str, body: Any = None) -> int:
        answer = await yard.rest.ask(method, f"/api/v1{target}", body, tenant="other-tenant")
        return answer.status

    own = f"/jobs/templates/{template.body['id']}"
    assert await ask("GET", own) == 404
    assert await ask("PUT", own, {"name": "mine"}) == 404
    assert await ask("DELETE", own) == 404
    order = {"target_type": "all", "template_id": template.body["id"]}
    assert await ask("POST", "/jobs/execute", order) == 404
    order = {"target_type": "device", "target_agents": [agent]}
    order |= {"job_name": "j", "job_document": {}}
    assert await ask("POST", "/jobs/execute", order) == 404
    assert await ask("GET", f"/jobs/executions/{job}") == 404
    assert await ask("GET", f"/jobs/executions/{job}/agents") == 404
    assert await ask("POST", f"/jobs/executions/{job}/cancel") == 404
    assert await ask("POST", f"/jobs/executions/{job}/retry", {}) == 404
    assert await ask("DELETE", f"/jobs/{job}") == 404
    assert await ask("GET", f"/agents/{agent}/jobs") == 404
    assert (await yard.say(stranger, job, status="SUCCEEDED")).status == 404
    assert (await yard.next(stranger)).status == 404
    theirs = await yard.rest.ask("GET", "/api/v1/jobs/executions", tenant="other-tenant")
    assert theirs.body["count"] == 0
    # The filter of a group reaches no further either.
    order = {"job_name": "j", "job_document": {}, "target_type": "group"}
    order |= {"target_filter": {"uuids": [agent]}}
    answer = await yard.rest.ask("POST", "/api/v1/jobs/execute", order, tenant="other-tenant")
    assert answer.body["job"]["total_agents"] == 0
    assert await yard.counts(job) == {"total": 1, "queued": 1}


async def test_who_may_only_look_orders_nothing(yard: Yard) -> None:
    await yard.hire(1)
    job = (await yard.execute())["job_id"]
    order = {"job_name": "j", "job_document": {}, "target_type": "all"}

    async def ask(method: str, target: str, body: Any = None) -> int:
        return (await yard.rest.ask(method, f"/api/v1{target}", body, role="viewer")).status

    assert await ask("POST", "/jobs/execute", order) == 403
    assert await ask("POST", f"/jobs/executions/{job}/cancel") == 403
    assert await ask("POST", f"/jobs/executions/{job}/retry", {}) == 403
    assert await ask("DELETE", f"/jobs/{job}") == 403
    assert await ask("POST", "/jobs/templates", {"name": "t", "job_document": {}}) == 403
    assert await ask("GET", f"/jobs/executions/{job}") == 200


async def test_an_agent_reads_and_reports_only_what_is_its_own(yard: Yard) -> None:
    agent, other = await yard.hire(2)
    job = (await yard.execute(target_type="device", target_agents=[other]))["job_id"]
    path = f"/api/v1/agents/{other}/jobs/next"
    assert (await yard.rest.ask("GET", path, key=agent)).status == 403
    assert (await yard.rest.ask("GET", path)).status == 403
    assert (await yard.say(agent, job, status="SUCCEEDED")).status == 404
    assert (await yard.part(other))["status"] == "QUEUED"
