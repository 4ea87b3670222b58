"""Models of endpoints, the devices behind an agent (reference section 5.2)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from iotistica.errors import BadRequest

Name: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[^\x00-\x1f/]+$",
        extra_json_schema={"examples": ["plc-7"]},
    ),
]
"""One level of a path."""
Protocol: TypeAlias = Annotated[
    str,
    Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$", extra_json_schema={"examples": ["modbus"]}),
]
"""Such as modbus, opcua, snmp, can, mqtt, bacnet: which there are, agents decide."""
Milliseconds: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]

_LONG = {"poll_interval": "pollInterval", "data_points": "dataPoints"}
"""Names of the table in the reference, by those of the config that its agents read."""


class _Members(msgspec.Struct, kw_only=True):
    uuid: UUID | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    pollInterval: Milliseconds | UnsetType | None = UNSET
    poll_interval: Milliseconds | UnsetType | None = UNSET
    dataPoints: list[Any] | UnsetType = UNSET
    data_points: list[Any] | UnsetType = UNSET
    connection: dict[str, Any] | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class NewEndpoint(_Members, kw_only=True):
    """An endpoint to add. Whatever else it has is kept as it is: agents may know more."""

    name: Name
    protocol: Protocol


class EndpointChange(_Members, kw_only=True):
    """What to change of an endpoint; what is not given stays."""

    name: Name | UnsetType = UNSET
    protocol: Protocol | UnsetType = UNSET


def members(given: dict[str, Any]) -> dict[str, Any]:
    """A checked body by the names that agents read. Raises `BadRequest` for a thing named twice."""
    for short, long in _LONG.items():
        if short in given and long in given:
            raise BadRequest(f"fields {long} and {short} are the same; give one of them")
    named = {_LONG.get(name, name): value for name, value in given.items()}
    return {**named, "uuid": str(UUID(named["uuid"]))} if "uuid" in named else named


class WriteQuery(msgspec.Struct, kw_only=True):
    """`deploy`: the agent gets it at once. `validateOnly`: it is only looked at."""

    deploy: bool = False
    validateOnly: bool = False


class RemoveQuery(msgspec.Struct, kw_only=True):
    """`deploy`, or as the reference calls it `hard`: the agent is told at once."""

    deploy: bool = False
    hard: bool = False


class EndpointQuery(msgspec.Struct, kw_only=True):
    """Which endpoints."""

    protocol: Protocol | None = None


class Endpoint(msgspec.Struct, kw_only=True, rename="camel"):
    """An endpoint: what it should be, whether the agent has been told, and what it says of it."""

    name: str
    uuid: str | None
    protocol: str | None
    enabled: bool
    poll_interval: int | float | None
    connection: Any
    data_points: Any
    metadata: Any
    config: dict[str, Any]
    """The whole endpoint of the target state."""
    deployment_status: Literal["deployed", "pending", "pending_deletion"]
    status: str
    """What the agent says of its health; else `configured` or `disabled`."""
    health: Any
    """As the agent reported it last; null where it did not."""
    reported: Any
    """The device that the agent reported with this endpoint, if any."""
    reported_at: datetime | None
    last_telemetry_at: datetime | None
    """Time of the newest reading whose device has the endpoint's name."""


class Endpoints(msgspec.Struct, kw_only=True):
    """The endpoints of an agent in the order of its target state; those that end come last."""

    count: int
    version: int
    """Of the target state."""
    needs_deployment: bool
    devices: list[Endpoint]


class EndpointWritten(msgspec.Struct, kw_only=True):
    """An endpoint after a change, or as it would be."""

    status: Literal["ok"] = "ok"
    message: str
    device: dict[str, Any]
    """As the target state has it."""
    version: int
    needs_deployment: bool
    validateOnly: bool = False


class EndpointRemoved(msgspec.Struct, kw_only=True):
    """That an endpoint ends."""

    status: Literal["ok"] = "ok"
    message: str
    mode: Literal["hard", "soft"]
    """In the reference's words: told at once, or with the next deployment."""
    version: int
    needs_deployment: bool
