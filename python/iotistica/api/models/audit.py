"""Models of the loss ledger (docs/loss-ledger.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from iotistica.store.ledger import Loss


class AuditQuery(msgspec.Struct, kw_only=True):
    """What to show of an audit."""

    limit: Annotated[int, Meta(ge=0, le=1000)] = 100
    """Agents, those with problems first."""
    problems: bool = False
    """Only agents with problems."""


class Messages(TypedDict):
    """Accepted = settled + spooled + in flight + lost + carried."""

    accepted: int
    settled: int
    spooled: int
    in_flight: int | None
    lost_at_most: int
    carried: int
    refused: dict[str, int]
    missing: int
    difference: int | None


class Readings(TypedDict):
    """Readings = stored + duplicate + collided + redelivered + dropped + rejected."""

    readings: int
    stored: int
    duplicate: int
    collided: int
    redelivered: int
    dropped: int
    rejected: int
    late: int
    rejected_by_reason: dict[str, int]
    difference: int


class Numbers(TypedDict):
    """Numbers that an agent gave its messages; ranges are first and last."""

    seen: int
    highest: int
    restarts: int
    missing: list[tuple[int, int]]
    open: list[tuple[int, int]]
    unknown: list[tuple[int, int]]
    unnamed: int
    missing_messages: int
    is_count: bool


class Rows(TypedDict):
    """Rows in the table, beside what the ledger says."""

    found: int | None
    least: int
    most: int | None
    difference: int


class AgentAudit(TypedDict):
    """The account of one agent, or the sum of all."""

    agent: str | None
    balanced: bool | None
    problems: list[str]
    messages: Messages
    readings: Readings
    numbers: Numbers | None
    rows: NotRequired[Rows]


class Losses(TypedDict):
    """Losses, the newest first."""

    count: int
    losses: list[Loss]


class Depth(TypedDict):
    """The tenant's streams."""

    entries: int
    counted: bool
    foreign_entries: int


class TenantAudit(TypedDict):
    """The audit of a tenant."""

    tenant: str
    balanced: bool | None
    clean: bool
    epoch: str | None
    began_at: datetime | None
    snapshot_at: datetime | None
    total: AgentAudit
    agents_total: int
    agents_with_problems: int
    agents: list[AgentAudit]
    losses: list[Loss]
    streams: Depth
    on_disk: dict[str, int]


class Acknowledgment(msgspec.Struct, forbid_unknown_fields=True):
    """Which losses are known, and why they are no news."""

    upto: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    """Id of the newest loss that is meant; the older ones go with it."""
    reason: Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]


class Acknowledged(msgspec.Struct):
    """How many losses were acknowledged now."""

    acknowledged: int
