"""Models of retention (docs/retention.md)."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from iotistica.retention import Rule

Pattern = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=512,
        pattern=r"^[^\x00]*$",
        extra_json_schema={"examples": ["vibration.*"]},
    ),
]
"""Of names of metrics: `*` is any text, `?` any character, everything else itself."""
KeepDays = Annotated[int, Meta(ge=1, le=36_500)]


class RetentionRule(msgspec.Struct, kw_only=True):
    """For how many days readings of metrics are kept."""

    pattern: Pattern
    keep_days: KeepDays
    remove_rollups: bool = False
    """Minutes, hours and days of them go as well; else they stay as long as everybody's."""

    def rule(self) -> Rule:
        """As the store takes it."""
        return Rule(**msgspec.structs.asdict(self))


class RetentionRuleView(msgspec.Struct, kw_only=True):
    """A rule, and for how many metrics of the tenant it is the one that counts."""

    id: int
    pattern: str
    keep_days: int
    remove_rollups: bool
    metrics: int
    created_at: datetime
    updated_at: datetime


class StorageView(msgspec.Struct, kw_only=True):
    """How many readings are stored of those that may be, as counted last."""

    readings: int
    most: int
    percent: float
    oldest: date | None
    quota_since: date | None
    """What is older was too much, and is removed."""
    counted_at: datetime


class Retention(msgspec.Struct, kw_only=True):
    """What is kept, and for how long."""

    readings_days: int
    """Of the platform: no rule keeps anything longer."""
    minutes_days: int
    hours_days: int
    days_days: int
    rules: list[RetentionRuleView]
    storage: StorageView | None
    """None where nothing limits it, or nobody has counted yet."""


class PreviewQuestion(msgspec.Struct, kw_only=True):
    """Rules that shall be thought to be set, each in place of that of the same pattern."""

    rules: Annotated[list[RetentionRule], Meta(max_length=100)] = []


class MetricGoing(msgspec.Struct, kw_only=True):
    """Readings of a metric that are too old, and by which rule."""

    metric: str
    pattern: str
    keep_days: int
    remove_rollups: bool
    readings: int
    oldest: date
    first_kept: date


class RetentionPreview(msgspec.Struct, kw_only=True):
    """What the next turns remove, as rollups count it; readings of the last hour may lack."""

    readings: int
    oldest: date | None
    metrics: list[MetricGoing]
    """The most first."""
