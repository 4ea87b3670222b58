"""An anomaly event as agents send it (reference section 1.4). Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from iotistica.errors import BadRequest

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""The lowest first."""

_ENDPOINT = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_(.+)", re.I | re.S)

Key = Annotated[str, Meta(min_length=1, max_length=512)]
Text = Annotated[str, Meta(max_length=2000)]
Amount = Annotated[float, Meta(ge=-1e100, le=1e100)]
"""Small enough to be summed up."""
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Baseline(msgspec.Struct, rename="camel"):
    """What was usual."""

    median: float | None = None
    mean: float | None = None
    std_dev: float | None = None
    sample_count: float | None = None
    method: Text | None = None
    source: Text | None = None


class Anomaly(msgspec.Struct, rename="camel", kw_only=True):
    """One event. Only time, metric and fingerprint must be there."""

    timestamp_ms: Count
    metric: Key
    fingerprint: Key
    msg_id: Annotated[str, Meta(max_length=200)] | None = None
    agent_uuid: Text | None = None
    device_name: Annotated[str, Meta(max_length=255)] | None = None
    device_uuid: Annotated[str, Meta(max_length=255)] | None = None
    device_type: Annotated[str, Meta(max_length=64)] | None = None
    device_state: Annotated[str, Meta(max_length=64)] | None = None
    window_start_ms: Count | None = None
    window_end_ms: Count | None = None
    observed_value: Amount | None = None
    baseline: Baseline | None = None
    anomaly_score: Amount | None = None
    confidence: Annotated[float, Meta(ge=0, le=1)] | None = None
    severity: Severity = "info"
    severity_reason: Text | None = None
    triggered_by: Annotated[list[Text], Meta(max_length=64)] | None = None
    suppressed: bool | None = None
    expected_range: tuple[float | None, float | None] | None = None
    deviation: Amount | None = None
    cooldown_sec: Annotated[float, Meta(ge=0)] | None = None
    first_seen: Count | Text | None = None
    consecutive_count: Count | None = None
    event_count: Count | None = None

    def __post_init__(self) -> None:
        """Check what stands between fields. Raises `ValueError`."""
        if self.expected_range is not None:
            low, high = self.expected_range
            if low is not None and high is not None and low > high:
                raise ValueError(f"expectedRange is [{low}, {high}]; the first must be the lower")
        start, end = self.window_start_ms, self.window_end_ms
        if start is not None and end is not None and start > end:
            raise ValueError(f"windowStartMs is {start}; it must not be after windowEndMs, {end}")

    @property
    def first_seen_ms(self) -> int | None:
        """When it began; agents write it as number or as ISO time."""
        if not isinstance(self.first_seen, str):
            return self.first_seen
        try:
            moment = datetime.fromisoformat(self.first_seen)
        except ValueError:
            return None
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(aware.timestamp() * 1000)

    def split(self, agent: str) -> tuple[str | None, str]:
        """Endpoint and name of a metric that carries ids before its name.

        The forms are `{agentUuid}_{endpointUuid}_{name}` and `{endpointUuid}_{name}`.
        """
        rest = self.metric
        if rest.lower().startswith(f"{agent}_"):
            rest = rest[len(agent) + 1 :]
        match = _ENDPOINT.fullmatch(rest)
        return (match[1].lower(), match[2]) if match else (None, self.metric)


def read(value: Any) -> Anomaly:
    """An event of a decoded message. Raises `BadRequest` naming field, value and rule."""
    if not isinstance(value, dict):
        raise BadRequest(f"the event is {_shown(value)}; a JSON object is expected")
    # Agents send null for what they do not know, also for what has a default.
    given = {name: one for name, one in value.items() if one is not None}
    try:
        return msgspec.convert(given, Anomaly, strict=False)
    except msgspec.ValidationError as error:
        rule, _, place = str(error).replace("`", "").partition(" - at $.")
        if place:
            found = given.get(re.split(r"[.\[]", place)[0])
            raise BadRequest(f"{place} is {_shown(found)}: {_lower(rule)}") from None
        raise BadRequest(_lower(rule)) from None


def _lower(rule: str) -> str:
    return rule.replace("Expected", "expected", 1).replace("Object missing", "the event lacks the")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 64 else text[:64] + "…"
