"""What agents are told about jobs (reference section 1.3): topics and payloads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from iotistica._native import format_topic


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One agent's part of a job, as the agent sees it."""

    id: int
    tenant: str
    agent: str
    job: str
    job_name: str
    document: Any
    status: str
    version: int
    attempt: int
    timeout_minutes: int
    queued_at: datetime
    last_updated_at: datetime
    created_at: datetime
    started_at: datetime | None = None
    reason: str | None = None
    token: str | None = None
    """Of the request that it answers."""


def millis(moment: datetime) -> int:
    """Epoch milliseconds."""
    return round(moment.timestamp() * 1000)


def topic(tenant: str, agent: str, rest: str) -> str:
    """A topic below `jobs/` of an agent."""
    return format_topic(tenant, agent, f"jobs/{rest}")


def execution(given: Assignment, *, document: bool = True) -> dict[str, Any]:
    """The part as an object."""
    found: dict[str, Any] = {"jobId": given.job}
    if document:
        found["jobDocument"] = given.document
    found["queuedAt"] = millis(given.queued_at)
    if given.started_at is not None:
        found["startedAt"] = millis(given.started_at)
    return found | {
        "lastUpdatedAt": millis(given.last_updated_at),
        "versionNumber": given.version,
        "executionNumber": given.attempt,
        "status": given.status,
    }


def notifications(given: Assignment, now: datetime) -> list[tuple[str, bytes]]:
    """That a job waits: on the topic of the reference's cloud, and on that of its agents."""
    payload = _packed({"execution": execution(given)}, now)
    names = ("notify", "notify-next")
    return [(topic(given.tenant, given.agent, name), payload) for name in names]


def started(given: Assignment, now: datetime) -> list[tuple[str, bytes]]:
    """The answer to a request for work."""
    answer: dict[str, Any] = {"execution": execution(given)}
    if given.token is not None:
        answer["clientToken"] = given.token
    return [(topic(given.tenant, given.agent, "start-next/accepted"), _packed(answer, now))]


def nothing_to_start(
    tenant: str, agent: str, token: str | None, now: datetime
) -> tuple[str, bytes]:
    """The answer where no job waits."""
    return topic(tenant, agent, "start-next/rejected"), _packed({"clientToken": token}, now)


def ended(given: Assignment, now: datetime) -> list[tuple[str, bytes]]:
    """That the platform has ended it: canceled, aborted, timed out. On a topic of its own, since
    an agent of the reference begins whatever `notify-next` names, and looks at no status."""
    told = {"execution": execution(given, document=False), "reason": given.reason}
    return [(topic(given.tenant, given.agent, f"{given.job}/ended"), _packed(told, now))]


TELLING = {"queued": notifications, "started": started, "ended": ended}
"""What is told, by `agent_job_status.notice`."""


def answer(
    tenant: str, agent: str, job: str, said: Mapping[str, Any], now: datetime, *, accepted: bool
) -> tuple[str, bytes]:
    """The answer to an update: `executionState` and `clientToken`, or `code` and `message` too."""
    rest = f"{job}/update/{'accepted' if accepted else 'rejected'}"
    return topic(tenant, agent, rest), _packed(said, now)


def _packed(said: Mapping[str, Any], now: datetime) -> bytes:
    return orjson.dumps({**said, "timestamp": millis(now)})
