"""Models of job handlers, with the reference's names (sections 5.2 and 7)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeAlias, TypedDict

import msgspec
from msgspec import UNSET, Meta, UnsetType

from iotistica.api.models import Text
from iotistica.api.models.jobs import Name, Page

HandlerId: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
ScriptType: TypeAlias = Annotated[
    str, Meta(pattern=r"^[a-z0-9._+-]{1,32}$", extra_json_schema={"examples": ["bash"]})
]
Script: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64 * 1024,
        pattern=r"^[^\x00]*$",
        extra_json_schema={"examples": ["logrotate -f /etc/logrotate.conf"]},
    ),
]
Arguments: TypeAlias = Annotated[list[Text], Meta(max_length=100)]


class HandlerQuery(msgspec.Struct, kw_only=True):
    """Which handlers to list."""

    limit: Page = 100
    cursor: Name | None = None
    """Of an earlier page: the name after which to go on."""


class NewHandler(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A script under a name."""

    name: Name
    script_content: Script
    script_type: ScriptType = "bash"
    description: Text = ""
    default_args: Arguments = []


class HandlerChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to change of a handler; what is not given stays."""

    name: Name | UnsetType = UNSET
    script_content: Script | UnsetType = UNSET
    script_type: ScriptType | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    default_args: Arguments | UnsetType = UNSET


class Handler(TypedDict):
    """A script under a name."""

    id: int
    name: str
    description: str
    script_type: str
    script_content: str
    default_args: list[str]
    created_by: str
    created_at: datetime
    updated_at: datetime


class HandlerPage(TypedDict):
    """Handlers by name."""

    count: int
    handlers: list[Handler]
    cursor: str | None
