"""Invitations to join a tenant. What is stored of one is its digest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from iotistica.errors import Conflict, NotFound
from iotistica.store.journal import Entry, Origin, record
from iotistica.store.pool import Connection, MissingReference, Pool, unavailable

_CREATE = """
INSERT INTO invites (tenant_id, email, role, token_hash, invited_by, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
RETURNING *
"""
_PAGE = """
SELECT * FROM invites
WHERE tenant_id = $1 AND id > $2 AND accepted_at IS NULL AND revoked_at IS NULL
  AND expires_at > now()
ORDER BY id
LIMIT $3
"""
_REVOKE = """
UPDATE invites SET revoked_at = now()
WHERE tenant_id = $1 AND id = $2 AND accepted_at IS NULL AND revoked_at IS NULL
RETURNING *
"""
_FIND = """
SELECT * FROM invites
WHERE token_hash = $1 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > now()
"""
_ACCEPT = """
UPDATE invites SET accepted_at = now()
WHERE id = $1 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > now()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """An invitation as stored."""

    id: int
    tenant: str
    email: str
    role: str
    invited_by: int | None
    created_at: datetime
    expires_at: datetime


class InviteStore:
    """Invitations. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool, *, lifetime_s: float) -> None:
        self._pool = pool
        self._lifetime_s = float(lifetime_s)

    async def create(
        self, origin: Origin, *, email: str, role: str, digest: bytes, invited_by: int | None
    ) -> Invite:
        """Store an invitation. Raises `Conflict` where the role is gone."""
        with unavailable("store an invitation"):
            async with self._pool.acquire() as connection, connection.transaction():
                try:
                    row = await connection.fetchrow(
                        _CREATE, origin.tenant, email, role, digest, invited_by, self._lifetime_s
                    )
                except MissingReference:
                    raise Conflict(f"role {role!r} does not exist") from None
                made = _invite(row)
                await record(connection, origin, _entry("invite.created", made))
        return made

    async def page(self, tenant: str, *, above: int, limit: int) -> list[Invite]:
        """At most `limit` open invitations with a greater id, in its order."""
        with unavailable("list the invitations"):
            return [_invite(row) for row in await self._pool.fetch(_PAGE, tenant, above, limit)]

    async def revoke(self, origin: Origin, invite: int) -> None:
        """Take an invitation back. Raises `NotFound`."""
        with unavailable("revoke an invitation"):
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_REVOKE, origin.tenant, invite)
                if row is None:
                    raise NotFound(f"invitation {invite} does not exist")
                await record(connection, origin, _entry("invite.revoked", _invite(row)))

    async def find(self, digest: bytes) -> Invite | None:
        """The open invitation with this digest."""
        with unavailable("look up an invitation"):
            row = await self._pool.fetchrow(_FIND, digest)
        return None if row is None else _invite(row)


async def accept(connection: Connection, invite: Invite) -> bool:
    """Use an invitation up, in the transaction that makes the user; False where it is over."""
    done: str = await connection.execute(_ACCEPT, invite.id)
    return done == "UPDATE 1"


def _entry(event: str, invite: Invite) -> Entry:
    shown = {"email": invite.email, "role": invite.role}
    is_over = event == "invite.revoked"
    return Entry(
        event_type=event,
        subject=f"invite/{invite.id}",
        before=shown if is_over else None,
        after=None if is_over else shown,
    )


def _invite(row: Any) -> Invite:
    return Invite(
        id=row["id"],
        tenant=row["tenant_id"],
        email=row["email"],
        role=row["role"],
        invited_by=row["invited_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )
