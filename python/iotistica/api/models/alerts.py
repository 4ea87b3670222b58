"""Models of alert rules, their alerts, and webhooks (docs/alerts.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from iotistica.alerting.rule import Condition, Kind, Name, Severity
from iotistica.api.models import Text
from iotistica.api.models.anomalies import Cursor, Number, PageSize

Status = Literal["open", "acknowledged", "resolved"]
Event = Literal["alert.opened", "alert.acknowledged", "alert.resolved", "anomaly.alert"]

_ALL_EVENTS: tuple[Event, ...] = (
    "alert.opened",
    "alert.acknowledged",
    "alert.resolved",
    "anomaly.alert",
)
_ALL_SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2000,
        extra_json_schema={"examples": ["https://hooks.example.com/iotistica"]},
    ),
]


class RuleQuery(msgspec.Struct, kw_only=True):
    """Which rules."""

    kind: Kind | None = None
    enabled: bool | None = None
    limit: PageSize = 50
    cursor: Cursor | None = None


class RuleView(msgspec.Struct, kw_only=True):
    """An alert rule."""

    id: int
    name: str
    description: str
    metric: str | None
    agents: list[str] | None
    fleet_uuid: str | None
    tags: dict[str, str | None] | None
    group_id: str | None
    condition: Condition
    severity: Severity
    labels: dict[str, str]
    enabled: bool
    interval_s: float
    clear_for_s: float
    max_age_s: float
    created_at: datetime
    modified_at: datetime
    evaluated_at: datetime | None
    """When it was last looked after."""
    open_alerts: int


class RulePage(msgspec.Struct):
    """Alert rules, the newest first."""

    count: int
    rules: list[RuleView]
    cursor: str | None


class AlertQuery(msgspec.Struct, kw_only=True):
    """Which alerts; all that are given must fit."""

    status: Status | None = None
    severity: Severity | None = None
    agent: UUID | None = None
    rule: Number | None = None
    label: Annotated[list[Text], Meta(max_length=32)] = []
    """Labels as `name=value`."""
    limit: PageSize = 50
    cursor: Cursor | None = None


class AlertView(msgspec.Struct, kw_only=True):
    """An alert: what a rule found of one series."""

    id: int
    rule_id: int | None
    """None where the rule was removed."""
    rule_name: str
    kind: Kind
    agent_uuid: str
    device_name: str
    metric_name: str
    """Empty where it is about the agent as a whole."""
    severity: Severity
    labels: dict[str, str]
    message: str
    status: Status
    opened_value: float | None
    value: float | None
    opened_at: datetime
    seen_at: datetime
    cleared_since: datetime | None
    flapping: bool
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    resolved_at: datetime | None
    resolution: str | None


class AlertPage(msgspec.Struct):
    """Alerts, the newest first."""

    count: int
    alerts: list[AlertView]
    cursor: str | None


class WebhookQuery(msgspec.Struct, kw_only=True):
    """Which webhooks."""

    limit: PageSize = 50
    cursor: Cursor | None = None


class WebhookBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whom to tell, and what."""

    name: Name
    url: Url
    events: Annotated[list[Event], Meta(min_length=1, max_length=4)] = msgspec.field(
        default_factory=lambda: list(_ALL_EVENTS)
    )
    severities: Annotated[list[Severity], Meta(min_length=1, max_length=3)] = msgspec.field(
        default_factory=lambda: list(_ALL_SEVERITIES)
    )
    enabled: bool = True


class WebhookChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to change of a webhook; the rest stays."""

    name: Name | UnsetType = UNSET
    url: Url | UnsetType = UNSET
    events: Annotated[list[Event], Meta(min_length=1, max_length=4)] | UnsetType = UNSET
    severities: Annotated[list[Severity], Meta(min_length=1, max_length=3)] | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET

    def given(self) -> dict[str, Any]:
        """Fields that are given, by name."""
        return {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not UNSET
        }


class WebhookView(msgspec.Struct, kw_only=True):
    """A webhook without its secret."""

    id: int
    name: str
    url: str
    events: list[str]
    severities: list[str]
    enabled: bool
    created_at: datetime
    modified_at: datetime


class WebhookSecret(WebhookView, kw_only=True):
    """A webhook with its secret, which is not shown again."""

    secret: str


class WebhookPage(msgspec.Struct):
    """Webhooks, the newest first."""

    count: int
    webhooks: list[WebhookView]
    cursor: str | None


class DeliveryQuery(msgspec.Struct, kw_only=True):
    """Which deliveries."""

    status: Literal["pending", "delivered", "dead"] | None = None
    limit: PageSize = 50
    cursor: Cursor | None = None


class DeliveryView(msgspec.Struct, kw_only=True):
    """Something that is to be told to a webhook, and what came of it."""

    id: int
    event: str
    status: Literal["pending", "delivered", "dead"]
    attempts: int
    next_at: datetime
    """When it is tried, while it is pending."""
    response_status: int | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None
    payload: msgspec.Raw


class DeliveryPage(msgspec.Struct):
    """Deliveries, the newest first."""

    count: int
    deliveries: list[DeliveryView]
    cursor: str | None


class Tried(msgspec.Struct):
    """What came of a test."""

    delivery: int
    delivered: bool
    response_status: int | None
    error: str | None
    seconds: float
