"""Models of jobs, with the reference's names (section 5.2)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, TypedDict
from uuid import UUID

import msgspec
from msgspec import Meta

from iotistica.api.models import Text, Time
from iotistica.jobs.progress import Status
from iotistica.jobs.rollout import AbortRule, Rollout
from iotistica.selection import AgentFilter

Name: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]*$",
        extra_json_schema={"examples": ["rotate-logs"]},
    ),
]
Document: TypeAlias = Annotated[
    dict[str, Any],
    Meta(extra_json_schema={"examples": [{"steps": [{"action": "run", "command": "uptime"}]}]}),
]
"""What agents are to do, in their own words."""

Cursor: TypeAlias = Annotated[
    str, Meta(pattern=r"^[0-9]{1,18}$", extra_json_schema={"examples": ["41"]})
]
TemplateId: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Page: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
Whole: TypeAlias = Annotated[int, Meta(ge=-(2**31) + 1, le=2**31 - 1)]
JobStatus: TypeAlias = Literal["SCHEDULED", "IN_PROGRESS", "COMPLETED", "CANCELED", "ABORTED"]
Failed: TypeAlias = Literal["FAILED", "TIMED_OUT", "REJECTED", "CANCELED"]

# Templates


class TemplateQuery(msgspec.Struct, kw_only=True):
    """Which templates to list."""

    limit: Page = 100
    cursor: Name | None = None
    """Of an earlier page: the name after which to go on."""


class NewTemplate(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A document to run again."""

    name: Name
    job_document: Document
    description: Text = ""


class TemplateChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is to change."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    job_document: Document | msgspec.UnsetType = msgspec.UNSET
    description: Text | msgspec.UnsetType = msgspec.UNSET


class Template(TypedDict):
    """A template."""

    id: int
    name: str
    description: str
    job_document: dict[str, Any]
    created_by: str
    created_at: datetime
    updated_at: datetime


class TemplatePage(TypedDict):
    """Templates by name."""

    count: int
    templates: list[Template]
    cursor: str | None


# Jobs


class Schedule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When a job begins."""

    scheduled_at: Time | None = None
    interval_minutes: Annotated[int, Meta(ge=1, le=525_600)] | None = None
    """Of a recurring job."""


class Execute(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to be done by whom: by agents that are named, that fit a filter, or all."""

    target_type: Annotated[
        Literal["device", "group", "all"], Meta(extra_json_schema={"examples": ["all"]})
    ]
    job_name: Name | None = None
    job_document: Document | None = None
    template_id: TemplateId | None = None
    target_agents: Annotated[list[UUID], Meta(max_length=10_000)] = []
    target_group: UUID | None = None
    """A saved filter; with `target_filter` both must hold."""
    target_filter: AgentFilter | None = None
    execution_type: Literal["once", "scheduled", "recurring"] = "once"
    schedule: Schedule | None = None
    max_executions: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Runs of a recurring job."""
    timeout_minutes: Annotated[int, Meta(ge=1, le=525_600)] = 60
    """For each agent, from its start."""
    max_retries: Annotated[int, Meta(ge=0, le=100)] = 0
    """For each agent that fails or takes too long."""
    retry_delay_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 60
    """Before the first retry; each later one waits twice as long, a day at most."""
    rollout: Rollout | None = None
    abort: Annotated[list[AbortRule], Meta(max_length=10)] = []


class Totals(TypedDict):
    """How many agents of a job stand where."""

    total_agents: int
    waiting_agents: int
    """For the rollout to come to them."""
    queued_agents: int
    in_progress_agents: int
    succeeded_agents: int
    failed_agents: int
    timed_out_agents: int
    rejected_agents: int
    canceled_agents: int


class JobSummary(Totals):
    """A job without its document."""

    job_id: str
    template_id: int | None
    parent_job_id: str | None
    job_name: str
    target_type: Literal["device", "group", "all"]
    target_group: str | None
    target_filter: dict[str, Any] | None
    execution_type: Literal["once", "scheduled", "recurring"]
    schedule: dict[str, Any] | None
    max_executions: int | None
    executions: int
    timeout_minutes: int
    max_retries: int
    retry_delay_seconds: int
    rollout: dict[str, Any] | None
    abort: list[dict[str, Any]]
    status: JobStatus
    reason: str | None
    next_run_at: datetime | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class Job(JobSummary):
    """A job."""

    job_document: dict[str, Any]
    target_agents: list[str]


class Executed(TypedDict):
    """A job that was ordered."""

    job: Job
    message: str


class JobQuery(msgspec.Struct, kw_only=True):
    """Which jobs to list."""

    status: JobStatus | None = None
    limit: Page = 50
    cursor: Cursor | None = None
    offset: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """As the reference pages; `cursor` stays right while jobs are added."""


class JobPage(TypedDict):
    """Jobs, newest first."""

    count: int
    executions: list[JobSummary]
    cursor: str | None


class PartQuery(msgspec.Struct, kw_only=True):
    """Which agents of a job to list."""

    status: Status | None = None
    limit: Page = 100
    cursor: UUID | None = None


class PartView(TypedDict):
    """Where an agent stands with a job."""

    agent_uuid: str
    agent_name: str
    status: Status
    execution_number: int
    version_number: int
    retries_left: int
    queued_at: datetime
    available_at: datetime | None
    """None while the rollout has not come to it."""
    started_at: datetime | None
    last_updated_at: datetime
    completed_at: datetime | None
    exit_code: int | None
    reason: str | None
    failed_step: str | None


class PartPage(TypedDict):
    """Agents of a job, by UUID."""

    count: int
    agents: list[PartView]
    cursor: str | None


class Cancel(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Why a job is ended."""

    reason: Text | None = None


class Retry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who is to try again."""

    statuses: Annotated[list[Failed], Meta(min_length=1, max_length=4)] = msgspec.field(
        default_factory=lambda: ["FAILED", "TIMED_OUT"]
    )
    """Ends after which an agent tries again; FAILED and TIMED_OUT where none are named."""
    target_agents: Annotated[list[UUID], Meta(max_length=10_000)] = []
    """All that ended so where none are named."""


class Retried(TypedDict):
    """How many agents try again."""

    agents: int
    message: str


class Done(TypedDict):
    """What was done."""

    status: str
    message: str


# Agents


class AgentJobQuery(msgspec.Struct, kw_only=True):
    """Which jobs of an agent to list."""

    status: Status | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 20
    cursor: Cursor | None = None


class AgentJob(TypedDict):
    """A job of an agent."""

    job_id: str
    job_name: str
    status: Status
    execution_number: int
    version_number: int
    queued_at: datetime
    available_at: datetime | None
    started_at: datetime | None
    last_updated_at: datetime
    completed_at: datetime | None
    exit_code: int | None
    stdout: str | None
    stderr: str | None
    reason: str | None
    executed_steps: Any
    failed_step: str | None
    status_details: Any


class AgentJobPage(TypedDict):
    """Jobs of an agent, newest first."""

    count: int
    jobs: list[AgentJob]
    cursor: str | None


class NextJob(TypedDict):
    """A job to do now."""

    job_id: str
    job_name: str
    job_document: dict[str, Any]
    timeout_seconds: int
    created_at: datetime
    execution_number: int
    version_number: int


class JobUpdate(msgspec.Struct, kw_only=True):
    """How a job goes on; what is not given stays as it was."""

    status: Status
    exit_code: Whole | None = None
    stdout: str | None = None
    stderr: str | None = None
    reason: str | None = None
    executed_steps: Any = None
    failed_step: str | int | None = None
    status_details: dict[str, Any] | None = None
    expected_version: Whole | None = None
    execution_number: Whole | None = None


class Updated(TypedDict):
    """Where the agent stands now."""

    status: Literal["ok"]
    job_id: str
    job_status: Status
    version_number: int
    execution_number: int
