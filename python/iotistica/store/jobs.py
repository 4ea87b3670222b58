"""Jobs: what was ordered for which agents, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import orjson

from iotistica import selection
from iotistica.errors import Conflict, NotFound
from iotistica.jobs.rollout import AbortRule, Rollout
from iotistica.selection import AgentFilter
from iotistica.store import job_steps, job_targets, job_templates, journal
from iotistica.store.job_events import JobEvent
from iotistica.store.job_steps import COUNTS
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Connection, Pool, Row, affected, unavailable

_VIEW = f"""
SELECT e.id, e.job_id::text, e.template_id, e.parent_job_id::text, e.job_name, e.target_type,
       e.target_group::text, e.target_filter, e.execution_type, e.schedule, e.max_executions,
       e.executions, e.timeout_minutes, e.max_retries, e.retry_delay_seconds, e.rollout,
       e.abort_rules, e.status, e.reason, e.next_run_at, e.created_by, e.created_at, e.started_at,
       e.completed_at, coalesce(e.totals, counted.totals) AS totals {{more}}
FROM job_executions AS e,
     LATERAL (SELECT {COUNTS} AS totals FROM agent_job_status AS s
              WHERE s.job_id = e.job_id AND e.totals IS NULL) AS counted
WHERE e.tenant_id = $1 AND {{where}}
"""  # noqa: S608 (constants)
_GET = _VIEW.format(
    more=", e.job_document, e.target_agents::text[] AS target_agents", where="e.job_id = $2"
)
_LIST = _VIEW.format(
    more="",
    where="""($2::text IS NULL OR e.status = $2) AND ($3::bigint IS NULL OR e.id < $3)
ORDER BY e.id DESC
LIMIT $4 OFFSET $5""",
)
_TEMPLATE = "SELECT name, job_document FROM job_templates WHERE tenant_id = $1 AND id = $2"
_STRANGERS = """
SELECT wanted::text FROM unnest($2::uuid[]) AS wanted
WHERE NOT EXISTS (SELECT FROM agents WHERE uuid = wanted AND tenant_id = $1)
LIMIT 3
"""
_ADD = """
INSERT INTO job_executions (tenant_id, template_id, job_name, job_document, target_type,
                            target_agents, target_group, target_filter, execution_type, schedule,
                            max_executions, timeout_minutes, max_retries, retry_delay_seconds,
                            rollout, abort_rules, status, next_run_at, created_by, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 'SCHEDULED', $17,
        $18, $19)
RETURNING job_id::text
"""
_OWN = "SELECT FROM job_executions WHERE job_id = $1 AND tenant_id = $2 FOR UPDATE"
_RUNS = """
SELECT job_id::text FROM job_executions
WHERE parent_job_id = $1 AND status IN ('SCHEDULED', 'IN_PROGRESS')
"""
_IS_RUNNING = """
SELECT EXISTS (SELECT FROM job_executions
               WHERE (job_id = $1 OR parent_job_id = $1) AND totals IS NULL)
"""
_REMOVE = "DELETE FROM job_executions WHERE job_id = $1"
_REQUEUE = """
UPDATE agent_job_status AS s
SET status = 'QUEUED', execution_number = s.execution_number + 1,
    version_number = s.version_number + 1, retries_left = e.max_retries, queued_at = $2,
    available_at = CASE WHEN e.rollout IS NULL THEN $2 ELSE 'infinity'::timestamptz END,
    last_updated_at = $2,
    started_at = NULL, completed_at = NULL, notice = 'queued'
FROM job_executions AS e
WHERE e.job_id = $1 AND s.job_id = e.job_id AND s.status = ANY ($3::text[])
  AND (cardinality($4::uuid[]) = 0 OR s.agent_uuid = ANY ($4::uuid[]))
"""
_REOPEN = """
UPDATE job_executions
SET status = 'IN_PROGRESS', reason = NULL, totals = NULL, completed_at = NULL
WHERE job_id = $1
"""
_AGENTS = """
SELECT s.agent_uuid::text, a.name AS agent_name, s.status, s.execution_number, s.version_number,
       s.retries_left, s.queued_at, NULLIF(s.available_at, 'infinity') AS available_at,
       s.started_at, s.last_updated_at, s.completed_at, s.exit_code, s.reason, s.failed_step
FROM agent_job_status AS s
JOIN agents AS a ON a.uuid = s.agent_uuid AND a.tenant_id = s.tenant_id
WHERE s.tenant_id = $1 AND s.job_id = $2
  AND ($3::text IS NULL OR s.status = $3) AND ($4::uuid IS NULL OR s.agent_uuid > $4)
ORDER BY s.agent_uuid
LIMIT $5
"""
_EXISTS = "SELECT FROM job_executions WHERE tenant_id = $1 AND job_id = $2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done by whom, and how. Texts of JSON where the database keeps JSON."""

    name: str | None
    document: str | None
    """None: that of the template."""
    template: int | None
    target_type: str
    agents: Sequence[UUID] = ()
    group: UUID | None = None
    filter: AgentFilter | None = None
    execution_type: str = "once"
    schedule: Mapping[str, Any] | None = None
    begins_at: datetime
    max_executions: int | None = None
    timeout_minutes: int = 60
    max_retries: int = 0
    retry_delay_s: int = 60
    rollout: Rollout | None = None
    abort_rules: Sequence[AbortRule] = ()


class JobStore:
    """Jobs of a tenant. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, origin: Origin, order: Order, now: datetime) -> dict[str, Any]:
        """Take an order; where its time has come its first agents have their part at once.

        Raises `NotFound` for a template or an agent that is not the tenant's, `BadRequest` for a
        filter that nobody understands.
        """
        with unavailable("order a job"):
            async with self._pool.acquire() as connection, connection.transaction():
                await self._check(connection, origin.tenant, order)
                name, document = await self._document(connection, origin.tenant, order)
                job = await self._insert(connection, origin, order, name, document, now)
                after = {
                    "job_name": name,
                    "target_type": order.target_type,
                    "target_agents": [str(agent) for agent in order.agents[:100]],
                    "target_group": order.group,
                    "target_filter": orjson.loads(_filter(order) or "null"),
                    "execution_type": order.execution_type,
                    "begins_at": order.begins_at,
                }
                await journal.record(connection, origin, _entry("ordered", job, after=after))
                if order.begins_at <= now:
                    await self._begin(connection, job, now)
        return await self.get(origin.tenant, UUID(job))

    async def get(self, tenant: str, job: UUID) -> dict[str, Any]:
        """One job with its document. Raises `NotFound`."""
        with unavailable("read a job"):
            row = await self._pool.fetchrow(_GET, tenant, job)
        if row is None:
            raise missing(job)
        return _decoded(row)

    async def listed(
        self, tenant: str, *, status: str | None, below: int | None, limit: int, offset: int
    ) -> list[dict[str, Any]]:
        """Jobs without documents, newest first, below an id."""
        with unavailable("list jobs"):
            rows = await self._pool.fetch(_LIST, tenant, status, below, limit, offset)
        return [_decoded(row) for row in rows]

    async def agents(
        self, tenant: str, job: UUID, *, status: str | None, after: UUID | None, limit: int
    ) -> list[dict[str, Any]]:
        """Where agents stand, by UUID, after one. Raises `NotFound`."""
        with unavailable("list agents of a job"):
            rows = await self._pool.fetch(_AGENTS, tenant, job, status, after, limit)
            if not rows and await self._pool.fetchrow(_EXISTS, tenant, job) is None:
                raise missing(job)
        return [dict(row) for row in rows]

    async def cancel(
        self, origin: Origin, job: UUID, reason: str | None, now: datetime
    ) -> list[JobEvent]:
        """End a job, and the runs of one that recurs; which agents were reached at once.

        Raises `NotFound`, and `Conflict` for one that is over.
        """
        events: list[JobEvent] = []
        with unavailable("cancel a job"):
            async with self._pool.acquire() as connection, connection.transaction():
                found = await _locked(connection, origin.tenant, job)
                if found["status"] not in ("SCHEDULED", "IN_PROGRESS"):
                    raise Conflict(f"job {job} is {found['status']}; only a running one ends")
                runs = [row["job_id"] for row in await connection.fetch(_RUNS, job)]
                for one in (str(job), *runs):
                    if (part := await job_steps.lock(connection, one)) is not None:
                        await job_steps.end(connection, part, "CANCELED", reason, now)
                        events += await job_steps.end_open(connection, part, reason, now)
                        await job_steps.settle(connection, part, now)
                entry = _entry(
                    "canceled",
                    str(job),
                    before={"status": found["status"]},
                    after={"status": "CANCELED", "reason": reason},
                )
                await journal.record(connection, origin, entry)
        return events

    async def retry(
        self,
        origin: Origin,
        job: UUID,
        *,
        statuses: Sequence[str],
        agents: Sequence[UUID],
        now: datetime,
    ) -> int:
        """Queue a job again for agents that ended so, all or those named; how many.

        Raises `NotFound`, and `Conflict` where there are none or the job is yet to end.
        """
        with unavailable("retry a job"):
            async with self._pool.acquire() as connection, connection.transaction():
                found = await _locked(connection, origin.tenant, job)
                if found["unsettled"] and found["status"] != "IN_PROGRESS":
                    raise Conflict(f"job {job} is {found['status']}, and not all agents know yet")
                done = await connection.execute(_REQUEUE, job, now, statuses, agents)
                count = affected(done)
                if not count:
                    raise Conflict(f"no agent of job {job} is {' or '.join(statuses)}")
                await connection.execute(_REOPEN, job)
                after = {"statuses": list(statuses), "agents": count}
                before = {"status": found["status"]}
                entry = _entry("retried", str(job), before=before, after=after)
                await journal.record(connection, origin, entry)
        return count

    async def remove(self, origin: Origin, job: UUID) -> None:
        """Forget a job that is over. Raises `NotFound`, `Conflict`."""
        with unavailable("remove a job"):
            async with self._pool.acquire() as connection, connection.transaction():
                found = await _locked(connection, origin.tenant, job)
                if await connection.fetchval(_IS_RUNNING, job):
                    raise Conflict(f"job {job} is {found['status']}; cancel it first")
                before = {"job_name": found["job_name"], "status": found["status"]}
                await connection.execute(_REMOVE, job)
                await journal.record(connection, origin, _entry("deleted", str(job), before=before))

    async def _check(self, connection: Connection, tenant: str, order: Order) -> None:
        if order.target_type == "group":
            # Whether anybody can say who is meant.
            await job_targets.condition(
                connection,
                {
                    "tenant_id": tenant,
                    "target_type": "group",
                    "target_group": order.group,
                    "target_filter": _filter(order),
                },
            )
        elif order.target_type == "device":
            strangers = await connection.fetch(_STRANGERS, tenant, order.agents)
            if strangers:
                names = ", ".join(row[0] for row in strangers)
                raise NotFound(f"field target_agents: agent {names} does not exist")

    async def _document(self, connection: Connection, tenant: str, order: Order) -> tuple[str, str]:
        if order.template is None:
            return order.name or "", order.document or "{}"
        row = await connection.fetchrow(_TEMPLATE, tenant, order.template)
        if row is None:
            raise job_templates.missing(order.template)
        return order.name or row["name"], order.document or row["job_document"]

    async def _insert(
        self,
        connection: Connection,
        origin: Origin,
        order: Order,
        name: str,
        document: str,
        now: datetime,
    ) -> str:
        rules = list(order.abort_rules)
        job: str = await connection.fetchval(
            _ADD,
            origin.tenant,
            order.template,
            name,
            document,
            order.target_type,
            order.agents,
            order.group,
            _filter(order),
            order.execution_type,
            _json(order.schedule),
            order.max_executions,
            order.timeout_minutes,
            order.max_retries,
            order.retry_delay_s,
            _json(order.rollout),
            _json(rules) if rules else None,
            order.begins_at,
            origin.name or origin.id,
            now,
        )
        return job

    async def _begin(self, connection: Connection, job: str, now: datetime) -> None:
        found = await job_steps.lock(connection, job)
        if found is None or found["execution_type"] == "recurring":
            return  # its runs are made by the chore
        await job_steps.begin(connection, found, now)
        if await job_steps.fan_out(connection, found, now):
            begun = await job_steps.lock(connection, job)
            if begun is not None:
                await job_steps.move_on(connection, begun, now)
                await job_steps.settle(connection, begun, now)


def missing(job: UUID) -> NotFound:
    """The error for a job that is not there."""
    return NotFound(f"job {job} does not exist")


async def _locked(connection: Connection, tenant: str, job: UUID) -> Row:
    if await connection.fetchrow(_OWN, job, tenant) is None:
        raise missing(job)
    found = await job_steps.lock(connection, str(job))
    if found is None:
        raise missing(job)
    return found


def _entry(what: str, job: str, **values: Mapping[str, Any]) -> Entry:
    return Entry(event_type=f"job.{what}", subject=f"job/{job}", **values)  # type: ignore[arg-type]


def _filter(order: Order) -> str | None:
    return None if order.filter is None else selection.write(order.filter)


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _decoded(row: Row) -> dict[str, Any]:
    found = dict(row)
    counts = job_steps.counts_of(found.pop("totals"))
    for name in ("target_filter", "schedule", "rollout", "abort_rules", "job_document"):
        if found.get(name) is not None:
            found[name] = orjson.loads(found[name])
    found["total_agents"] = counts.total
    for name in ("waiting", "queued", "in_progress", "succeeded", "failed"):
        found[f"{name}_agents"] = getattr(counts, name)
    for name in ("timed_out", "rejected", "canceled"):
        found[f"{name}_agents"] = getattr(counts, name)
    return found
