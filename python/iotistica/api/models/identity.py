"""Models of users, roles, keys and the journal (docs/identity.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from iotistica.api.models import Time
from iotistica.api.principal import PERMISSIONS


def _pattern(rule: str, example: str, *, most: int | None = None) -> Meta:
    return Meta(pattern=rule, max_length=most, extra_json_schema={"examples": [example]})


Id: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Username: TypeAlias = Annotated[str, _pattern(r"^[A-Za-z0-9][A-Za-z0-9._-]{2,63}$", "ada")]
"""Three characters or more (reference 6.1); no @, so that no name is somebody's address."""
Email: TypeAlias = Annotated[
    str, _pattern(r"^[^@\s\x00]+@[^@\s\x00]+$", "ada@example.org", most=254)
]
FullName: TypeAlias = Annotated[str, _pattern(r"^[^\x00-\x1f]*$", "Ada Lovelace", most=200)]
RoleName: TypeAlias = Annotated[str, _pattern(r"^[a-z][a-z0-9_-]{0,31}$", "operator")]
Password: TypeAlias = Annotated[str, Meta(min_length=8, max_length=256)]
"""At least eight characters (reference 6.1); the bound keeps hashing short."""
Given: TypeAlias = Annotated[str, _pattern(r"^[^\x00]*$", "", most=1024)]
"""What is only looked up, in PostgreSQL, which holds no NUL."""
Token: TypeAlias = Annotated[str, Meta(max_length=16_384)]
GivenPassword: TypeAlias = Annotated[str, Meta(max_length=256)]
PermissionList: TypeAlias = Annotated[
    list[str],
    Meta(max_length=len(PERMISSIONS), extra_json_schema={"examples": [["device:read"]]}),
]
Description: TypeAlias = Annotated[str, _pattern(r"^[^\x00]*$", "For the line in hall 3", most=500)]
KeyName: TypeAlias = Annotated[str, _pattern(r"^[^\x00-\x1f]+$", "historian", most=100)]
Cursor: TypeAlias = Annotated[str, _pattern(r"^[0-9]{1,18}$", "100")]
Word: TypeAlias = Annotated[str, _pattern(r"^[^\x00]+$", "7", most=200)]


class LoginBody(msgspec.Struct, rename="camel"):
    """A user name, or an address in either field, and the password."""

    password: GivenPassword
    username: Given = ""
    email: Given = ""
    tenant_id: Given = ""


class Me(msgspec.Struct, rename="camel"):
    """A user, as the reference shows one, and more."""

    id: int | str
    username: str
    email: str
    role: str
    full_name: str
    tenant_id: str
    permissions: list[str]
    must_change_password: bool
    last_login_at: datetime | None = None


class TokenPair(msgspec.Struct, rename="camel"):
    """What somebody gets who logs in."""

    access_token: str
    refresh_token: str
    must_change_password: bool
    user: Me


class LoggedIn(msgspec.Struct, rename="camel"):
    """Both forms of the reference: that of its code in `data`, that of its documents around it."""

    message: str
    data: TokenPair
    access_token: str
    refresh_token: str
    expires_in: int
    must_change_password: bool
    user: Me
    token_type: str = "Bearer"  # noqa: S105


class ExchangeBody(msgspec.Struct, rename="camel"):
    """A token of the identity provider, by either name."""

    token: Token = ""
    auth0_token: Token = ""
    tenant_id: Given = ""


class RefreshBody(msgspec.Struct, rename="camel"):
    """The refresh token of the last answer."""

    refresh_token: Given


class ChangeBody(msgspec.Struct, rename="camel"):
    """The password of today and that of tomorrow."""

    current_password: GivenPassword
    new_password: Password


class ResetBody(msgspec.Struct, rename="camel"):
    """A password that the user must change at once."""

    user_id: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    new_password: Password


class Done(msgspec.Struct):
    """That it is done."""

    message: str


class MeReply(msgspec.Struct):
    """The caller, in both forms of the reference."""

    user: Me
    data: Me


class UserView(msgspec.Struct, rename="camel"):
    """A user."""

    id: int
    username: str
    email: str
    full_name: str
    role: str
    is_active: bool
    must_change_password: bool
    last_login_at: datetime | None
    created_at: datetime
    updated_at: datetime


class UserList(msgspec.Struct):
    """A page of users, by id."""

    count: int
    users: list[UserView]
    cursor: str | None


class IdPage(msgspec.Struct):
    """Which part of a list."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Cursor = "0"


class CreateUser(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A user to be made."""

    username: Username
    email: Email
    password: Password
    role: RoleName = "viewer"
    full_name: FullName = ""
    must_change_password: bool = True
    """Because somebody else knows the password."""


class UpdateUser(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What is to be changed; what is left out stays."""

    username: Username | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    full_name: FullName | UnsetType = UNSET
    role: RoleName | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET


class Permissions(msgspec.Struct):
    """What the caller may do."""

    role: str
    permissions: list[str]


class RoleView(msgspec.Struct, rename="camel"):
    """A role."""

    name: str
    description: str
    permissions: list[str]
    is_built_in: bool


class RoleList(msgspec.Struct):
    """All roles of a tenant."""

    count: int
    roles: list[RoleView]


class CreateRole(msgspec.Struct, forbid_unknown_fields=True):
    """A role to be made."""

    name: RoleName
    permissions: PermissionList
    description: Description = ""


class ReplaceRole(msgspec.Struct, forbid_unknown_fields=True):
    """What a role is to be from now on."""

    permissions: PermissionList
    description: Description = ""


class KeyView(msgspec.Struct, rename="camel"):
    """A key, of which only the beginning is known."""

    id: int
    name: str
    description: str
    key_prefix: str
    permissions: list[str]
    created_by: int | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the half minute."""


class MadeKey(KeyView, rename="camel"):
    """A key that was just made: it cannot be shown again."""

    key: str = ""
    warning: str = "Keep this key now: it is not stored and cannot be shown again."


class KeyList(msgspec.Struct):
    """A page of keys, by id."""

    count: int
    keys: list[KeyView]
    cursor: str | None


class CreateKey(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A key to be made; without an expiry it is valid until it is revoked."""

    name: KeyName
    permissions: PermissionList
    description: Description = ""
    expires_at: Time | None = None
    expires_in_days: Annotated[int, Meta(ge=1, le=3650)] | None = None


class EntryView(msgspec.Struct, rename="camel"):
    """One change; `before` and `after` hold what differs."""

    id: int
    event_type: str
    severity: str
    actor_type: str
    actor_id: str
    actor_name: str
    subject: str
    agent_uuid: str | None
    before: Any
    after: Any
    ip_address: str
    user_agent: str
    request_id: str
    created_at: datetime


class EntryList(msgspec.Struct):
    """A page of entries, newest first."""

    count: int
    entries: list[EntryView]
    cursor: str | None


class EntryQuery(msgspec.Struct):
    """Which entries."""

    actor: Word | None = None
    """Id of the user, key or agent that did it."""
    subject: Word | None = None
    """Such as `user/7`."""
    type: Word | None = None
    """Such as `user.created`."""
    since: Time | None = None
    until: Time | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: Cursor | None = None


class RegisterBody(msgspec.Struct, rename="camel"):
    """Somebody who wants to be a user."""

    username: Username
    password: Password
    email: Email = ""
    """Not needed with an invitation, which has one."""
    full_name: FullName = ""
    invite_token: Given = ""


class AcceptBody(msgspec.Struct, rename="camel"):
    """Somebody who was invited."""

    token: Given
    username: Username
    password: Password
    full_name: FullName = ""


class BootstrapBody(msgspec.Struct, rename="camel"):
    """The first user, of a tenant that is made where it is missing."""

    username: Username
    email: Email
    password: Password
    full_name: FullName = ""
    tenant_id: Given | None = None


class Admitted(msgspec.Struct):
    """A new user, in both forms of the reference."""

    message: str
    user: UserView
    data: dict[str, UserView]


class InviteView(msgspec.Struct, rename="camel"):
    """An invitation that was not accepted yet."""

    id: int
    email: str
    role: str
    invited_by: int | None
    created_at: datetime
    expires_at: datetime


class MadeInvite(InviteView, rename="camel"):
    """An invitation that was just made: its token cannot be shown again."""

    token: str = ""


class InviteList(msgspec.Struct):
    """A page of open invitations, by id."""

    count: int
    invites: list[InviteView]
    cursor: str | None


class InviteBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Whom to invite, and as what."""

    email: Email
    role: RoleName = "viewer"
