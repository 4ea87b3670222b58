"""Reports of agents: their forms, their times, and what becomes of their numbers. Pure.

A report may be partial: a field that is absent is unchanged, null removes it, any other value
replaces it whole (reference section 1.4: agents compare and send field by field). When a report was
made is told by its `msgId`, so reports that come late or twice change nothing that is younger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from iotistica import ledger
from iotistica._native import format_topic
from iotistica.api.batch import Telemetry
from iotistica.api.families.family import Incoming, Refusal
from iotistica.api.families.moments import made_ms, moment
from iotistica.instants import iso
from iotistica.store.reports import SYSTEM_METRICS, Report

_MOST_FIELDS = 256
_NUMBERS = (*SYSTEM_METRICS, "uptime")
_UNITS = {"cpu_usage": "%", "cpu_temp": "°C"}
_MOST_VERSION = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Reported:
    """A report, with where it came from."""

    message: Incoming
    report: Report
    at_ms: int

    @property
    def moment(self) -> str:
        """When it was made, ISO 8601."""
        return iso(moment(self.at_ms))


def read_state(message: Incoming) -> Reported | Refusal:
    """A report in any of its forms: keyed by the agent, bare, or a JSON string of either."""
    value = _object(message.value)
    if value is None:
        return _refusal(message, message.value)
    dated = {"msgId": value.pop("msgId", None)}
    keyed = {name.lower(): name for name in value if _is_uuid(name)}
    if message.agent in keyed:
        value = _object(value[keyed[message.agent]])
        if value is None:
            return _refusal(message, message.value)
        dated = {"msgId": value.pop("msgId", dated["msgId"])}
    elif keyed:
        rule = f"the report is about agent {min(keyed)}; it was sent by {message.agent}"
        return Refusal(message, "foreign_agent", rule)
    if len(value) > _MOST_FIELDS:
        rule = f"the report has {len(value)} fields; at most {_MOST_FIELDS} are allowed"
        return Refusal(message, "too_many_fields", rule)
    return _reported(message, _normalized(value), made_ms(dated, message.received_ms))


def read_metrics(message: Incoming) -> Reported | Refusal:
    """System metrics that come by themselves; they are a partial report."""
    value = _object(message.value)
    if value is None:
        return _refusal(message, message.value)
    at_ms = made_ms(value, message.received_ms)
    wanted = {*SYSTEM_METRICS, "temperature", "network", "network_interfaces", "uptime"}
    fields = {name: value[name] for name in value if name in wanted}
    if not fields:
        rule = f"none of {', '.join(SYSTEM_METRICS)} is among the metrics"
        return Refusal(message, "no_metrics", rule)
    return _reported(message, _normalized(fields), at_ms)


def state_message(reported: Reported) -> bytes:
    """What is published of a report (reference section 3)."""
    fields = reported.report.fields
    agent = reported.message.agent
    return orjson.dumps({"deviceUuid": agent, "state": fields, "timestamp": reported.moment})


def metrics_message(reported: Reported) -> bytes | None:
    """What is published of its system metrics; None where it has none."""
    fields = reported.report.fields
    names = (*SYSTEM_METRICS, "network_interfaces")
    if not any(name in fields for name in names):
        return None
    metrics = {name: fields.get(name) for name in names}
    if "network" in fields:
        metrics["network"] = fields["network"]
    agent = reported.message.agent
    return orjson.dumps({"deviceUuid": agent, "metrics": metrics, "timestamp": reported.moment})


def add_readings(batch: Telemetry, reported: Reported) -> None:
    """Append its system metrics to a stream entry, as a message of protocol `system`."""
    readings = [
        {"metric": name, "value": value, "unit": _UNITS.get(name), "quality": "good"}
        for name in SYSTEM_METRICS
        if (value := reported.report.fields.get(name)) is not None
    ]
    if not readings:
        return
    message = reported.message
    topic = format_topic(message.tenant, message.agent, "endpoints/system")
    payload = orjson.dumps(
        {
            "protocol": "system",
            "deviceName": "system",
            "timestamp": reported.moment,
            "readings": readings,
        }
    )
    batch.add(message.received_ms, topic, payload)


def _reported(message: Incoming, fields: dict[str, Any], at_ms: int) -> Reported:
    report = Report(message.agent, fields, dict.fromkeys(fields, at_ms), at_ms)
    return Reported(message, report, at_ms)


def _normalized(fields: dict[str, Any]) -> dict[str, Any]:
    """Agents call the temperature by either name; what is no number is none of these."""
    if "cpu_temp" not in fields and "temperature" in fields:
        fields["cpu_temp"] = fields["temperature"]
    for name in _NUMBERS:
        if name in fields and not _is_number(fields[name]):
            fields[name] = None
    version = fields.get("version")
    is_whole = isinstance(version, int) and not isinstance(version, bool)
    if version is not None and not (is_whole and abs(version) <= _MOST_VERSION):
        del fields["version"]
    return fields


def _object(value: Any) -> dict[str, Any] | None:
    """A JSON object, of a value or of a string that holds it."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
    return dict(value) if isinstance(value, dict) else None


def _refusal(message: Incoming, value: Any) -> Refusal:
    shown = orjson.dumps(value)[:64].decode(errors="replace")
    return Refusal(message, "not_an_object", f"the report is {shown}; a JSON object is expected")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_uuid(name: str) -> bool:
    return ledger.agent_of(name.lower()) != ledger.NOBODY
