"""`/api/v1/provisioning-keys`: what lets agents in (reference section 5.2)."""

from __future__ import annotations

import secrets
from datetime import datetime
from uuid import UUID

from iotistica.api import cursors
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.http import Request
from iotistica.api.models.agents import Done
from iotistica.api.models.provisioning import (
    Key,
    KeyFilter,
    KeyPage,
    MadeKey,
    NewKey,
    Revocation,
    SingleKey,
)
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.api.routes.registration import PURPOSE
from iotistica.store.provisioning import ProvisioningKeyStore

_KEY_BYTES = 32
_SINGLE_DAYS = 30


class ProvisioningKeys:
    """Handlers for provisioning keys."""

    def __init__(self, store: ProvisioningKeyStore, digests: AgentDigests) -> None:
        self._store = store
        self._digests = digests

    @route(
        "POST",
        "/api/v1/provisioning-keys",
        needs="settings:write",
        limit="admin",
        status=201,
        errors=(404,),
    )
    async def make(self, request: Request, body: NewKey) -> MadeKey:
        """Make a key for a fleet; it is shown this once."""
        return await self._make(request, body, None)

    @route(
        "POST",
        "/api/v1/provisioning-keys/generate",
        needs="settings:write",
        limit="admin",
        status=201,
        errors=(404,),
    )
    async def generate(self, request: Request, body: SingleKey) -> MadeKey:
        """Make a key for one agent, good for 30 days; the one that it replaces is revoked."""
        wanted = NewKey(
            fleet_uuid=body.fleet_uuid,
            max_devices=1,
            expires_in_days=_SINGLE_DAYS,
            description=body.deployment_type,
        )
        return await self._make(request, wanted, body.previous_key_id)

    @route("GET", "/api/v1/provisioning-keys", needs="settings:read", limit="admin")
    async def listed(self, caller: Principal, query: KeyFilter) -> KeyPage:
        """Keys, newest first, without the keys themselves."""
        before = cursors.read(query.cursor, tuple[datetime, UUID])
        rows = await self._store.listed(
            caller.tenant, fleet=query.fleetUuid, limit=query.limit, before=before
        )
        keys = [Key(**row) for row in rows]
        cursor = cursors.follow(keys, query.limit, lambda key: (key.created_at, key.id))
        return KeyPage(count=len(keys), keys=keys, cursor=cursor)

    @route(
        "DELETE",
        "/api/v1/provisioning-keys/:keyId",
        needs="settings:write",
        limit="admin",
        errors=(404,),
    )
    async def revoke(self, request: Request, keyId: UUID, body: Revocation | None) -> Done:
        """Revoke a key. Agents that came in by it stay."""
        await self._store.revoke(request.origin, keyId, (body or Revocation()).reason)
        return Done(message="The provisioning key is revoked")

    async def _make(self, request: Request, wanted: NewKey, replaces: UUID | None) -> MadeKey:
        key = secrets.token_hex(_KEY_BYTES)
        made, expires_at = await self._store.add(
            request.origin,
            fleet=wanted.fleet_uuid,
            key_hash=self._digests.of(PURPOSE, key),
            description=wanted.description,
            max_agents=wanted.max_devices,
            expires_days=wanted.expires_in_days,
            replaces=replaces,
        )
        return MadeKey(
            id=str(made),
            key=key,
            fleet_uuid=str(wanted.fleet_uuid),
            max_devices=wanted.max_devices,
            expires_at=expires_at,
            description=wanted.description,
        )
