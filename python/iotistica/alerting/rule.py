"""What an alert rule says (docs/alerts.md). Pure.

Every condition comes down to a band: a value outside raises an alert, and only a value within the
clear band, which is the narrower one, resolves it. Between the two nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from iotistica.selection import TagKey, TagValue

Operator = Literal[">", ">=", "<", "<=", "outside"]
Severity = Literal["info", "warning", "critical"]
Kind = Literal["threshold", "rate", "absence"]

DAY_S = 86_400
PER_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0}

Amount = Annotated[float, Meta(ge=-1e100, le=1e100)]
Seconds = Annotated[float, Meta(ge=0, le=DAY_S)]
Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]
Words = Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00]*$")]
LabelKey = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:/-]+$")]
Label = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00]*$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Where values may be. Bounds that an operator does not use are None."""

    operator: Operator
    low: float | None = None
    high: float | None = None
    clear_low: float | None = None
    clear_high: float | None = None

    def raises(self, value: float) -> bool:
        """Whether a value opens an alert."""
        return _is_outside(self.operator, value, self.low, self.high)

    def holds(self, value: float) -> bool:
        """Whether a value keeps an open alert open."""
        return _is_outside(self.operator, value, self.clear_low, self.clear_high)

    def __str__(self) -> str:
        """The rule as people write it."""
        if self.operator == "outside":
            return f"outside {self.low:g} to {self.high:g}"
        bound = self.high if self.operator in (">", ">=") else self.low
        return f"{self.operator} {bound:g}"


def _is_outside(operator: str, value: float, low: float | None, high: float | None) -> bool:
    match operator:
        case ">":
            return high is not None and value > high
        case ">=":
            return high is not None and value >= high
        case "<":
            return low is not None and value < low
        case "<=":
            return low is not None and value <= low
        case _:
            return (low is not None and value < low) or (high is not None and value > high)


class _Bounds(Struct, kw_only=True, forbid_unknown_fields=True):
    """`value` and `clear` of a comparison, or the ends of a range."""

    operator: Operator
    value: Amount | None = None
    clear: Amount | None = None
    """Resolves an alert; `value` where it is not given."""
    low: Amount | None = None
    high: Amount | None = None
    clear_low: Amount | None = None
    clear_high: Amount | None = None

    def __post_init__(self) -> None:
        """Check what stands between fields. Raises `ValueError`."""
        if self.operator == "outside":
            self._check_range()
        else:
            self._check_comparison()

    def _check_range(self) -> None:
        if self.value is not None or self.clear is not None:
            raise ValueError("a range has low and high, no value or clear")
        if self.low is None or self.high is None:
            raise ValueError("operator outside needs low and high")
        clear_low, clear_high = _or(self.clear_low, self.low), _or(self.clear_high, self.high)
        if not self.low <= clear_low <= clear_high <= self.high:
            raise ValueError(
                f"low is {self.low:g}, clear_low {clear_low:g}, clear_high {clear_high:g}, "
                f"high {self.high:g}; they must not fall"
            )

    def _check_comparison(self) -> None:
        if (self.low, self.high, self.clear_low, self.clear_high) != (None, None, None, None):
            raise ValueError(f"operator {self.operator} has value and clear, no range")
        if self.value is None:
            raise ValueError(f"operator {self.operator} needs a value")
        clear = _or(self.clear, self.value)
        if self.operator in (">", ">=") and clear > self.value:
            raise ValueError(f"clear is {clear:g}; it must not be above value, {self.value:g}")
        if self.operator in ("<", "<=") and clear < self.value:
            raise ValueError(f"clear is {clear:g}; it must not be below value, {self.value:g}")

    def band(self) -> Band:
        """The same as a band."""
        if self.operator == "outside":
            return Band(
                operator="outside",
                low=self.low,
                high=self.high,
                clear_low=_or(self.clear_low, self.low),
                clear_high=_or(self.clear_high, self.high),
            )
        clear = _or(self.clear, self.value)
        if self.operator in (">", ">="):
            return Band(operator=self.operator, high=self.value, clear_high=clear)
        return Band(operator=self.operator, low=self.value, clear_low=clear)


class Threshold(_Bounds, tag_field="kind", tag="threshold", kw_only=True):
    """The newest value of a series, for a while where `for_s` is given."""

    for_s: Seconds = 0.0


class Rate(_Bounds, tag_field="kind", tag="rate", kw_only=True):
    """How fast a series changes: from the first to the last reading of the newest window."""

    per: Literal["second", "minute", "hour"] = "minute"
    window_s: Annotated[float, Meta(ge=1, le=DAY_S)] = 300.0


class Absence(Struct, tag_field="kind", tag="absence", kw_only=True, forbid_unknown_fields=True):
    """Nothing came in of a series, or of an agent where the rule names no metric."""

    silent_s: Annotated[float, Meta(ge=10, le=30 * DAY_S)]
    clear_s: Annotated[float, Meta(ge=1, le=30 * DAY_S)] | None = None
    """Resolves an alert: something came in within so many seconds."""

    def __post_init__(self) -> None:
        """Check what stands between fields. Raises `ValueError`."""
        if self.clear_s is not None and self.clear_s > self.silent_s:
            raise ValueError(
                f"clear_s is {self.clear_s:g}; it must not be above silent_s, {self.silent_s:g}"
            )

    def band(self) -> Band:
        """Of the seconds without anything."""
        return Band(operator=">", high=self.silent_s, clear_high=_or(self.clear_s, self.silent_s))


Condition: TypeAlias = Threshold | Rate | Absence


class RuleBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """An alert rule as an operator gives it."""

    name: Name
    condition: Condition
    description: Words = ""
    metric: Name | None = None
    """Name of the metric; `*` is any text, `?` any character. An absence without it is the whole
    agent's."""
    agents: Annotated[list[UUID], Meta(min_length=1, max_length=1000)] | None = None
    """Which agents; all of the tenant where nothing is said of them."""
    fleet_uuid: UUID | None = None
    tags: Annotated[dict[TagKey, TagValue | None], Meta(min_length=1, max_length=20)] | None = None
    """Only agents with all of these; null is any value."""
    group_id: UUID | None = None
    """Only agents that are in this group now. What is given of agents, fleet, tags and group must
    all hold."""
    severity: Severity = "warning"
    labels: Annotated[dict[LabelKey, Label], Meta(max_length=32)] = {}
    enabled: bool = True
    interval_s: Annotated[float, Meta(ge=5, le=DAY_S)] = 30.0
    clear_for_s: Seconds = 0.0
    """An alert is resolved when it has been clear for so long."""
    max_age_s: Annotated[float, Meta(ge=10, le=30 * DAY_S)] = 3600.0
    """Older readings open no alert."""

    def __post_init__(self) -> None:
        """Check what stands between fields. Raises `ValueError`."""
        if self.metric is None and not isinstance(self.condition, Absence):
            raise ValueError(f"a {kind_of(self.condition)} rule needs a metric")


class RuleChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to change of a rule; the rest stays."""

    name: Name | UnsetType = UNSET
    condition: Condition | UnsetType = UNSET
    description: Words | UnsetType = UNSET
    metric: Name | UnsetType | None = UNSET
    agents: Annotated[list[UUID], Meta(min_length=1, max_length=1000)] | UnsetType | None = UNSET
    fleet_uuid: UUID | UnsetType | None = UNSET
    tags: (
        Annotated[dict[TagKey, TagValue | None], Meta(min_length=1, max_length=20)]
        | UnsetType
        | None
    ) = UNSET
    group_id: UUID | UnsetType | None = UNSET
    severity: Severity | UnsetType = UNSET
    labels: Annotated[dict[LabelKey, Label], Meta(max_length=32)] | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    interval_s: Annotated[float, Meta(ge=5, le=DAY_S)] | UnsetType = UNSET
    clear_for_s: Seconds | UnsetType = UNSET
    max_age_s: Annotated[float, Meta(ge=10, le=30 * DAY_S)] | UnsetType = UNSET

    def given(self) -> dict[str, Any]:
        """Fields that are given, by name."""
        return {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not UNSET
        }


def kind_of(condition: Condition) -> Kind:
    """`threshold`, `rate` or `absence`."""
    kind: Kind = condition.__struct_config__.tag  # type: ignore[assignment]
    return kind


def is_pattern(metric: str) -> bool:
    """Whether a metric of a rule may mean several."""
    return "*" in metric or "?" in metric


def as_like(pattern: str) -> str:
    """A pattern with `*` and `?` for the LIKE of PostgreSQL."""
    escaped = pattern.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return escaped.replace("*", "%").replace("?", "_")


def read_condition(text: str | bytes) -> Condition:
    """A condition as it was saved."""
    condition: Condition = msgspec.json.decode(text, type=Condition)
    return condition


def _or(value: float | None, default: float | None) -> float:
    chosen = default if value is None else value
    assert chosen is not None  # checked when it was made
    return chosen
