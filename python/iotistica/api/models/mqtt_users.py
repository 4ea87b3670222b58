"""Models of users of the broker, and of a broker's questions (docs/broker-accounts.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from iotistica.store.mqtt_users import MOST_RULES
from iotistica.topic_filters import MOST_BYTES

UserId: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""Of a user of the broker, or of a rule."""
Name: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9._-]+$",
        max_length=128,
        extra_json_schema={"examples": ["node-red"]},
    ),
]
Password: TypeAlias = Annotated[
    str,
    Meta(
        min_length=12,
        max_length=128,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        extra_json_schema={"examples": ["correct horse battery"]},
    ),
]
"""Long, because a broker stretches passwords little: it checks one at every connection."""
Topic: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MOST_BYTES,
        extra_json_schema={"examples": ["i/c-3dOFzo/a/+/endpoints/#"]},
    ),
]
Access: TypeAlias = Annotated[int, Meta(ge=1, le=7, extra_json_schema={"examples": [5]})]
"""The sum of 1 to receive, 2 to publish, 4 to subscribe (reference section 1.5)."""
Priority: TypeAlias = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
BrokerName: TypeAlias = Annotated[
    str, Meta(extra_json_schema={"examples": ["agent_7b0c7c4e-0b0e-4d4f-9a53-8d0d54a7a2f1"]})
]
Cursor: TypeAlias = Annotated[
    str, Meta(pattern=r"^[0-9]{1,18}$", extra_json_schema={"examples": ["100"]})
]


class AclBody(msgspec.Struct, forbid_unknown_fields=True):
    """A rule, which allows; what no rule allows is denied."""

    topic: Topic
    access: Access
    priority: Priority = 0
    """Kept as given. Rules only allow, so none goes before another."""
    clientid: None = None
    """Rules are those of a user, with whichever client id."""


class AclView(msgspec.Struct, rename="camel"):
    """A rule."""

    id: int
    username: str
    topic: str
    access: int
    priority: int
    created_at: datetime


class AclList(msgspec.Struct):
    """All rules of a user."""

    count: int
    acls: list[AclView]


class MqttUserBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A user to be made. Without a password it gets one that is shown once."""

    username: Name
    password: Password | None = None
    is_active: bool = True
    is_superuser: Literal[False] = False
    """Nobody is one by the API: a superuser would see all tenants."""
    acls: Annotated[list[AclBody], Meta(max_length=MOST_RULES)] = []


class MqttUserChange(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What of a user is to be changed; what is left out stays."""

    password: Password | UnsetType = UNSET
    generate_password: bool = False
    """Another password, which is shown once."""
    is_active: bool | UnsetType = UNSET
    is_superuser: Literal[False] = False


class MqttUserView(msgspec.Struct, rename="camel", kw_only=True):
    """A user of the broker."""

    id: int
    username: str
    """What the client logs in with: the tenant and the name."""
    agent_uuid: UUID | None
    """Whose account it is; such a one changes with the agent alone."""
    is_active: bool
    is_superuser: Literal[False] = False
    is_told: bool
    """Whether the broker knows of the last change; it learns of it within seconds."""
    created_at: datetime
    updated_at: datetime


class MqttUserDetail(MqttUserView, rename="camel", kw_only=True):
    """A user with its rules."""

    acls: list[AclView]


class MadeMqttUser(MqttUserDetail, rename="camel", kw_only=True):
    """A user that was just made or changed."""

    password: str | None
    """One that was generated: now, and never again."""


class MqttUserPage(msgspec.Struct):
    """A page of users, by id."""

    count: int
    users: list[MqttUserView]
    cursor: str | None


class MqttUserQuery(msgspec.Struct, kw_only=True):
    """Which users."""

    agents: bool = False
    """Those of agents instead of those that operators made."""
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Cursor = "0"


class UserQuestion(msgspec.Struct):
    """Whether a client may connect."""

    username: BrokerName
    password: str = ""
    clientid: str = ""


class SuperuserQuestion(msgspec.Struct):
    """Whether a user may do everything."""

    username: BrokerName


class AclQuestion(msgspec.Struct):
    """Whether a user may do something with a topic."""

    username: BrokerName
    topic: Topic
    acc: Annotated[int, Meta(ge=0, le=7, extra_json_schema={"examples": [2]})] = 0
    """Of 1 to receive, 2 to publish, 4 to subscribe; or `action`."""
    action: Literal["", "publish", "subscribe"] = ""
    clientid: str = ""


class Decision(msgspec.Struct):
    """What a broker is answered."""

    result: Literal["allow"]
    is_superuser: bool = False
