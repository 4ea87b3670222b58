"""`/api/v1/agents/:uuid/jobs…`: jobs of one agent, for operators and for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from iotistica.api import cursors
from iotistica.api.http import Reply, Request, error_reply, json_reply
from iotistica.api.job_events import publish
from iotistica.api.models import jobs as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import Conflict, NotFound
from iotistica.jobs import progress
from iotistica.store.agent_jobs import AgentJobs, Ask, Report
from iotistica.streams import Channels


class AgentJobRoutes:
    """Handlers of an agent's jobs."""

    def __init__(
        self,
        store: AgentJobs,
        channels: Channels,
        *,
        most_output_bytes: int,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._channels = channels
        self._most_bytes = most_output_bytes
        self._clock = clock

    @route("GET", "/api/v1/agents/:uuid/jobs", needs="device:read", reply=models.AgentJobPage)
    async def listed(self, uuid: UUID, query: models.AgentJobQuery, caller: Principal) -> Reply:
        """Jobs of an agent, newest first."""
        found = await self._store.listed(
            caller.tenant,
            uuid,
            status=query.status,
            below=None if query.cursor is None else int(query.cursor),
            limit=query.limit,
        )
        cursor = cursors.plain(found, query.limit, lambda one: one["id"])
        return json_reply(
            {"count": len(found), "jobs": [_shown(one) for one in found]} | {"cursor": cursor}
        )

    @route(
        "GET",
        "/api/v1/agents/:uuid/jobs/next",
        agents=True,
        limit="device-data",
        reply=models.NextJob,
    )
    async def next(self, uuid: UUID, caller: Principal) -> Reply:
        """The oldest job that waits for the agent; it is in progress from now on."""
        ask = Ask(caller.tenant, str(uuid))
        (given,), events = await self._store.hand_out([ask], self._clock(), notice=None)
        await publish(self._channels, events)
        if given is None:
            return error_reply(404, "No pending jobs", "Nothing waits for this agent")
        return json_reply(
            {
                "job_id": given.job,
                "job_name": given.job_name,
                "job_document": given.document,
                "timeout_seconds": given.timeout_minutes * 60,
                "created_at": given.created_at,
                "execution_number": given.attempt,
                "version_number": given.version,
            }
        )

    @route(
        "PATCH",
        "/api/v1/agents/:uuid/jobs/:job/status",
        agents=True,
        limit="device-data",
        reply=models.Updated,
        errors=(409,),
    )
    async def update(
        self, uuid: UUID, job: UUID, request: Request, caller: Principal, body: models.JobUpdate
    ) -> Reply:
        """Say how a job goes on. The same update again changes nothing and is answered the same."""
        update = progress.make(
            body.status,
            _said(body),
            digest=progress.digest_of(request.body),
            most_bytes=self._most_bytes,
            expected_version=body.expected_version,
            execution_number=body.execution_number,
        )
        now = self._clock()
        reports = [Report(caller.tenant, str(uuid), str(job), update)]
        outcomes = await self._store.report(reports, now)
        await publish(self._channels, (one.event for one in outcomes if one.event is not None))
        part, rejection = outcomes[0].part, outcomes[0].rejection
        if part is None:
            raise NotFound(f"job {job} is not one of agent {uuid}")
        if rejection is not None:
            raise Conflict(rejection.message)
        return json_reply(
            {
                "status": "ok",
                "job_id": part.job,
                "job_status": part.status,
                "version_number": part.version,
                "execution_number": part.attempt,
            }
        )


def _said(body: models.JobUpdate) -> dict[str, Any]:
    """As the details of an MQTT message have it."""
    fields = ("exit_code", "stdout", "stderr", "reason", "executed_steps", "failed_step")
    own = {name: getattr(body, name) for name in fields}
    return {
        **(body.status_details or {}),
        **{name: value for name, value in own.items() if value is not None},
    }


def _shown(job: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in job.items() if name != "id"}
