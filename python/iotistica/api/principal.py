"""Who may do what: callers, their permissions, and what a route asks of them (reference 6.2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from iotistica.errors import Forbidden

_VIEWER = ("device:read", "data:read")
_OPERATOR = (*_VIEWER, "device:write", "device:control", "data:export", "mqtt:user:read")
_MANAGER = (
    *_OPERATOR,
    "device:delete",
    "mqtt:user:write",
    "mqtt:acl:manage",
    "user:read",
    "settings:read",
)
_ADMIN = (
    *_MANAGER,
    "data:delete",
    "user:write",
    "user:delete",
    "api-key:read",
    "api-key:write",
    "settings:write",
)
_OWNER = (*_ADMIN, "billing:read", "billing:write")

ROLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "viewer": frozenset(_VIEWER),
        "operator": frozenset(_OPERATOR),
        "manager": frozenset(_MANAGER),
        "admin": frozenset(_ADMIN),
        "owner": frozenset(_OWNER),
    }
)
"""The built-in roles, each with all that those before it may do."""

PERMISSIONS = frozenset(_OWNER)
"""Every permission that there is."""


def permissions_of(role: str, custom: Collection[str] | None) -> frozenset[str]:
    """What a role permits: a built-in one, or one of a tenant's own with these permissions."""
    return ROLES[role] if role in ROLES else PERMISSIONS & frozenset(custom or ())


Kind = Literal["user", "service", "agent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller who proved who they are."""

    kind: Kind
    tenant: str
    id: str
    """Of the user or of the service's key; the UUID of an agent."""
    name: str = ""
    email: str = ""
    role: str = ""
    permissions: frozenset[str] = frozenset()
    must_change_password: bool = False
    """Then there is nothing else that they may do."""

    @property
    def agent(self) -> UUID:
        """The agent that calls."""
        if self.kind != "agent":
            raise Forbidden("only an agent may do this")
        return UUID(self.id)

    def require(self, permission: str) -> None:
        """Raise `Forbidden` without this permission."""
        if self.must_change_password:
            raise Forbidden("the password must be changed first: POST /api/v1/auth/change-password")
        if permission not in self.permissions:
            raise Forbidden(f"{self._described()} lacks the permission {permission}")

    def check_grant(self, permissions: Collection[str]) -> None:
        """Raise `Forbidden` for what they cannot give, or take from those who have it."""
        beyond = sorted(set(permissions) - self.permissions)
        if beyond:
            raise Forbidden(f"{self._described()} lacks itself the permission {beyond[0]}")

    def _described(self) -> str:
        match self.kind:
            case "user":
                return f"role {self.role[:32]!r}"
            case "service":
                return f"the API key {self.name[:64]!r}"
            case _:
                return "the key of an agent"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a route; one that names nobody is refused when the table is built."""

    permission: str | None = None
    """Users and services that have it."""
    agents: bool = False
    """Agents by their own key, on what is theirs."""
    public: bool = False
    users: bool = False
    """Every user, whatever their role: what concerns nobody but themselves."""

    def check(self, caller: Principal, uuid: str | None) -> None:
        """Raise `Forbidden` unless the caller may; `uuid` is the agent in the path, if any."""
        if self.users:
            if caller.kind != "user":
                raise Forbidden("only a user may do this")
        elif caller.kind != "agent":
            if self.permission is None:
                raise Forbidden("only an agent may do this, by its own key")
            caller.require(self.permission)
        elif not self.agents:
            caller.require(self.permission or "")
        elif uuid is not None and uuid.lower() != caller.id:
            raise Forbidden("the key belongs to another agent")
