"""Bodies of the control path (reference section 5.3), with the reference's names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Struct

from iotistica.selection import AgentFilter
from iotistica.targets.difference import Deviation, Difference

Reason = Annotated[str, Meta(max_length=500, description="Why, for the history")]
Apps = list[dict[str, Any]] | dict[str, dict[str, Any]]
Number = Annotated[int, Meta(ge=1, le=2**31 - 1, description="Of a version")]
Limit = Annotated[int, Meta(ge=1, le=500)]


class Target(Struct, kw_only=True):
    """A whole target state: apps as an array, each with an `appId`, or as an object by id."""

    apps: Apps
    config: dict[str, Any] = {}
    reason: Reason = ""


class Why(Struct, kw_only=True):
    """The reason of a change."""

    reason: Reason = ""


class Rollback(Struct, kw_only=True):
    """Which version to go back to, and whether agents get it at once."""

    version: Number
    deploy: bool = True
    reason: Reason = ""


class TargetState(Struct, kw_only=True):
    """A target state as operators see it."""

    uuid: UUID
    version: int
    apps: dict[str, Any]
    config: dict[str, Any]
    etag: str
    needs_deployment: bool
    is_default: bool
    served_version: int | None
    served_etag: str | None
    last_deployed_at: datetime | None
    deployed_by: str | None
    updated_at: datetime | None


class Written(TargetState, kw_only=True):
    """A target state after a change."""

    status: Literal["ok"] = "ok"
    message: str


class Version(Struct, kw_only=True):
    """One version of the history."""

    version: int
    etag: str
    deployed: bool
    action: str
    reason: str
    changed_by: str
    changed_at: datetime


class History(Struct, kw_only=True):
    """Versions, newest first."""

    count: int
    versions: list[Version]
    cursor: str | None


class HistoryQuery(Struct, kw_only=True):
    """A page of the history."""

    limit: Limit = 50
    cursor: str | None = None


class OneVersion(Struct, kw_only=True):
    """What a version said."""

    uuid: UUID
    version: int
    apps: dict[str, Any]
    config: dict[str, Any]


class DiffQuery(Struct, kw_only=True, rename={"before": "from", "after": "to"}):
    """Two versions; without `to` the present one."""

    before: Number
    after: Number | None = None


class Diff(Struct, kw_only=True, rename={"before": "from", "after": "to"}):
    """What changed from one version to another."""

    uuid: UUID
    before: int
    after: int
    differences: list[Difference]


class Default(Struct, kw_only=True):
    """The target state of agents that have none of their own."""

    version: int
    etag: str
    apps: dict[str, Any]
    config: dict[str, Any]


class Apply(Struct, kw_only=True, rename="camel"):
    """A change of many target states: of `agents`, a `fleet`, a `group`, a `filter`, or of `all`.

    `apps` and `config` replace what an agent has; with `merge` they are JSON merge patches
    (RFC 7396). Agents get the change at once unless `deploy` is false.
    """

    agents: Annotated[list[UUID], Meta(min_length=1, max_length=100_000)] | None = None
    fleet: UUID | None = None
    group: UUID | None = None
    filter: AgentFilter | None = None
    all: bool = False
    apps: list[dict[str, Any]] | dict[str, dict[str, Any] | None] | None = None
    config: dict[str, Any] | None = None
    merge: bool = False
    deploy: bool = True
    dry_run: bool = False
    reason: Reason = ""


class Refused(Struct, kw_only=True):
    """An agent whose target state was not changed."""

    uuid: UUID
    message: str


class Applied(Struct, kw_only=True, rename="camel"):
    """What became of a change of many."""

    dry_run: bool
    selected: int
    changed: int
    unchanged: int
    failed: list[Refused]
    """At most 100 of them are told."""
    failed_count: int


class CurrentState(Struct, kw_only=True):
    """What an agent reported last."""

    apps: dict[str, Any]
    config: dict[str, Any]
    system_info: Any
    reported_at: datetime | None
    version: int | None


class Drift(Struct, kw_only=True):
    """An agent against its target."""

    uuid: UUID
    name: str
    status: Literal["in_sync", "drifted", "not_reported"]
    target_version: int
    reported_version: int | None
    reported_at: datetime | None
    needs_deployment: bool
    deviations: list[Deviation]


class DriftQuery(Struct, kw_only=True):
    """A page of agents."""

    limit: Limit = 100
    cursor: str | None = None
    status: Literal["in_sync", "drifted", "not_reported"] | None = None


class DriftPage(Struct, kw_only=True):
    """Agents of one page and how many of them are in which state."""

    count: int
    in_sync: int
    drifted: int
    not_reported: int
    agents: list[Drift]
    cursor: str | None


class Broker(Struct, kw_only=True, rename="camel"):
    """Where the agent is to connect from now on: a broker of `/brokers`, or what is given here."""

    broker_id: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    protocol: Literal["mqtt", "mqtts", "ws", "wss"] = "mqtt"
    host: Annotated[str, Meta(min_length=1, max_length=253)] | None = None
    port: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    username: str | None = None
    use_tls: bool | None = None
    verify_certificate: bool | None = None
    ca_cert: str | None = None
    client_id_prefix: str | None = None
    keep_alive: Annotated[int, Meta(ge=0, le=65_535)] | None = None
    clean_session: bool | None = None
    reconnect_period: Annotated[int, Meta(ge=0)] | None = None
    connect_timeout: Annotated[int, Meta(ge=0)] | None = None


class Update(Struct, kw_only=True):
    """Which version of its software the agent is to install, and when."""

    version: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^|\s\x00]+$")]
    scheduled_time: datetime | None = None
    force: bool = False


class Sent(Struct, kw_only=True):
    """A command on its way to the agent."""

    status: Literal["ok"] = "ok"
    message: str
    command: dict[str, Any]


class UpdateQuery(Struct, kw_only=True):
    """A page of updates."""

    limit: Limit = 50
    cursor: Annotated[str, Meta(max_length=1000)] | None = None


class UpdateView(Struct, kw_only=True):
    """An update of an agent's software."""

    id: int
    status: Literal[
        "pending",
        "acknowledged",
        "scheduled",
        "in_progress",
        "succeeded",
        "failed",
        "rejected",
        "timed_out",
    ]
    current_version: str | None
    """What it had, as far as it is known."""
    target_version: str | None
    deployment_type: str | None
    scheduled_time: datetime | None
    requested_by: str
    """Empty where the agent began by itself."""
    error: str | None
    exit_code: int | None
    created_at: datetime
    acknowledged_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    timeout_at: datetime | None
    """When it is given up, if nothing is heard until then."""


class Updates(Struct, kw_only=True):
    """Updates, newest first."""

    count: int
    updates: list[UpdateView]
    cursor: str | None
