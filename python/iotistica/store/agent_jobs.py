"""Jobs as agents see them: what is theirs to do, and what they say of it."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from iotistica.errors import NotFound
from iotistica.jobs.progress import Part, Rejection, Update, advance, event_of
from iotistica.jobs.wire import Assignment
from iotistica.store import job_events
from iotistica.store.job_events import JobEvent
from iotistica.store.pool import Connection, Pool, Row, unavailable

_ASSIGNMENT = """
s.id, s.tenant_id, s.agent_uuid::text, s.job_id::text, e.job_name, e.job_document, s.status,
s.version_number, s.execution_number, e.timeout_minutes, s.queued_at, s.last_updated_at,
s.started_at, s.reason, s.client_token, s.notice, e.created_at
"""
_REPEATED = f"""
SELECT {_ASSIGNMENT}
FROM unnest($1::text[], $2::text[]::uuid[], $3::text[]) AS asked (tenant_id, agent_uuid, token)
JOIN agent_job_status AS s ON s.agent_uuid = asked.agent_uuid AND s.tenant_id = asked.tenant_id
     AND s.client_token = asked.token AND s.status = 'IN_PROGRESS'
JOIN job_executions AS e USING (job_id)
"""  # noqa: S608 (constants)
# Rows that somebody else is just handing out are passed over, so none is handed out twice.
_HAND_OUT = f"""
WITH chosen AS MATERIALIZED (
    SELECT oldest.id
    FROM unnest($1::text[], $2::text[]::uuid[], $3::integer[])
             AS asked (tenant_id, agent_uuid, most),
         LATERAL (
             SELECT s.id
             FROM agent_job_status AS s
             JOIN job_executions AS e USING (job_id)
             WHERE s.agent_uuid = asked.agent_uuid AND s.tenant_id = asked.tenant_id
               AND s.status = 'QUEUED' AND s.available_at <= $4 AND e.status = 'IN_PROGRESS'
             ORDER BY s.id
             LIMIT asked.most
             FOR UPDATE OF s SKIP LOCKED
         ) AS oldest
)
UPDATE agent_job_status AS s
SET status = 'IN_PROGRESS', started_at = $4, last_updated_at = $4,
    timeout_at = $4 + make_interval(mins => e.timeout_minutes),
    version_number = s.version_number + 1, notice = $5, client_token = NULL
FROM chosen, job_executions AS e
WHERE s.id = chosen.id AND e.job_id = s.job_id
RETURNING {_ASSIGNMENT}
"""  # noqa: S608 (constants)
_TOKENS = """
UPDATE agent_job_status AS s SET client_token = given.token
FROM unnest($1::bigint[], $2::text[]) AS given (id, token)
WHERE s.id = given.id
"""
_PARTS = """
SELECT s.id, s.tenant_id, s.agent_uuid::text, s.job_id::text, e.job_name, s.status,
       s.version_number, s.execution_number, s.retries_left, e.max_retries, e.retry_delay_seconds,
       e.timeout_minutes, s.available_at, s.queued_at, s.started_at, s.timeout_at, s.completed_at,
       s.latest_updates, s.notice
FROM agent_job_status AS s
JOIN job_executions AS e USING (job_id)
WHERE (s.tenant_id, s.agent_uuid, s.job_id) IN (
    SELECT * FROM unnest($1::text[], $2::text[]::uuid[], $3::text[]::uuid[]))
ORDER BY s.id
FOR UPDATE OF s
"""
_WRITE = """
UPDATE agent_job_status
SET status = $2, version_number = $3, execution_number = $4, retries_left = $5, available_at = $6,
    started_at = $7, timeout_at = $8, completed_at = $9, notice = $10, latest_updates = $11,
    last_updated_at = $12, reason = coalesce($13, reason), stdout = coalesce($14, stdout),
    stderr = coalesce($15, stderr), exit_code = coalesce($16, exit_code),
    executed_steps = coalesce($17, executed_steps), failed_step = coalesce($18, failed_step),
    status_details = coalesce($19, status_details)
WHERE id = $1
"""
_LIST = """
SELECT s.id, s.job_id::text, e.job_name, s.status, s.execution_number, s.version_number,
       s.queued_at, NULLIF(s.available_at, 'infinity') AS available_at, s.started_at,
       s.last_updated_at, s.completed_at, s.exit_code, s.stdout, s.stderr, s.reason,
       s.executed_steps, s.failed_step, s.status_details
FROM agent_job_status AS s
JOIN job_executions AS e USING (job_id)
WHERE s.tenant_id = $1 AND s.agent_uuid = $2
  AND ($3::text IS NULL OR s.status = $3) AND ($4::bigint IS NULL OR s.id < $4)
ORDER BY s.id DESC
LIMIT $5
"""
_IS_OURS = "SELECT FROM agents WHERE tenant_id = $1 AND uuid = $2"
# Who took a request answers it; only what was not answered by then is left over.
_UNTOLD = f"""
SELECT {_ASSIGNMENT}
FROM agent_job_status AS s
JOIN job_executions AS e USING (job_id)
WHERE s.notice IS NOT NULL AND s.available_at <= $1
  AND (s.notice <> 'started' OR s.last_updated_at <= $1 - interval '5 seconds')
ORDER BY s.available_at, s.id
LIMIT $2
"""  # noqa: S608 (constants)
# What happened to it meanwhile has a notice of its own.
_TOLD = """
UPDATE agent_job_status AS s SET notice = NULL
FROM unnest($1::bigint[], $2::integer[]) AS told (id, version)
WHERE s.id = told.id AND s.version_number = told.version
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for work."""

    tenant: str
    agent: str
    token: str | None = None
    """What it is known by if it comes again."""


@dataclass(frozen=True, slots=True)
class Report:
    """An update and whose it is."""

    tenant: str
    agent: str
    job: str
    update: Update


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an update did."""

    part: Part | None
    """Where the agent stands with the job now; None where it has no such job."""
    rejection: Rejection | None = None
    event: JobEvent | None = None
    """What happened; None where nothing did."""


@dataclass(frozen=True, slots=True)
class _Given:
    named: dict[Ask, Assignment]
    others: defaultdict[str, deque[Assignment]]
    """By agent, for its requests without a token."""

    @property
    def all(self) -> list[Assignment]:
        """Everything that was handed out now."""
        return [*self.named.values(), *(one for queue in self.others.values() for one in queue)]


class AgentJobs:
    """Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def hand_out(
        self, asks: Sequence[Ask], now: datetime, *, notice: str | None
    ) -> tuple[list[Assignment | None], list[JobEvent]]:
        """The oldest job of each that asks, in progress now, each job once; and what happened.

        With a `notice` it is owed to the agent until `told`, whatever happens to this process.
        """
        with unavailable("hand out jobs"):
            async with self._pool.acquire() as connection, connection.transaction():
                known = await self._repeated(connection, asks)
                fresh = [one for one in asks if (one.agent, one.token) not in known]
                given = await self._chosen(connection, fresh, now, notice)
                events = [_started(one, now) for one in given.all]
                await job_events.record(connection, events)
        answers: list[Assignment | None] = []
        for one in asks:
            if one.token is not None:
                answers.append(known.get((one.agent, one.token)) or given.named.get(one))
            else:
                queue = given.others[one.agent]
                answers.append(queue.popleft() if queue else None)
        return answers, events

    async def _repeated(
        self, connection: Connection, asks: Sequence[Ask]
    ) -> dict[tuple[str, str | None], Assignment]:
        named = [one for one in asks if one.token is not None]
        if not named:
            return {}
        columns = [[getattr(one, name) for one in named] for name in ("tenant", "agent", "token")]
        found = [_assignment(row) for row in await connection.fetch(_REPEATED, *columns)]
        return {(one.agent, one.token): one for one in found}

    async def _chosen(
        self, connection: Connection, asks: Sequence[Ask], now: datetime, notice: str | None
    ) -> _Given:
        # One that came twice in this batch is one request.
        named = list(dict.fromkeys(one for one in asks if one.token is not None))
        wanted = Counter((one.tenant, one.agent) for one in asks if one.token is None)
        wanted.update((one.tenant, one.agent) for one in named)
        order = sorted(wanted)  # the same for all processes
        tenants, agents = [tenant for tenant, _ in order], [agent for _, agent in order]
        most = [wanted[key] for key in order]
        rows = await connection.fetch(_HAND_OUT, tenants, agents, most, now, notice)
        given = _Given({}, defaultdict(deque))
        for row in sorted(rows, key=lambda row: int(row["id"])):
            given.others[row["agent_uuid"]].append(_assignment(row))
        for one in named:
            if given.others[one.agent]:
                found = given.others[one.agent].popleft()
                given.named[one] = replace(found, token=one.token)
        if given.named:
            ids = [found.id for found in given.named.values()]
            await connection.execute(_TOKENS, ids, [one.token for one in given.named])
        return given

    async def report(self, reports: Sequence[Report], now: datetime) -> list[Outcome]:
        """Take updates in order; what each did. All are committed, or none."""
        if not reports:
            return []
        columns = [[getattr(one, name) for one in reports] for name in ("tenant", "agent", "job")]
        with unavailable("keep what agents say of jobs"):
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(_PARTS, *columns)
                parts = {(row["agent_uuid"], row["job_id"]): _part(row) for row in rows}
                outcomes, changed = [], {}
                for one in reports:
                    outcome = _outcome(parts.get((one.agent, one.job)), one, now)
                    outcomes.append(outcome)
                    if outcome.event is not None and outcome.part is not None:
                        parts[one.agent, one.job] = changed[outcome.part.id] = outcome.part
                written = [_written(changed[key], now) for key in sorted(changed)]
                if written:
                    await connection.executemany(_WRITE, written)
                events = [one.event for one in outcomes if one.event is not None]
                await job_events.record(connection, events)
        return outcomes

    async def listed(
        self, tenant: str, agent: UUID, *, status: str | None, below: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Jobs of an agent, newest first, below an id. Raises `NotFound`."""
        with unavailable("list jobs of an agent"):
            rows = await self._pool.fetch(_LIST, tenant, agent, status, below, limit)
            if not rows and await self._pool.fetchrow(_IS_OURS, tenant, agent) is None:
                raise NotFound(f"agent {agent} does not exist")
        return [_decoded(row) for row in rows]

    async def told(self, given: Iterable[Assignment]) -> None:
        """Note that agents know."""
        with unavailable("note what agents know"):
            await mark_told(self._pool, given)


async def untold(connection: Connection, now: datetime, limit: int) -> list[tuple[str, Assignment]]:
    """What agents of any tenant are to be told and were not yet, oldest first."""
    rows = await connection.fetch(_UNTOLD, now, limit)
    return [(row["notice"], _assignment(row)) for row in rows]


async def mark_told(place: Connection | Pool, given: Iterable[Assignment]) -> None:
    """Note that agents know. Raises what asyncpg raises."""
    versions = [(one.id, one.version) for one in given]
    if versions:
        await place.execute(_TOLD, *zip(*versions, strict=True))


def _outcome(part: Part | None, report: Report, now: datetime) -> Outcome:
    if part is None:
        what = f"job {report.job} is not one of agent {report.agent}"
        return Outcome(None, Rejection("ResourceNotFound", what))
    after = advance(part, report.update, now)
    if after is None:
        return Outcome(part)
    if isinstance(after, Rejection):
        return Outcome(part, after)
    said = report.update
    happened = job_events.event(
        event_of(part, said.status),
        report.tenant,
        report.agent,
        report.job,
        now,
        jobName=part.job_name,
        status=said.status,
        executionNumber=part.attempt,
        reason=said.reason,
        exitCode=said.exit_code,
        stderr=said.stderr,
        statusDetails=said.details,
    )
    return Outcome(after, event=happened)


def _started(given: Assignment, now: datetime) -> JobEvent:
    return job_events.event(
        "job.started",
        given.tenant,
        given.agent,
        given.job,
        now,
        jobName=given.job_name,
        status=given.status,
        executionNumber=given.attempt,
    )


def _assignment(row: Row) -> Assignment:
    return Assignment(
        id=row["id"],
        tenant=row["tenant_id"],
        agent=row["agent_uuid"],
        job=row["job_id"],
        job_name=row["job_name"],
        document=orjson.loads(row["job_document"]),
        status=row["status"],
        version=row["version_number"],
        attempt=row["execution_number"],
        timeout_minutes=row["timeout_minutes"],
        queued_at=row["queued_at"],
        last_updated_at=row["last_updated_at"],
        started_at=row["started_at"],
        reason=row["reason"],
        token=row["client_token"],
        created_at=row["created_at"],
    )


def _part(row: Row) -> Part:
    return Part(
        id=row["id"],
        tenant=row["tenant_id"],
        agent=row["agent_uuid"],
        job=row["job_id"],
        job_name=row["job_name"],
        status=row["status"],
        version=row["version_number"],
        attempt=row["execution_number"],
        retries_left=row["retries_left"],
        max_retries=row["max_retries"],
        retry_delay_s=row["retry_delay_seconds"],
        timeout_minutes=row["timeout_minutes"],
        available_at=row["available_at"],
        queued_at=row["queued_at"],
        started_at=row["started_at"],
        timeout_at=row["timeout_at"],
        completed_at=row["completed_at"],
        latest=tuple(row["latest_updates"]),
        notice=row["notice"],
    )


def _written(part: Part, now: datetime) -> tuple[Any, ...]:
    said = part.written
    return (
        part.id,
        part.status,
        part.version,
        part.attempt,
        part.retries_left,
        part.available_at,
        part.started_at,
        part.timeout_at,
        part.completed_at,
        part.notice,
        list(part.latest),
        now,
        *(said.get(name) for name in ("reason", "stdout", "stderr", "exit_code")),
        _json(said.get("executed_steps")),
        said.get("failed_step"),
        _json(said.get("status_details")),
    )


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _decoded(row: Row) -> dict[str, Any]:
    found = dict(row)
    for name in ("executed_steps", "status_details"):
        if found[name] is not None:
            found[name] = orjson.loads(found[name])
    return found
