"""Agents, fleets, tags and groups as operators see them (reference section 5.2)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from iotistica.selection import AgentFilter, TagKey, TagValue, Word

Cursor = Annotated[str, Meta(max_length=1000)]
Limit = Annotated[int, Meta(ge=1, le=1000)]
Description = Annotated[str, Meta(max_length=1000, pattern=r"^[^\x00]*$")]
Tags = Annotated[dict[TagKey, TagValue], Meta(max_length=50)]


class Place(Struct, kw_only=True, forbid_unknown_fields=True):
    """Where an agent stands (WGS 84, degrees)."""

    latitude: Annotated[float, Meta(ge=-90, le=90)]
    longitude: Annotated[float, Meta(ge=-180, le=180)]
    name: Word | None = None


class Agent(Struct, kw_only=True):
    """An agent, by the names of the reference's columns."""

    id: int
    uuid: str
    name: str
    device_name: str
    type: str
    device_type: str
    status: str
    is_online: bool
    is_active: bool
    last_connectivity_event: datetime | None
    ip_address: str | None
    mac_address: str | None
    os_version: str | None
    architecture: str | None
    agent_version: str | None
    cpu_usage: float | None
    cpu_temp: float | None
    memory_usage: float | None
    memory_total: float | None
    storage_usage: float | None
    storage_total: float | None
    uptime: float | None
    network_interfaces: Any
    location: Any
    fleet_uuid: str | None
    fleet_name: str | None
    provisioning_state: str
    provisioned_at: datetime | None
    pop_verified: bool
    mqtt_username: str | None
    created_at: datetime
    modified_at: datetime
    tags: dict[str, str] | None = None
    """Null where they were not asked for."""


class Pagination(Struct, kw_only=True, rename="camel"):
    """Pages by number, as the reference has them."""

    page: int
    limit: int
    total_devices: int
    total_pages: int


class AgentPage(Struct, kw_only=True):
    """Some agents, in the order in which they came."""

    count: int
    agents: list[Agent]
    cursor: str | None
    """Where the next page begins; null after the last one."""
    pagination: Pagination | UnsetType = UNSET


class AgentQuery(Struct, kw_only=True):
    """What to list. Pages by number, or by `cursor`, which costs the same however far it is."""

    online: bool | None = None
    filter: Literal["all", "active", "inactive"] = "all"
    fleet: UUID | None = None
    tag: list[str] = []
    """`key` or `key:value`."""
    version: Word | None = None
    name: Word | None = None
    field: list[str] = []
    """`path:value`, such as `info.os_version:12`."""
    page: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    limit: Limit = 10
    cursor: Cursor | None = None
    includeTags: bool = False


class Changed(Struct, kw_only=True):
    """The agent as it is now."""

    device: Agent
    success: bool = True


class NewAgent(Struct, kw_only=True, rename="camel"):
    """An agent that is expected: it registers later, by its uuid."""

    device_name: Word
    device_type: Word = "standalone"
    uuid: UUID | None = None
    fleet_uuid: UUID | None = None
    ip_address: Word | None = None
    mac_address: Word | None = None
    location: Place | Word | None = None


class AgentPatch(Struct, kw_only=True, rename="camel"):
    """What to change; what is not given stays."""

    device_name: Word | UnsetType = UNSET
    device_type: Word | UnsetType = UNSET
    ip_address: Word | UnsetType | None = UNSET
    mac_address: Word | UnsetType | None = UNSET
    location: Place | Word | UnsetType | None = UNSET
    fleet_uuid: UUID | UnsetType | None = UNSET


class Activation(Struct, kw_only=True):
    """Whether the agent may come in."""

    is_active: bool


class Done(Struct, kw_only=True):
    """It is done."""

    message: str
    status: str = "ok"


class Located(Struct, kw_only=True):
    """An agent and its place."""

    uuid: str
    name: str
    is_online: bool
    location: Any
    fleet_uuid: str | None


class Locations(Struct, kw_only=True):
    """Agents that have a place."""

    count: int
    agents: list[Located]
    cursor: str | None


class PageQuery(Struct, kw_only=True):
    """A page of a list."""

    limit: Limit = 100
    cursor: Cursor | None = None


class Search(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Which agents to show."""

    filter: AgentFilter = AgentFilter()
    limit: Limit = 100
    cursor: Cursor | None = None
    include_tags: bool = False
    count_all: bool = False
    """Whether to count all that match, too."""


class Found(Struct, kw_only=True):
    """Agents that match."""

    count: int
    agents: list[Agent]
    cursor: str | None
    total: int | None
    """Of all that match, where that was asked."""


class Bulk(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One action on all agents that match."""

    action: Literal["tag", "untag", "fleet", "active"]
    filter: AgentFilter | None = None
    group: UUID | None = None
    """In place of a filter: those of a group."""
    all: bool = False
    """Must be said where the filter is empty."""
    dry_run: bool = False
    tags: Tags | None = None
    keys: Annotated[list[TagKey], Meta(min_length=1, max_length=50)] | None = None
    fleet_uuid: UUID | None = None
    """Of the action `fleet`; null takes agents out of theirs."""
    active: bool | None = None


class BulkTags(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Tags for many agents."""

    agent_uuids: Annotated[list[UUID], Meta(min_length=1, max_length=10_000)]
    tags: Tags


class Affected(Struct, kw_only=True, rename="camel"):
    """How many agents match; with a dry run nothing was changed."""

    dry_run: bool
    count: int


class AgentTags(Struct, kw_only=True):
    """Tags of one agent."""

    uuid: str
    tags: dict[str, str]


class TagChange(Struct, kw_only=True):
    """The tags that the agent shall have."""

    tags: Tags


class TagChoice(Struct, kw_only=True):
    """Which tags; without it all."""

    key: list[str] = []


class KeyUse(Struct, kw_only=True):
    """A key in use."""

    key: str
    agents: int
    values: int


class KeyPage(Struct, kw_only=True):
    """Keys in use."""

    count: int
    keys: list[KeyUse]
    cursor: str | None


class ValueUse(Struct, kw_only=True):
    """A value in use."""

    value: str
    agents: int


class ValuePage(Struct, kw_only=True):
    """Values of one key."""

    key: str
    count: int
    values: list[ValueUse]
    cursor: str | None


class NewDefinition(Struct, kw_only=True, rename="camel"):
    """A tag that is meant to be used."""

    key: TagKey
    description: Description = ""
    allowed_values: Annotated[list[TagValue], Meta(min_length=1, max_length=1000)] | None = None


class Definition(Struct, kw_only=True):
    """A tag that is meant to be used."""

    key: str
    description: str
    allowed_values: list[str] | None
    created_at: datetime
    updated_at: datetime


class DefinitionPage(Struct, kw_only=True):
    """Tags that are meant to be used."""

    count: int
    definitions: list[Definition]
    cursor: str | None


class Fleet(Struct, kw_only=True):
    """A fleet."""

    fleet_uuid: str
    fleet_name: str
    fleet_type: str
    description: str
    created_at: datetime
    modified_at: datetime
    agent_count: int
    online_count: int


class FleetPage(Struct, kw_only=True):
    """Fleets by name."""

    count: int
    fleets: list[Fleet]
    cursor: str | None


class NewFleet(Struct, kw_only=True, rename="camel"):
    """A fleet to make."""

    fleet_name: Word
    fleet_type: Word = "physical"
    description: Description = ""


class FleetPatch(Struct, kw_only=True, rename="camel"):
    """What to change; what is not given stays."""

    fleet_name: Word | UnsetType = UNSET
    fleet_type: Word | UnsetType = UNSET
    description: Description | UnsetType = UNSET


class Group(Struct, kw_only=True):
    """A saved filter."""

    id: str
    name: str
    description: str
    filter: Any
    created_at: datetime
    modified_at: datetime


class GroupPage(Struct, kw_only=True):
    """Groups by name."""

    count: int
    groups: list[Group]
    cursor: str | None


class NewGroup(Struct, kw_only=True):
    """A filter to save."""

    name: Word
    filter: AgentFilter
    description: Description = ""


class GroupPatch(Struct, kw_only=True):
    """What to change; what is not given stays."""

    name: Word | UnsetType = UNSET
    filter: AgentFilter | UnsetType = UNSET
    description: Description | UnsetType = UNSET
