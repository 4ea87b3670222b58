"""What agents send and get when they register, and about their keys (reference 6.3)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType, field

Text = Annotated[str, Meta(min_length=1, max_length=255)]
DeviceKey = Annotated[str, Meta(min_length=16, max_length=512, pattern=r"^[\x21-\x7e]+$")]


class Registration(Struct, kw_only=True, rename="camel"):
    """An agent introduces itself."""

    uuid: UUID
    device_name: Text
    device_type: Text
    device_api_key: DeviceKey
    device_public_key: Annotated[str, Meta(min_length=1, max_length=4096)]
    """Ed25519 or P-256, PEM."""
    mac_address: Text | None = None
    os_version: Text | None = None
    agent_version: Text | None = None


class BrokerConfig(Struct, kw_only=True, rename="camel"):
    """How to connect to the broker; milliseconds, keep alive in seconds."""

    protocol: str
    host: str
    port: int
    username: str
    password: str
    use_tls: bool
    client_id_prefix: str = "Iotistic"
    keep_alive: int = 60
    clean_session: bool = False
    reconnect_period: int = 5000
    connect_timeout: int = 30_000
    ca_cert: str | UnsetType | None = UNSET
    verify_certificate: bool | UnsetType = UNSET


class MqttTopics(Struct):
    """What the agent may publish, and should subscribe to."""

    publish: list[str]
    subscribe: list[str]


class MqttAccess(Struct, kw_only=True, rename="camel"):
    """The agent's account at the broker."""

    username: str
    password: str
    broker: str
    broker_config: BrokerConfig
    topics: MqttTopics


class Registered(Struct, kw_only=True, rename="camel"):
    """The agent is known, and must now prove its private key."""

    id: int
    uuid: str
    device_name: str
    device_type: str
    tenant_id: str
    fleet_uuid: str | None
    challenge: str
    created_at: datetime
    mqtt: MqttAccess


class Challenge(Struct, kw_only=True, rename="camel"):
    """What to sign, as `uuid:challenge`."""

    challenge: str
    expires_at: datetime


class KeyExchange(Struct, kw_only=True):
    """A signature of `uuid:challenge`, in base64."""

    signature: Annotated[str, Meta(min_length=1, max_length=1024)]
    uuid: UUID | None = None


class ProvenDevice(Struct, kw_only=True, rename="camel"):
    """Which agent it is."""

    id: int
    uuid: str
    device_name: str


class KeyExchanged(Struct, kw_only=True):
    """The private key is proved."""

    device: ProvenDevice
    status: str = "ok"
    message: str = "The key exchange is complete"


class Rotation(Struct, kw_only=True):
    """Why a key is replaced."""

    reason: Annotated[str, Meta(max_length=255)] = "requested by the agent"


class Rotated(Struct, kw_only=True):
    """The new key, shown once, by the names of the API and of the reference's rotation event."""

    uuid: str = field(name="deviceUuid")
    api_key: str = field(name="newApiKey")
    rotated_at: datetime = field(name="rotatedAt")
    ends: datetime = field(name="gracePeriodEnds")
    """Until when the former key is good."""
    new_api_key: str
    grace_period_ends: datetime
    # Keys do not expire; those who look for the field find that.
    expires_at: datetime | None = None
    success: bool = True
    message: str = "Use the new key from now on"


class KeyStatus(Struct, kw_only=True, rename="camel"):
    """How old the key is."""

    device_uuid: str
    device_name: str
    issued_at: datetime | None
    last_rotated_at: datetime | None
    grace_period_ends: datetime | None
    """Until when the former key is good; null where none is."""
    previous_key_valid: bool
    rotation_enabled: bool = True
    expires_at: datetime | None = None


class PastRotation(Struct, kw_only=True, rename="camel"):
    """A rotation that was made."""

    id: int
    issued_at: datetime
    rotated_at: datetime
    grace_period_ends: datetime
    reason: str
    ip_address: str


class Rotations(Struct, kw_only=True, rename="camel"):
    """Rotations, newest first."""

    device_uuid: str
    count: int
    history: list[PastRotation]


class Page(Struct):
    """How many, at the most."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50


class Pong(Struct, kw_only=True):
    """The key is good, and the API is there."""

    uuid: str
    timestamp: datetime
    status: str = "ok"
