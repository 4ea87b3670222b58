"""`/api/v1/jobs…`: what operators order of agents (reference section 5.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import orjson

from iotistica.api import cursors, window
from iotistica.api.http import Reply, Request, json_reply
from iotistica.api.job_events import publish
from iotistica.api.models import jobs as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest
from iotistica.store.documents import holds_nul
from iotistica.store.job_templates import JobTemplates
from iotistica.store.jobs import JobStore, Order
from iotistica.streams import Channels

MAX_DOCUMENT_BYTES = 32 * 1024
"""It is sent to every agent, twice; what is larger is for agents to fetch themselves."""


class Jobs:
    """Handlers of jobs and their templates."""

    def __init__(
        self,
        store: JobStore,
        templates: JobTemplates,
        channels: Channels,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._templates = templates
        self._channels = channels
        self._clock = clock

    @route("GET", "/api/v1/jobs/templates", needs="device:read", reply=models.TemplatePage)
    async def templates(self, query: models.TemplateQuery, caller: Principal) -> Reply:
        """Templates by name."""
        found = await self._templates.listed(caller.tenant, after=query.cursor, limit=query.limit)
        cursor = cursors.plain(found, query.limit, lambda one: one["name"])
        return json_reply({"count": len(found), "templates": found, "cursor": cursor})

    @route(
        "POST",
        "/api/v1/jobs/templates",
        needs="device:control",
        reply=models.Template,
        status=201,
        errors=(409,),
    )
    async def add_template(self, request: Request, body: models.NewTemplate) -> Reply:
        """Keep a document to run it again."""
        document = _document(body.job_document)
        made = await self._templates.add(
            request.origin, name=body.name, description=body.description, document=document
        )
        return json_reply(made, 201)

    @route("GET", "/api/v1/jobs/templates/:id", needs="device:read", reply=models.Template)
    async def template(self, id: models.TemplateId, caller: Principal) -> Reply:  # noqa: A002
        """One template."""
        return json_reply(await self._templates.get(caller.tenant, id))

    @route(
        "PUT",
        "/api/v1/jobs/templates/:id",
        needs="device:control",
        reply=models.Template,
        errors=(409,),
    )
    async def change_template(
        self,
        id: models.TemplateId,  # noqa: A002
        request: Request,
        body: models.TemplateChange,
    ) -> Reply:
        """Change what is given of a template."""
        given = {name: getattr(body, name) for name in body.__struct_fields__}
        changes = {name: one for name, one in given.items() if one is not msgspec.UNSET}
        if "job_document" in changes:
            changes["job_document"] = _document(changes["job_document"])
        return json_reply(await self._templates.change(request.origin, id, changes))

    @route("DELETE", "/api/v1/jobs/templates/:id", needs="device:delete")
    async def remove_template(self, id: models.TemplateId, request: Request) -> None:  # noqa: A002
        """Forget a template; jobs that were made of it keep their documents."""
        await self._templates.remove(request.origin, id)

    @route(
        "POST",
        "/api/v1/jobs/execute",
        needs="device:control",
        reply=models.Executed,
        status=201,
        errors=(404,),
    )
    async def execute(self, request: Request, body: models.Execute) -> Reply:
        """Order a job.

        Agents are told over MQTT within about a second; those that poll find it at once.
        """
        now = self._clock()
        job = await self._store.add(request.origin, _order(body, now), now)
        return json_reply({"job": _shown(job), "message": "Job created"}, 201)

    @route("GET", "/api/v1/jobs/executions", needs="device:read", reply=models.JobPage)
    async def executions(self, query: models.JobQuery, caller: Principal) -> Reply:
        """Jobs with their counts, newest first."""
        found = await self._store.listed(
            caller.tenant,
            status=query.status,
            below=None if query.cursor is None else int(query.cursor),
            limit=query.limit,
            offset=query.offset,
        )
        cursor = _cursor(found, query.limit)
        shown = [_shown(job) for job in found]
        return json_reply({"count": len(shown), "executions": shown, "cursor": cursor})

    @route("GET", "/api/v1/jobs/executions/:job", needs="device:read", reply=models.Job)
    async def execution(self, job: UUID, caller: Principal) -> Reply:
        """One job with its document and counts."""
        return json_reply(_shown(await self._store.get(caller.tenant, job)))

    @route("GET", "/api/v1/jobs/executions/:job/agents", needs="device:read", reply=models.PartPage)
    async def agents(self, job: UUID, query: models.PartQuery, caller: Principal) -> Reply:
        """Where the agents of a job stand."""
        found = await self._store.agents(
            caller.tenant, job, status=query.status, after=query.cursor, limit=query.limit
        )
        cursor = cursors.plain(found, query.limit, lambda one: one["agent_uuid"])
        return json_reply({"count": len(found), "agents": found, "cursor": cursor})

    @route(
        "POST",
        "/api/v1/jobs/executions/:job/cancel",
        needs="device:control",
        body=models.Cancel,
        reply=models.Done,
        errors=(409,),
    )
    async def cancel(self, job: UUID, request: Request) -> Reply:
        """End a job for all agents that are not done; those that know of it are told."""
        # The reference's clients send no body.
        reason = _cancel(request.body).reason
        now = self._clock()
        events = await self._store.cancel(request.origin, job, reason, now)
        await publish(self._channels, events)
        return json_reply({"status": "ok", "message": "Job canceled"})

    @route(
        "POST",
        "/api/v1/jobs/executions/:job/retry",
        needs="device:control",
        reply=models.Retried,
        errors=(409,),
    )
    async def retry(self, job: UUID, request: Request, body: models.Retry) -> Reply:
        """Let agents try again that failed or took too long."""
        count = await self._store.retry(
            request.origin,
            job,
            statuses=body.statuses,
            agents=body.target_agents,
            now=self._clock(),
        )
        return json_reply({"agents": count, "message": "Job queued again"})

    @route(
        "DELETE",
        "/api/v1/jobs/:job",
        needs="device:delete",
        reply=models.Done,
        errors=(409,),
    )
    async def remove(self, job: UUID, request: Request) -> Reply:
        """Forget a job that is over."""
        await self._store.remove(request.origin, job)
        return json_reply({"status": "ok", "message": "Job deleted"})


def _order(body: models.Execute, now: datetime) -> Order:
    """Raises `BadRequest` for what does not fit together."""
    if body.template_id is None and (body.job_name is None or body.job_document is None):
        raise BadRequest("field template_id is missing; give it, or job_name and job_document")
    if body.target_type == "device" and not body.target_agents:
        raise BadRequest("field target_agents is empty; target_type device needs at least one")
    if body.target_type != "device" and body.target_agents:
        raise BadRequest(f"field target_agents does not go with target_type {body.target_type}")
    aimed = {"target_group": body.target_group, "target_filter": body.target_filter}
    given = [name for name, value in aimed.items() if value is not None]
    if body.target_type != "group" and given:
        raise BadRequest(f"field {given[0]} does not go with target_type {body.target_type}")
    if body.target_type == "group" and not given:
        raise BadRequest("target_type group needs a field target_group or target_filter")
    schedule = body.schedule or models.Schedule()
    _check_schedule(body, schedule)
    at = schedule.scheduled_at
    return Order(
        name=body.job_name,
        document=None if body.job_document is None else _document(body.job_document),
        template=body.template_id,
        target_type=body.target_type,
        agents=body.target_agents,
        group=body.target_group,
        filter=body.target_filter,
        execution_type=body.execution_type,
        schedule=None if body.schedule is None else msgspec.to_builtins(body.schedule),
        begins_at=now if at is None else window.moment("schedule.scheduled_at", at),
        max_executions=body.max_executions,
        timeout_minutes=body.timeout_minutes,
        max_retries=body.max_retries,
        retry_delay_s=body.retry_delay_seconds,
        rollout=body.rollout,
        abort_rules=body.abort,
    )


def _check_schedule(body: models.Execute, schedule: models.Schedule) -> None:
    kind, at, minutes = body.execution_type, schedule.scheduled_at, schedule.interval_minutes
    if kind == "scheduled" and at is None:
        raise BadRequest(
            "field schedule.scheduled_at is missing; execution_type scheduled needs it"
        )
    if kind == "recurring" and minutes is None:
        raise BadRequest(
            "field schedule.interval_minutes is missing; execution_type recurring needs it"
        )
    if kind != "recurring" and minutes is not None:
        raise BadRequest(f"field schedule.interval_minutes does not go with {kind}")
    if kind != "recurring" and body.max_executions not in (None, 1):
        raise BadRequest(
            f"field max_executions is {body.max_executions}; only recurring jobs run again"
        )


def _document(value: Mapping[str, Any]) -> str:
    text = _text_of(value, "job_document")
    if (size := len(text.encode())) > MAX_DOCUMENT_BYTES:
        raise BadRequest(
            f"field job_document has {size} bytes; at most {MAX_DOCUMENT_BYTES} are allowed"
        )
    return text


def _text_of(value: Any, name: str) -> str:
    """JSON as PostgreSQL keeps it. Raises `BadRequest`."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError as error:
        raise BadRequest(f"field {name}: {error}") from None
    if holds_nul(text):
        raise BadRequest(f"field {name} holds a NUL character, which cannot be kept")
    return text


def _cancel(body: bytes) -> models.Cancel:
    try:
        return msgspec.json.decode(body or b"{}", type=models.Cancel)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body: {error}") from None


def _cursor(found: Sequence[Mapping[str, Any]], limit: int) -> str | None:
    return cursors.plain(found, limit, lambda one: one["id"])


def _shown(job: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in job.items() if name not in ("id", "abort_rules")}
    return {**shown, "abort": job["abort_rules"] or []}
