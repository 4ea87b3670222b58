"""The steps by which a job moves, each within a transaction of its caller and safe to do again."""

from __future__ import annotations

from datetime import datetime

import asyncpg
import msgspec
import orjson

from iotistica.errors import BadRequest, NotFound
from iotistica.jobs.progress import MAX_RETRY_DELAY_S
from iotistica.jobs.rollout import AbortRule, Counts, Decision, Pace, Rollout, decide
from iotistica.store import job_events, job_targets, journal
from iotistica.store.job_events import JobEvent, event
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Connection, Pool, Row, affected, is_refusal

AT_ONCE = 5000
"""Agents in one step: a transaction of well under a second."""

COUNTS = """
jsonb_build_object(
    'waiting', count(*) FILTER (WHERE s.status = 'QUEUED' AND s.available_at = 'infinity'),
    'queued', count(*) FILTER (WHERE s.status = 'QUEUED' AND s.available_at < 'infinity'),
    'in_progress', count(*) FILTER (WHERE s.status = 'IN_PROGRESS'),
    'succeeded', count(*) FILTER (WHERE s.status = 'SUCCEEDED'),
    'failed', count(*) FILTER (WHERE s.status = 'FAILED'),
    'timed_out', count(*) FILTER (WHERE s.status = 'TIMED_OUT'),
    'rejected', count(*) FILTER (WHERE s.status = 'REJECTED'),
    'canceled', count(*) FILTER (WHERE s.status = 'CANCELED')
)
"""
# Not those that only wait for their time or for their agents.
_DUE = """
SELECT e.job_id::text
FROM job_executions AS e
WHERE e.totals IS NULL
  AND CASE e.status
      WHEN 'SCHEDULED' THEN e.next_run_at <= $1
      WHEN 'IN_PROGRESS' THEN
          NOT e.fanned_out OR e.rollout IS NOT NULL OR e.abort_rules IS NOT NULL
          OR NOT EXISTS (SELECT FROM agent_job_status AS s
                         WHERE s.job_id = e.job_id AND s.status IN ('QUEUED', 'IN_PROGRESS'))
      ELSE true END
ORDER BY e.id
"""
_LOCK = """
SELECT tenant_id, job_id::text, job_name, target_type, target_agents, target_group,
       target_filter, rollout, abort_rules, status, reason, fanned_out,
       fanned_out_to, rollout_at, rollout_credit, execution_type, schedule, max_executions,
       executions, next_run_at, totals IS NULL AS unsettled
FROM job_executions
WHERE job_id = $1
FOR UPDATE
"""
# The condition comes from `Condition`; {…} are places of parameters.
_FAN_OUT = """
WITH targets AS MATERIALIZED (
    SELECT a.uuid FROM agents AS a
    WHERE {condition} AND ({after} IS NULL OR a.uuid > {after})
    ORDER BY a.uuid
    LIMIT {limit}
), added AS (
    INSERT INTO agent_job_status (job_id, tenant_id, agent_uuid, status, retries_left, queued_at,
                                  available_at, last_updated_at, notice)
    SELECT e.job_id, e.tenant_id, t.uuid, 'QUEUED', e.max_retries, {now},
           CASE WHEN e.rollout IS NULL THEN {now} ELSE 'infinity' END, {now}, 'queued'
    FROM targets AS t, job_executions AS e
    WHERE e.job_id = {job}
    ORDER BY t.uuid
    ON CONFLICT (job_id, agent_uuid) DO NOTHING
)
SELECT count(*) AS found, (array_agg(uuid ORDER BY uuid DESC))[1] AS last FROM targets
"""
_FANNED_OUT = """
UPDATE job_executions SET fanned_out_to = coalesce($2, fanned_out_to), fanned_out = $3
WHERE job_id = $1
"""
_COUNT = f"SELECT {COUNTS} FROM agent_job_status AS s WHERE s.job_id = $1"  # noqa: S608 (constants)
_RELEASE = """
UPDATE agent_job_status
SET available_at = $2, queued_at = $2, last_updated_at = $2
WHERE id IN (SELECT id FROM agent_job_status
             WHERE job_id = $1 AND status = 'QUEUED' AND available_at = 'infinity'
             ORDER BY id
             LIMIT $3
             FOR UPDATE)
"""
_PACE = "UPDATE job_executions SET rollout_at = $2, rollout_credit = $3 WHERE job_id = $1"
_IS_OPEN = """
SELECT EXISTS (SELECT FROM agent_job_status
               WHERE job_id = $1 AND status IN ('QUEUED', 'IN_PROGRESS'))
"""
_SETTLE = """
UPDATE job_executions
SET totals = $2, completed_at = coalesce(completed_at, $3),
    status = CASE WHEN status = 'IN_PROGRESS' THEN 'COMPLETED' ELSE status END
WHERE job_id = $1
"""
_END = """
UPDATE job_executions
SET status = $2, reason = $3, completed_at = $4, fanned_out = true, next_run_at = NULL
WHERE job_id = $1
"""
# Whoever may know of it is told; who never was, is not.
_END_OPEN = """
WITH open AS (
    SELECT id FROM agent_job_status
    WHERE job_id = $1 AND status IN ('QUEUED', 'IN_PROGRESS')
    ORDER BY id
    LIMIT $4
    FOR UPDATE
)
UPDATE agent_job_status AS s
SET status = 'CANCELED', version_number = s.version_number + 1, last_updated_at = $2,
    completed_at = $2, timeout_at = NULL, available_at = least(s.available_at, $2),
    reason = coalesce($3, s.reason),
    notice = CASE WHEN s.status = 'IN_PROGRESS' OR s.execution_number > 1 OR s.notice IS NULL
                  THEN 'ended' END
FROM open
WHERE s.id = open.id
RETURNING s.tenant_id, s.agent_uuid::text, s.reason
"""
_TIME_OUT = f"""
WITH due AS (
    SELECT id FROM agent_job_status
    WHERE status = 'IN_PROGRESS' AND timeout_at <= $1
    ORDER BY timeout_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE agent_job_status AS s
SET status = CASE WHEN s.retries_left > 0 THEN 'QUEUED' ELSE 'TIMED_OUT' END,
    version_number = s.version_number + 1, last_updated_at = $1, timeout_at = NULL,
    reason = 'no end was reported within ' || e.timeout_minutes || ' minutes',
    completed_at = CASE WHEN s.retries_left > 0 THEN NULL ELSE $1 END,
    started_at = CASE WHEN s.retries_left > 0 THEN NULL ELSE s.started_at END,
    execution_number = s.execution_number + least(s.retries_left, 1),
    retries_left = greatest(s.retries_left - 1, 0),
    available_at = CASE WHEN s.retries_left > 0 THEN $1 + make_interval(secs => least(
        e.retry_delay_seconds * 2.0 ^ (e.max_retries - s.retries_left), {MAX_RETRY_DELAY_S}))
        ELSE s.available_at END,
    notice = CASE WHEN s.retries_left > 0 THEN 'queued' ELSE 'ended' END
FROM due, job_executions AS e
WHERE s.id = due.id AND e.job_id = s.job_id
RETURNING s.tenant_id, s.agent_uuid::text, s.job_id::text, s.reason, e.job_name
"""  # noqa: S608 (a constant)
# A job that recurs goes after its runs.
_OLD = """
SELECT e.job_id::text
FROM job_executions AS e
WHERE e.totals IS NOT NULL AND e.completed_at < $1
  AND NOT EXISTS (SELECT FROM job_executions AS run WHERE run.parent_job_id = e.job_id)
ORDER BY e.completed_at
LIMIT 1
FOR UPDATE SKIP LOCKED
"""
_FORGET_PARTS = """
DELETE FROM agent_job_status
WHERE id IN (SELECT id FROM agent_job_status WHERE job_id = $1 LIMIT $2)
"""
_FORGET = "DELETE FROM job_executions WHERE job_id = $1"
_BEGIN = """
UPDATE job_executions
SET status = 'IN_PROGRESS', started_at = $2, next_run_at = NULL, executions = executions + 1
WHERE job_id = $1
"""
_BEGIN_RUN = """
INSERT INTO job_executions (tenant_id, template_id, parent_job_id, job_name, job_document,
                            target_type, target_agents, target_group, target_filter,
                            execution_type, timeout_minutes, max_retries, retry_delay_seconds,
                            rollout, abort_rules, status, created_by, created_at, started_at,
                            executions)
SELECT tenant_id, template_id, job_id, job_name, job_document, target_type, target_agents,
       target_group, target_filter, 'once', timeout_minutes, max_retries, retry_delay_seconds,
       rollout, abort_rules, 'IN_PROGRESS', created_by, $2, $2, 1
FROM job_executions
WHERE job_id = $1
"""
# Runs that were missed are not made up for: the next one is the first that is still to come.
_NEXT_RUN = """
UPDATE job_executions
SET executions = executions + 1, started_at = coalesce(started_at, $2),
    next_run_at = next_run_at + make_interval(mins => $3::integer * (1 + floor(
        extract(epoch FROM $2 - next_run_at) / 60 / $3::integer)::integer)),
    status = CASE WHEN executions + 1 >= max_executions THEN 'IN_PROGRESS' ELSE status END,
    fanned_out = coalesce(executions + 1 >= max_executions, false)
WHERE job_id = $1
"""


def counts_of(text: str) -> Counts:
    """Counts, of their JSON."""
    return Counts(**orjson.loads(text))


async def due(pool: Pool, now: datetime) -> list[str]:
    """Jobs of any tenant for which something is to be done, oldest first."""
    return [row["job_id"] for row in await pool.fetch(_DUE, now)]


async def lock(connection: Connection, job: str) -> Row | None:
    """The job, for this transaction alone."""
    return await connection.fetchrow(_LOCK, job)


async def fan_out(connection: Connection, job: Row, now: datetime) -> bool:
    """Give the next agents their part; whether all have it now.

    Raises `NotFound`, `BadRequest` where nobody can say any more who is meant.
    """
    condition = await job_targets.condition(connection, job)
    statement = _FAN_OUT.format(
        condition=condition.text,
        after=condition.parameter(job["fanned_out_to"], "uuid"),
        limit=condition.parameter(AT_ONCE, "integer"),
        now=condition.parameter(now, "timestamptz"),
        job=condition.parameter(job["job_id"], "text::uuid"),
    )
    found = await connection.fetchrow(statement, *condition.parameters)
    done = found is None or found["found"] < AT_ONCE
    last = None if found is None else found["last"]
    await connection.execute(_FANNED_OUT, job["job_id"], last, done)
    return done


async def begin(connection: Connection, job: Row, now: datetime) -> None:
    """Start a job whose time has come, or the next run of one that recurs."""
    if job["execution_type"] == "recurring":
        minutes = orjson.loads(job["schedule"])["interval_minutes"]
        await connection.execute(_BEGIN_RUN, job["job_id"], now)
        await connection.execute(_NEXT_RUN, job["job_id"], now, minutes)
    else:
        await connection.execute(_BEGIN, job["job_id"], now)


async def move_on(connection: Connection, job: Row, now: datetime) -> Decision | None:
    """Let the next agents have the job, or give it up; None where neither can ever be asked."""
    rules = msgspec.json.decode(job["abort_rules"] or "[]", type=list[AbortRule])
    rollout = msgspec.json.decode(job["rollout"], type=Rollout) if job["rollout"] else None
    if rollout is None and not rules:
        return None
    counts = counts_of(await connection.fetchval(_COUNT, job["job_id"]))
    pace = Pace(job["rollout_at"], job["rollout_credit"])
    decision = decide(rollout, rules, counts, pace, now)
    if decision.abort is not None:
        await abort(connection, job, decision.abort, now)
        return decision
    if decision.release:
        await connection.execute(_RELEASE, job["job_id"], now, decision.release)
    if decision.pace != pace:
        await connection.execute(_PACE, job["job_id"], decision.pace.at, decision.pace.credit)
    return decision


async def abort(connection: Connection, job: Row, reason: str, now: datetime) -> None:
    """The platform ends it by itself."""
    await end(connection, job, "ABORTED", reason, now)
    entry = Entry(
        event_type="job.aborted",
        subject=f"job/{job['job_id']}",
        after={"status": "ABORTED", "reason": reason},
        severity="warning",
    )
    await journal.record(connection, Origin(tenant=job["tenant_id"]), entry)


async def fan_out_or_abort(connection: Connection, job: Row, now: datetime) -> None:
    """The same for a job that began later than it was ordered, so that nobody hears of errors: the
    group was removed since, or what its filter means cannot be asked."""
    try:
        async with connection.transaction():
            await fan_out(connection, job, now)
    except (NotFound, BadRequest) as error:
        await abort(connection, job, str(error), now)
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        await abort(connection, job, f"PostgreSQL refuses who is meant: {error}", now)


async def end(
    connection: Connection, job: Row, status: str, reason: str | None, now: datetime
) -> None:
    """Nobody gets it from now on; `end_open` reaches those that have it."""
    await connection.execute(_END, job["job_id"], status, reason, now)


async def end_open(
    connection: Connection, job: Row, reason: str | None, now: datetime
) -> list[JobEvent]:
    """Cancel the next agents that are not done."""
    rows = await connection.fetch(_END_OPEN, job["job_id"], now, reason, AT_ONCE)
    events = [
        event(
            "job.cancelled",
            row["tenant_id"],
            row["agent_uuid"],
            job["job_id"],
            now,
            jobName=job["job_name"],
            status="CANCELED",
            reason=row["reason"],
        )
        for row in rows
    ]
    await job_events.record(connection, events)
    return events


async def settle(connection: Connection, job: Row, now: datetime) -> bool:
    """Write the final counts down, where every agent is done; whether that was so."""
    if await connection.fetchval(_IS_OPEN, job["job_id"]):
        return False
    totals = await connection.fetchval(_COUNT, job["job_id"])
    await connection.execute(_SETTLE, job["job_id"], totals, now)
    return True


async def time_out(connection: Connection, now: datetime) -> list[JobEvent]:
    """End the attempts of agents that took too long, of any tenant."""
    events = [
        event(
            "job.timeout",
            row["tenant_id"],
            row["agent_uuid"],
            row["job_id"],
            now,
            jobName=row["job_name"],
            status="TIMED_OUT",
            reason=row["reason"],
        )
        for row in await connection.fetch(_TIME_OUT, now, AT_ONCE)
    ]
    await job_events.record(connection, events)
    return events


async def forget(connection: Connection, before: datetime) -> bool:
    """Remove a part of the oldest job that was over before then; whether there may be more."""
    job = await connection.fetchval(_OLD, before)
    if job is None:
        return False
    done = await connection.execute(_FORGET_PARTS, job, AT_ONCE)
    if affected(done) < AT_ONCE:
        await connection.execute(_FORGET, job)
    return True
