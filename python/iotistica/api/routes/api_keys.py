"""`/api/v1/auth/api-keys`: keys of services (reference 6.5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from iotistica.api import cursors, window
from iotistica.api.http import Request
from iotistica.api.identity import Identity
from iotistica.api.models.identity import CreateKey, Id, IdPage, KeyList, KeyView, MadeKey
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.api.routes.roles import check_permissions
from iotistica.api.standings import is_number
from iotistica.errors import BadRequest
from iotistica.store.api_keys import ApiKey, NewApiKey


class ApiKeys:
    """Handlers of the keys of services."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    @route("GET", "/api/v1/auth/api-keys", needs="api-key:read")
    async def list(self, caller: Principal, query: IdPage) -> KeyList:
        """List the keys that are not revoked."""
        found = await self._identity.api_keys.page(
            caller.tenant, above=int(query.cursor), limit=query.limit
        )
        more = cursors.plain(found, query.limit, lambda one: one.id)
        return KeyList(len(found), [KeyView(*_values(key)) for key in found], more)

    @route(
        "POST",
        "/api/v1/auth/api-keys",
        needs="api-key:write",
        limit="admin",
        status=201,
        errors=(409,),
    )
    async def create(self, request: Request, caller: Principal, body: CreateKey) -> MadeKey:
        """Make a key that permits no more than the caller may; it is shown this once."""
        permissions = check_permissions(body.permissions)
        if not permissions:
            raise BadRequest("field permissions is []: a key must permit something")
        caller.check_grant(permissions)
        key, prefix, digest = self._identity.services.make()
        by_user = caller.kind == "user" and is_number(caller.id)
        new = NewApiKey(
            name=body.name,
            description=body.description,
            digest=digest,
            key_prefix=prefix,
            permissions=permissions,
            created_by=int(caller.id) if by_user else None,
            expires_at=_expiry(body),
        )
        made = await self._identity.api_keys.create(request.origin, new)
        return MadeKey(*_values(made), key=key)

    @route(
        "DELETE", "/api/v1/auth/api-keys/:id", needs="api-key:write", limit="admin", errors=(404,)
    )
    async def revoke(self, request: Request, id: Id) -> None:  # noqa: A002
        """End a key; no process accepts it a second later."""
        await self._identity.api_keys.revoke(request.origin, id)
        await self._identity.key_revoked(id)


def _expiry(body: CreateKey) -> datetime | None:
    now = datetime.now(UTC)
    if body.expires_in_days is not None:
        if body.expires_at is not None:
            raise BadRequest("the body: give one of expiresAt and expiresInDays")
        return now + timedelta(days=body.expires_in_days)
    if body.expires_at is None:
        return None
    expiry = window.moment("expiresAt", body.expires_at)
    if expiry <= now:
        raise BadRequest(f"field expiresAt is {body.expires_at!r}: it must lie ahead")
    return expiry


def _values(
    key: ApiKey,
) -> tuple[
    int,
    str,
    str,
    str,
    list[str],
    int | None,
    datetime,
    datetime | None,
    datetime | None,
]:
    return (
        key.id,
        key.name,
        key.description,
        key.key_prefix,
        list(key.permissions),
        key.created_by,
        key.created_at,
        key.expires_at,
        key.last_used_at,
    )
