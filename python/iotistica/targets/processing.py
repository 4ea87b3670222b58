"""What becomes of a config between the operator who writes it and the agent that gets it.

Reference section 5.3: passwords of MQTT endpoints become hashes, names of metrics get their full
form, ranges without bounds go, and the part that makes an agent update itself is signed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from iotistica.errors import BadRequest
from iotistica.instants import iso
from iotistica.targets.state import Content, Json

_ROUNDS = 101
"""What Mosquitto's own tool uses, and with it the brokers beside agents (reference 1.5)."""
_SIGNED_FOR = timedelta(hours=24)
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_OF_AGENT = re.compile(rf"{_UUID}_(?:system|{_UUID})_.+", re.DOTALL)
_OF_ENDPOINT = re.compile(rf"(?:system|{_UUID})_.+", re.DOTALL)
_ENDPOINT_KEYS = ("endpointUuid", "endpoint_uuid", "endpoint", "deviceUuid", "deviceName")


def processed(agent: UUID | None, content: Content) -> Content:
    """The content as it is kept; of no agent where it is a default. Raises `BadRequest`."""
    config = dict(content.config)
    endpoints = config.get("endpoints")
    if isinstance(endpoints, list):
        config["endpoints"] = endpoints = [without_password(one) for one in endpoints]
    detection = config.get("anomalyDetection")
    if agent is not None and isinstance(detection, dict):
        config["anomalyDetection"] = _detection(str(agent), detection, _names(endpoints))
    return Content(content.apps, config)


def password_hash(password: str) -> str:
    """Of the form that Mosquitto's password files have: `$7$101$salt$key`, PBKDF2-SHA512."""
    salt = secrets.token_bytes(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS, 64)
    return f"$7${_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def without_password(endpoint: Json) -> Json:
    """The endpoint with a hash in place of an MQTT password. Raises `BadRequest`."""
    match endpoint:
        case {"auth": {"mqtt": {"password": str(password), **rest}, **others}} if password:
            mqtt = {**rest, "passwordFileHash": password_hash(password)}
            return {**endpoint, "auth": {**others, "mqtt": mqtt}}
        case {"auth": {"mqtt": {"password": None | "", **rest}, **others}}:
            return {**endpoint, "auth": {**others, "mqtt": rest}}
        case {"auth": {"mqtt": {"password": _}}}:
            raise BadRequest("field config.endpoints: auth.mqtt.password must be a text")
    return endpoint


def _names(endpoints: Json) -> dict[str, str]:
    """UUIDs of the endpoints by their names."""
    if not isinstance(endpoints, list):
        return {}
    return {
        one["name"]: one["uuid"]
        for one in endpoints
        if isinstance(one, dict)
        and isinstance(one.get("name"), str)
        and isinstance(one.get("uuid"), str)
    }


def _detection(agent: str, detection: dict[str, Json], names: Mapping[str, str]) -> dict[str, Json]:
    match detection.get("metrics"):
        case list(metrics):
            found: Json = [_metric(agent, metric, names) for metric in metrics]
        case dict(metrics):
            found = {
                _full_name(agent, name, metric, names): _bounded(metric)
                for name, metric in metrics.items()
            }
        case _:
            return detection
    return {**detection, "metrics": found}


def _metric(agent: str, metric: Json, names: Mapping[str, str]) -> Json:
    if isinstance(metric, str):
        return _full_name(agent, metric, None, names)
    if not isinstance(metric, dict) or not isinstance(name := metric.get("name"), str):
        return metric
    return {**_bounded(metric), "name": _full_name(agent, name, metric, names)}


def _full_name(agent: str, name: str, metric: Json, names: Mapping[str, str]) -> str:
    if _OF_AGENT.fullmatch(name):
        return name
    if _OF_ENDPOINT.fullmatch(name):
        return f"{agent}_{name}"
    return f"{agent}_{_endpoint_of(metric, names)}_{name}"


def _endpoint_of(metric: Json, names: Mapping[str, str]) -> str:
    if isinstance(metric, dict):
        for key in _ENDPOINT_KEYS:
            value = metric.get(key)
            if isinstance(value, str):
                value = names.get(value, value)
                if re.fullmatch(_UUID, value):
                    return value
    return "system"


def _bounded(metric: Json) -> Json:
    if not isinstance(metric, dict) or "expectedRange" not in metric:
        return metric
    bounds = metric["expectedRange"]
    if isinstance(bounds, dict):
        bounds = [bounds.get("min"), bounds.get("max")]
    if isinstance(bounds, list) and len(bounds) == 2 and all(map(_is_finite, bounds)):
        return metric
    return {key: value for key, value in metric.items() if key != "expectedRange"}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs what makes an agent update itself (reference section 1.3)."""

    secret: bytes | None
    """UPDATE_COMMAND_SECRET; without it nothing is signed."""

    def sign(self, content: Content, *, now: datetime) -> Content:
        """The content as it is served: `config.agent` with times and signature.

        Only what is served is signed, so that two versions never differ by a signature alone.
        """
        agent = content.config.get("agent")
        if self.secret is None or not isinstance(agent, dict) or not agent.get("version"):
            return content
        times = _times(now)
        signed = {
            **agent,
            "update_issued_at": times[0],
            "update_expires_at": times[1],
            "update_signature": self._signature(agent, times),
        }
        return Content(content.apps, {**content.config, "agent": signed})

    def command(self, order: Mapping[str, Json], *, now: datetime) -> dict[str, Json]:
        """The `agent/update` command for `{version, scheduled_time?, force?}`."""
        times = _times(now)
        made = {
            "action": "update",
            **order,
            "issued_at": times[0],
            "expires_at": times[1],
            "timestamp": times[0],
        }
        if self.secret is not None:
            made["signature"] = self._signature(order, times)
        return made

    def _signature(self, order: Mapping[str, Json], times: Sequence[str]) -> str:
        parts = (
            "update",
            str(order["version"]),
            *times,
            str(order.get("scheduled_time") or ""),
            "true" if order.get("force") else "false",
        )
        return hmac.new(self.secret or b"", "|".join(parts).encode(), "sha256").hexdigest()


def _times(now: datetime) -> tuple[str, str]:
    now = now.astimezone(UTC)
    return iso(now), iso(now + _SIGNED_FOR)
