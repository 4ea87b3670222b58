"""What agents should be and do: target states and jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from iotistica.api.models import jobs as job_models
from iotistica.api.models import target_state as target_models
from iotistica.client.transport import Transport, segment

_V1 = "/api/v1"
_ENDED = frozenset({"COMPLETED", "CANCELED", "ABORTED"})


class Targets:
    """What agents should be."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, agent: UUID | str) -> target_models.TargetState:
        """The target state of an agent. Raises `NotFound`."""
        return await self._transport.call("GET", _target(agent), target_models.TargetState)

    async def set(
        self, agent: UUID | str, target: target_models.Target, *, etag: str | None = None
    ) -> target_models.Written:
        """Replace it at once. Raises `PreconditionFailed` where it is not at `etag` any more."""
        return await self._transport.call(
            "POST", _target(agent), target_models.Written, body=target, headers=_if_match(etag)
        )

    async def stage(
        self, agent: UUID | str, target: target_models.Target, *, etag: str | None = None
    ) -> target_models.Written:
        """Prepare it; the agent gets it when it is deployed. Raises as `set` does."""
        return await self._transport.call(
            "PUT", _target(agent), target_models.Written, body=target, headers=_if_match(etag)
        )

    async def deploy(self, agent: UUID | str, reason: str = "") -> target_models.Written:
        """Serve what is staged. Raises `NotFound`."""
        path = f"{_V1}/agents/{segment(agent)}/deploy"
        body = target_models.Why(reason=reason)
        return await self._transport.call("POST", path, target_models.Written, body=body)

    async def history(self, agent: UUID | str) -> AsyncIterator[target_models.Version]:
        """Its versions, newest first: who made them, when, and why. Raises `NotFound`."""
        path, query = f"{_target(agent)}/history", target_models.HistoryQuery()
        async for page in self._transport.pages(path, target_models.History, query):
            for version in page.versions:
                yield version

    async def version(self, agent: UUID | str, version: int) -> target_models.OneVersion:
        """What a version said. Raises `NotFound`."""
        path = f"{_target(agent)}/history/{version}"
        return await self._transport.call("GET", path, target_models.OneVersion)

    async def rollback(
        self, agent: UUID | str, back: target_models.Rollback
    ) -> target_models.Written:
        """Make what an earlier version said the newest version. Raises `NotFound`."""
        path = f"{_target(agent)}/rollback"
        return await self._transport.call("POST", path, target_models.Written, body=back)

    async def drift(self, agent: UUID | str) -> target_models.Drift:
        """What the agent reports against what it should be. Raises `NotFound`."""
        path = f"{_V1}/agents/{segment(agent)}/drift"
        return await self._transport.call("GET", path, target_models.Drift)

    async def apply(self, order: target_models.Apply) -> target_models.Applied:
        """One target state for many agents."""
        path = f"{_V1}/target-state/apply"
        return await self._transport.call("POST", path, target_models.Applied, body=order)


class Jobs:
    """Work for agents."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def execute(self, order: job_models.Execute) -> job_models.Job:
        """Order a job."""
        path = f"{_V1}/jobs/execute"
        done = await self._transport.call("POST", path, job_models.Executed, body=order)
        return done["job"]

    async def get(self, job: UUID | str) -> job_models.Job:
        """A job with the counts of its agents. Raises `NotFound`."""
        path = f"{_V1}/jobs/executions/{segment(job)}"
        return await self._transport.call("GET", path, job_models.Job)

    async def all(
        self, query: job_models.JobQuery | None = None
    ) -> AsyncIterator[job_models.JobSummary]:
        """Every job that fits, newest first, page after page."""
        path, asked = f"{_V1}/jobs/executions", query or job_models.JobQuery()
        async for page in self._transport.pages(path, job_models.JobPage, asked):
            for job in page["executions"]:
                yield job

    async def parts(
        self, job: UUID | str, query: job_models.PartQuery | None = None
    ) -> AsyncIterator[job_models.PartView]:
        """Where each agent of a job stands, page after page. Raises `NotFound`."""
        path = f"{_V1}/jobs/executions/{segment(job)}/agents"
        asked = query or job_models.PartQuery()
        async for page in self._transport.pages(path, job_models.PartPage, asked):
            for part in page["agents"]:
                yield part

    async def watch(
        self, job: UUID | str, *, every_s: float = 1.0
    ) -> AsyncIterator[job_models.Job]:
        """The job, again and again until it has ended. Raises `NotFound`."""
        while True:
            seen = await self.get(job)
            yield seen
            if seen["status"] in _ENDED:
                return
            await asyncio.sleep(every_s)

    async def cancel(self, job: UUID | str, reason: str = "") -> None:
        """Stop a job wherever it has not ended. Raises `NotFound`, `Conflict`."""
        path = f"{_V1}/jobs/executions/{segment(job)}/cancel"
        body = job_models.Cancel(reason=reason)
        await self._transport.call("POST", path, job_models.Done, body=body)


def _target(agent: UUID | str) -> str:
    return f"{_V1}/agents/{segment(agent)}/target-state"


def _if_match(etag: str | None) -> dict[str, str]:
    return {} if etag is None else {"if-match": f'"{etag}"'}
