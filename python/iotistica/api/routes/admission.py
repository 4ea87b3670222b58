"""How users come into being: the first one, invitations, registration (reference 5.2, 6.1)."""

from __future__ import annotations

import hmac
import secrets
from datetime import datetime

from iotistica.api import cursors
from iotistica.api.http import Request
from iotistica.api.identity import Identity
from iotistica.api.models.identity import (
    AcceptBody,
    Admitted,
    BootstrapBody,
    Id,
    IdPage,
    InviteBody,
    InviteList,
    InviteView,
    MadeInvite,
    RegisterBody,
)
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.api.routes.sessions import client
from iotistica.api.routes.users import check_role, view
from iotistica.api.standings import is_number
from iotistica.errors import BadRequest, Denied, Forbidden
from iotistica.settings import Settings
from iotistica.store.invites import Invite, InviteStore, accept
from iotistica.store.journal import Origin
from iotistica.store.pool import Pool
from iotistica.store.roles import RoleStore
from iotistica.store.tenants import tenant_of_first_user
from iotistica.store.users import NewUser, User

_PURPOSE = "invite"


class Admission:
    """Handlers that admit users."""

    def __init__(self, identity: Identity, pool: Pool, settings: Settings) -> None:
        self._identity = identity
        self._pool = pool
        self._settings = settings
        self._roles = RoleStore(pool)
        self._invites = InviteStore(pool, lifetime_s=settings.invite_expiry_s)

    @route(
        "POST",
        "/api/v1/auth/bootstrap-admin",
        public=True,
        limit="auth",
        status=201,
        errors=(401, 403, 409),
    )
    async def bootstrap(self, request: Request, body: BootstrapBody) -> Admitted:
        """Make the first user, an owner, by the token in the header `X-Bootstrap-Token`."""
        self._check_bootstrap(request.headers.get("x-bootstrap-token", ""))
        new = NewUser(
            username=body.username,
            email=body.email,
            password_hash=await self._identity.passwords.hash(body.password),
            role="owner",
            full_name=body.full_name,
        )
        # Before a tenant is made for nothing; the transaction looks again.
        await self._identity.users.require_nobody()
        tenant = await tenant_of_first_user(self._pool, body.tenant_id)
        origin = client(request, tenant=tenant, name="bootstrap")
        async with self._identity.users.changing(origin) as change:
            await change.require_nobody()
            user = await change.create(new)
        return _admitted("Administrator created", user)

    @route(
        "POST",
        "/api/v1/auth/register",
        public=True,
        limit="auth",
        status=201,
        errors=(401, 403, 404, 409),
    )
    async def register(self, request: Request, body: RegisterBody) -> Admitted:
        """Become a user: by an invitation, or as a viewer of the tenant that is open to all.

        The platform is closed unless `IOTISTICA_REGISTRATION_TENANT` names such a tenant.
        """
        if body.invite_token:
            return await self._accept(
                request, body.invite_token, body.username, body.password, body.full_name
            )
        tenant = self._settings.registration_tenant
        if tenant is None:
            raise Forbidden("registration is closed; ask for an invitation")
        if not body.email:
            raise BadRequest("the body: Object missing required field email")
        new = NewUser(
            username=body.username,
            email=body.email,
            password_hash=await self._identity.passwords.hash(body.password),
            role="viewer",
            full_name=body.full_name,
        )
        return _admitted("User registered", await self._admit(client(request, tenant=tenant), new))

    @route("POST", "/api/v1/invites", needs="user:write", limit="admin", status=201)
    async def invite(self, request: Request, caller: Principal, body: InviteBody) -> MadeInvite:
        """Invite somebody, with a role that permits no more than the caller may.

        The token is shown this once: hand it over yourself, nothing is sent.
        """
        await check_role(self._roles, caller, body.role)
        token = secrets.token_urlsafe(32)
        by_user = caller.kind == "user" and is_number(caller.id)
        made = await self._invites.create(
            request.origin,
            email=body.email,
            role=body.role,
            digest=self._digest(token),
            invited_by=int(caller.id) if by_user else None,
        )
        return MadeInvite(*_values(made), token=token)

    @route("GET", "/api/v1/invites", needs="user:read")
    async def invites(self, caller: Principal, query: IdPage) -> InviteList:
        """List the invitations that may still be accepted."""
        found = await self._invites.page(caller.tenant, above=int(query.cursor), limit=query.limit)
        more = cursors.plain(found, query.limit, lambda one: one.id)
        return InviteList(len(found), [InviteView(*_values(one)) for one in found], more)

    @route("DELETE", "/api/v1/invites/:id", needs="user:write", limit="admin", errors=(404,))
    async def revoke(self, request: Request, id: Id) -> None:  # noqa: A002
        """Take an invitation back."""
        await self._invites.revoke(request.origin, id)

    @route(
        "POST",
        "/api/v1/invites/accept",
        public=True,
        limit="auth",
        status=201,
        errors=(401, 409),
    )
    async def accept(self, request: Request, body: AcceptBody) -> Admitted:
        """Become a user by an invitation, with its address, role and tenant."""
        return await self._accept(request, body.token, body.username, body.password, body.full_name)

    async def _accept(
        self, request: Request, token: str, username: str, password: str, full_name: str
    ) -> Admitted:
        found = await self._invites.find(self._digest(token))
        if found is None:
            raise Denied("the invitation is not valid")
        new = NewUser(
            username=username,
            email=found.email,
            password_hash=await self._identity.passwords.hash(password),
            role=found.role,
            full_name=full_name,
        )
        origin = client(request, tenant=found.tenant, name=f"invitation {found.id}")
        return _admitted("Invitation accepted", await self._admit(origin, new, found))

    async def _admit(self, origin: Origin, new: NewUser, by: Invite | None = None) -> User:
        async with self._identity.users.changing(origin) as change:
            if by is not None and not await accept(change.connection, by):
                raise Denied("the invitation is not valid")
            return await change.create(new)

    def _check_bootstrap(self, token: str) -> None:
        """Raise unless this is the configured token."""
        wanted = self._settings.initial_admin_bootstrap_token
        if wanted is None:
            raise Forbidden("INITIAL_ADMIN_BOOTSTRAP_TOKEN is not set")
        # Digests, because a comparison tells the lengths.
        given, known = (
            self._identity.digests.digest("bootstrap", one)
            for one in (token, wanted.get_secret_value())
        )
        if not hmac.compare_digest(given, known):
            raise Denied("the bootstrap token is not valid")

    def _digest(self, token: str) -> bytes:
        return self._identity.digests.digest(_PURPOSE, token)


def _admitted(message: str, user: User) -> Admitted:
    shown = view(user)
    return Admitted(message, shown, {"user": shown})


def _values(invite: Invite) -> tuple[int, str, str, int | None, datetime, datetime]:
    return (
        invite.id,
        invite.email,
        invite.role,
        invite.invited_by,
        invite.created_at,
        invite.expires_at,
    )
