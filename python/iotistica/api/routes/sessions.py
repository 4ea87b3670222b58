"""`/api/v1/auth/…`: users log in, stay logged in, and change their passwords (reference 6.1)."""

from __future__ import annotations

from iotistica import metrics
from iotistica.api.auth import bearer
from iotistica.api.http import Request
from iotistica.api.identity import Identity
from iotistica.api.models.identity import (
    ChangeBody,
    Done,
    ExchangeBody,
    LoggedIn,
    LoginBody,
    Me,
    MeReply,
    RefreshBody,
    ResetBody,
    TokenPair,
)
from iotistica.api.principal import Principal, permissions_of
from iotistica.api.route import route
from iotistica.api.standings import is_number, mark_of, principal_of
from iotistica.errors import BadRequest, Denied, Forbidden
from iotistica.settings import Settings
from iotistica.store.journal import Origin
from iotistica.store.sessions import Session
from iotistica.store.users import Credentials, User

_WRONG = (
    "the user name or the password is wrong; a name that is used in several tenants needs tenantId"
)
_STRANGER = (
    "the token is about nobody here; a user is known by its verified address, and one who is in "
    "several tenants needs tenantId"
)
_GONE = "the user is not active"


class Sessions:
    """Handlers of sessions and passwords."""

    def __init__(self, identity: Identity, settings: Settings) -> None:
        self._identity = identity
        self._limiter = identity.limiter
        self._attempts = settings.rate_limit_auth

    @route("POST", "/api/v1/auth/login", public=True, limit="auth", errors=(401,))
    async def login(self, request: Request, body: LoginBody) -> LoggedIn:
        """Log in by name or address and password."""
        name = (body.username or body.email).strip()
        if not name:
            raise BadRequest("the body: one of username and email is required")
        tenant = body.tenant_id or request.headers.get("x-tenant-id") or None
        known = await self._identity.users.credentials(name, tenant)
        # However the user is called: by name or address, with or without tenant.
        account = name.lower() if known is None else f"user:{known.id}"
        await self._limiter.take("login", account, self._attempts)
        user, session = await self._compared(request, known, body.password)
        self._limiter.give_back("login", account)
        metrics.LOGINS.labels("accepted").inc()
        return await self._logged_in("Login successful", user, session)

    @route("POST", "/api/v1/auth/auth0-exchange", public=True, limit="auth", errors=(401, 403, 409))
    async def exchange(self, request: Request, body: ExchangeBody | None) -> LoggedIn:
        """Log in by a token of the identity provider, in the body or as `Authorization: Bearer`.

        It must be about a user whom somebody made: known by the token's subject, and before the
        first time by the address that the provider has verified. Nobody gets rights by a token.
        """
        given = body or ExchangeBody()
        token = given.token or given.auth0_token or bearer(request)
        if self._identity.provider is None:
            raise Denied("no identity provider is configured")
        subject = await self._identity.provider.subject(token)
        tenant = subject.tenant or given.tenant_id or request.headers.get("x-tenant-id") or None
        known = await self._identity.users.external(subject.id, subject.email, tenant)
        if known is None:
            metrics.LOGINS.labels("refused").inc()
            raise Forbidden(_STRANGER)
        user = await self._present(known.tenant, known.id)
        origin = request.origin_of(principal_of(user))
        if not known.is_linked:
            async with self._identity.users.changing(origin) as change:
                await change.link(user, subject.id)
        session = await self._identity.sessions.open(
            origin, user.id, compared_hash=known.password_hash, fresh_hash=None
        )
        if session is None:
            raise Denied(_GONE)
        metrics.LOGINS.labels("accepted").inc()
        return await self._logged_in("Auth0 token exchange successful", user, session)

    @route("POST", "/api/v1/auth/refresh", public=True, errors=(401,))
    async def refresh(self, request: Request, body: RefreshBody) -> LoggedIn:
        """Get a new pair of tokens for a refresh token, which then is used up.

        A token that was used up ends its session, because somebody has a copy; but for some seconds
        the same client gets the same new token again: two requests at once, or an answer that was
        lost, log nobody out.
        """
        shown, generation = self._identity.digests.session(body.refresh_token)
        outcome = await self._identity.sessions.rotate(shown, generation, client(request))
        if not isinstance(outcome, Session):
            raise Denied("the refresh token is not valid")
        user = await self._present(outcome.tenant, outcome.user)
        return await self._logged_in("Token refreshed", user, outcome)

    @route("POST", "/api/v1/auth/logout", public=True, errors=(401,))
    async def logout(self, request: Request, body: RefreshBody) -> Done:
        """End the session of a refresh token; it needs no access token, which may have expired."""
        session, _ = self._identity.digests.session(body.refresh_token)
        await self._identity.sessions.end(session, client(request))
        return Done("Logged out successfully")

    @route("GET", "/api/v1/auth/me", users=True)
    async def me(self, caller: Principal) -> MeReply:
        """The caller."""
        me = _me_by_token(caller)
        if is_number(caller.id):
            me = _me(await self._present(caller.tenant, int(caller.id)))
        return MeReply(me, me)

    @route("POST", "/api/v1/auth/change-password", users=True, limit="auth", errors=(409,))
    async def change_password(
        self, request: Request, caller: Principal, body: ChangeBody
    ) -> LoggedIn:
        """Change the caller's own password; every session ends, and a new one begins."""
        if not is_number(caller.id):
            raise Forbidden("the caller's password is not kept here")
        user_id, passwords = int(caller.id), self._identity.passwords
        stored = await self._identity.users.password_hash(caller.tenant, user_id)
        if not (await passwords.verify(stored, body.current_password)).is_right:
            raise Forbidden("field currentPassword is not the password")
        if body.new_password == body.current_password:
            raise BadRequest("field newPassword is the present password; it must be another one")
        fresh, origin = await passwords.hash(body.new_password), request.origin
        async with self._identity.users.changing(origin) as change:
            user = await change.get(user_id)
            await change.require_password(user, stored)
            await change.set_password(user, fresh, must_change=False)
        await self._identity.user_changed(user_id)
        session = await self._identity.sessions.open(
            origin, user_id, compared_hash=fresh, fresh_hash=None
        )
        if session is None:
            raise Denied(_GONE)
        user = await self._present(caller.tenant, user_id)
        return await self._logged_in("Password changed", user, session)

    @route("POST", "/api/v1/auth/reset-password", needs="user:write", limit="admin", errors=(404,))
    async def reset_password(self, request: Request, caller: Principal, body: ResetBody) -> Done:
        """Give a user another password, which they must change when they next log in."""
        fresh = await self._identity.passwords.hash(body.new_password)
        async with self._identity.users.changing(request.origin) as change:
            user = await change.get(body.user_id)
            caller.check_grant(permissions_of(user.role, user.custom_permissions))
            await change.set_password(user, fresh, must_change=True)
        await self._identity.user_changed(user.id)
        return Done("Password reset")

    async def _compared(
        self, request: Request, known: Credentials | None, password: str
    ) -> tuple[User, Session]:
        stored = None if known is None else known.password_hash
        verdict = await self._identity.passwords.verify(stored, password)
        if known is None:
            metrics.LOGINS.labels("refused").inc()
            raise Denied(_WRONG)
        if verdict.is_right:
            user = await self._present(known.tenant, known.id)
            session = await self._identity.sessions.open(
                request.origin_of(principal_of(user)),
                user.id,
                compared_hash=known.password_hash,
                fresh_hash=verdict.fresh,
            )
            if session is not None:
                return user, session
        # Whoever tried has not shown to be that user. The answer does not wait for the record,
        # or its time would tell that there is such a user.
        metrics.LOGINS.labels("refused").inc()
        unproven = client(request, tenant=known.tenant)
        self._identity.later(self._identity.sessions.fail(unproven, known.id))
        raise Denied(_WRONG)

    async def _present(self, tenant: str, user: int) -> User:
        """A user who was there a moment ago. Raises `Denied`."""
        found = await self._identity.users.find(tenant, user)
        if found is None:
            raise Denied(_GONE)
        return found

    async def _logged_in(self, message: str, user: User, session: Session) -> LoggedIn:
        refresh_token = self._identity.digests.refresh_token(session.id, session.generation)
        access_token = self._identity.tokens.issue(principal_of(user), mark_of(user))
        me, must_change = _me(user), user.must_change_password
        return LoggedIn(
            message=message,
            data=TokenPair(access_token, refresh_token, must_change, me),
            access_token=access_token,
            refresh_token=refresh_token,
            expires_in=self._identity.tokens.lifetime_s,
            must_change_password=must_change,
            user=me,
        )


def client(request: Request, *, tenant: str = "", name: str = "unknown") -> Origin:
    """Where a request comes from whose sender is not known by credentials."""
    return Origin(
        tenant=tenant,
        name=name,
        address=request.address,
        user_agent=request.user_agent,
        request_id=request.identifier,
    )


def _me(user: User) -> Me:
    return Me(
        id=user.id,
        username=user.username,
        email=user.email,
        role=user.role,
        full_name=user.full_name,
        tenant_id=user.tenant,
        permissions=sorted(permissions_of(user.role, user.custom_permissions)),
        must_change_password=user.must_change_password,
        last_login_at=user.last_login_at,
    )


def _me_by_token(caller: Principal) -> Me:
    """Somebody who is no user of ours: as the token says."""
    return Me(
        id=caller.id,
        username=caller.name,
        email=caller.email,
        role=caller.role,
        full_name="",
        tenant_id=caller.tenant,
        permissions=sorted(caller.permissions),
        must_change_password=False,
    )
