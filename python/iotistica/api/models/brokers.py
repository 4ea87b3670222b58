"""Models of brokers (reference sections 5.2, 6.3 and 7)."""

from __future__ import annotations

import ssl
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import orjson
from msgspec import UNSET, Meta, Struct, UnsetType

from iotistica.errors import BadRequest

Label: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]
Host: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=r"^[A-Za-z0-9._:\-]+$",
        extra_json_schema={"examples": ["mqtt.example.com"]},
    ),
]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65_535)]
Protocol: TypeAlias = Literal["mqtt", "mqtts", "ws", "wss"]
Certificates: TypeAlias = Annotated[str, Meta(max_length=65_536, pattern=r"^[^\x00]*$")]
Prefix: TypeAlias = Annotated[str, Meta(max_length=64, pattern=r"^[^\x00]*$")]
Description: TypeAlias = Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00]*$")]
Username: TypeAlias = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00]*$")]
KeepAlive: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]
Milliseconds: TypeAlias = Annotated[int, Meta(ge=0, le=86_400_000)]
Extra: TypeAlias = dict[Annotated[str, Meta(max_length=64, pattern=r"^[^\x00]*$")], Any]

_MOST_EXTRA_BYTES = 4096


class BrokerBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """A broker. It has no password: none is stored."""

    name: Label
    host: Host
    port: Port
    description: Description = ""
    protocol: Protocol = "mqtt"
    username: Username | None = None
    use_tls: bool | None = None
    """What the protocol says, where it is not given."""
    ca_cert: Certificates | None = None
    verify_certificate: bool = True
    client_id_prefix: Prefix = "Iotistic"
    keep_alive: KeepAlive = 60
    clean_session: bool = True
    reconnect_period: Milliseconds = 1000
    connect_timeout: Milliseconds = 30_000
    is_active: bool = True
    is_default: bool = False
    broker_type: Label = "local"
    extra_config: Extra = {}

    def fields(self) -> dict[str, Any]:
        """By column. Raises `BadRequest`."""
        found = msgspec.structs.asdict(self)
        if self.use_tls is None:
            found["use_tls"] = self.protocol in ("mqtts", "wss")
        return _checked(found)


class BrokerChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to change of a broker; the rest stays."""

    name: Label | UnsetType = UNSET
    host: Host | UnsetType = UNSET
    port: Port | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    protocol: Protocol | UnsetType = UNSET
    username: Username | UnsetType | None = UNSET
    use_tls: bool | UnsetType = UNSET
    ca_cert: Certificates | UnsetType | None = UNSET
    verify_certificate: bool | UnsetType = UNSET
    client_id_prefix: Prefix | UnsetType = UNSET
    keep_alive: KeepAlive | UnsetType = UNSET
    clean_session: bool | UnsetType = UNSET
    reconnect_period: Milliseconds | UnsetType = UNSET
    connect_timeout: Milliseconds | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET
    is_default: bool | UnsetType = UNSET
    broker_type: Label | UnsetType = UNSET
    extra_config: Extra | UnsetType = UNSET

    def fields(self) -> dict[str, Any]:
        """Those that are given, by column. Raises `BadRequest`."""
        names = self.__struct_fields__
        return _checked(
            {name: given for name in names if (given := getattr(self, name)) is not UNSET}
        )


class BrokerView(Struct, kw_only=True):
    """A broker as it is kept."""

    id: int
    name: str
    description: str
    protocol: str
    host: str
    port: int
    username: str | None
    use_tls: bool
    ca_cert: str | None
    verify_certificate: bool
    client_id_prefix: str
    keep_alive: int
    clean_session: bool
    reconnect_period: int
    connect_timeout: int
    is_active: bool
    is_default: bool
    broker_type: str
    extra_config: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    last_connected_at: datetime | None


class BrokerList(Struct):
    """Brokers, the default first."""

    success: bool
    count: int
    data: list[BrokerView]


class BrokerAnswer(Struct):
    """One broker."""

    success: bool
    message: str
    data: BrokerView


class BrokerSummary(Struct, kw_only=True):
    """A broker, and how many agents were told to use it."""

    id: int
    name: str
    protocol: str
    host: str
    port: int
    broker_type: str
    is_active: bool
    is_default: bool
    last_connected_at: datetime | None
    agents: int
    agents_online: int


class BrokerSummaries(Struct):
    """Brokers, the default first."""

    success: bool
    count: int
    data: list[BrokerSummary]


class BrokerRemoved(Struct):
    """A broker that is gone."""

    success: bool
    message: str


class Attempt(Struct, kw_only=True, forbid_unknown_fields=True):
    """How to connect for a test; nothing of it is stored."""

    username: Username | None = None
    password: Annotated[str, Meta(max_length=1024)] | None = None


class Trial(Struct, kw_only=True):
    """What came of a test."""

    connected: bool
    reason_code: int | None
    """Of the broker's CONNACK (MQTT 5.0 section 3.2.2.2), where one came."""
    reason: str
    address: str | None
    """Where the connection went."""
    tls: str | None
    """Version of TLS, where there is any."""
    seconds: float


class BrokerTried(Struct, kw_only=True):
    """What came of a test of a broker."""

    success: bool
    message: str
    data: Trial


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    if certificates := fields.get("ca_cert"):
        try:
            ssl.create_default_context(cadata=certificates)
        except (ssl.SSLError, ValueError, TypeError):
            raise BadRequest("field ca_cert: PEM of certificates is expected") from None
    try:
        size = len(orjson.dumps(fields.get("extra_config", {})))
    except (TypeError, ValueError) as error:
        raise BadRequest(f"field extra_config: {error}") from None
    if size > _MOST_EXTRA_BYTES:
        raise BadRequest(
            f"field extra_config has {size} bytes; at most {_MOST_EXTRA_BYTES} are allowed"
        )
    return fields
