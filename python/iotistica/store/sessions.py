"""Sessions: one row for each login, whose refresh tokens are its generations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID, uuid4

from iotistica.store.journal import Entry, Origin, record
from iotistica.store.pool import Pool, affected, unavailable

# The hash that was compared must still be the user's: it may have changed meanwhile.
_LOGGED_IN = """
UPDATE users SET last_login_at = now(), password_hash = coalesce($3, password_hash)
WHERE id = $1 AND password_hash = $2 AND is_active
"""
_OPEN = """
INSERT INTO refresh_tokens (id, user_id, ip_address, user_agent, expires_at)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
"""
_FORGET = """
DELETE FROM refresh_tokens
WHERE user_id = $1 AND (expires_at < now() OR revoked_at < now() - interval '30 days')
"""
_HELD = """
SELECT t.generation, t.user_id, u.tenant_id, u.username,
       t.revoked_at IS NOT NULL OR t.expires_at <= now() OR NOT u.is_active AS is_over,
       t.rotated_at > now() - make_interval(secs => $2) AS is_fresh,
       t.ip_address = $3 AND t.user_agent = $4 AS is_same_client
FROM refresh_tokens t JOIN users u ON u.id = t.user_id
WHERE t.id = $1
FOR UPDATE OF t
"""
_ROTATE = """
UPDATE refresh_tokens
SET generation = generation + 1, rotated_at = now(), ip_address = $2, user_agent = $3,
    expires_at = now() + make_interval(secs => $4)
WHERE id = $1
"""
_END = """
UPDATE refresh_tokens SET revoked_at = now(), revoked_reason = $2
WHERE id = $1 AND revoked_at IS NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as it stands; `generation` is the one that may be shown next."""

    id: UUID
    generation: int
    tenant: str
    user: int


Outcome = Session | Literal["over", "reused"]


class SessionStore:
    """Sessions. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool, *, lifetime_s: float, grace_s: float) -> None:
        self._pool = pool
        self._lifetime_s = float(lifetime_s)
        self._grace_s = grace_s

    async def open(
        self, origin: Origin, user: int, *, compared_hash: str, fresh_hash: str | None
    ) -> Session | None:
        """Log a user in; None where the user is inactive or has another password by now."""
        with unavailable("open a session"):
            async with self._pool.acquire() as connection, connection.transaction():
                done = await connection.execute(_LOGGED_IN, user, compared_hash, fresh_hash)
                if not affected(done):
                    return None
                session = Session(id=uuid4(), generation=1, tenant=origin.tenant, user=user)
                await connection.execute(_FORGET, user)
                await connection.execute(
                    _OPEN, session.id, user, origin.address, origin.user_agent, self._lifetime_s
                )
                await record(connection, origin, _entry("user.logged_in", user))
        return session

    async def fail(self, origin: Origin, user: int) -> None:
        """Record that somebody tried to log in as this user."""
        with unavailable("record a failed login"):
            entry = replace(_entry("user.login_failed", user), severity="warning")
            await record(self._pool, origin, entry)

    async def rotate(self, session: UUID, generation: int, client: Origin) -> Outcome:
        """The next generation, for who shows the present one.

        Shown again within the grace time by the same client, the one before is answered with the
        present one: two requests at once, or an answer that was lost. In any other case somebody
        has a copy: the session ends.
        """
        with unavailable("renew a session"):
            async with self._pool.acquire() as connection, connection.transaction():
                held = await connection.fetchrow(
                    _HELD, session, self._grace_s, client.address, client.user_agent
                )
                if held is None or held["is_over"]:
                    return "over"
                found = Session(
                    id=session,
                    generation=held["generation"],
                    tenant=held["tenant_id"],
                    user=held["user_id"],
                )
                if generation == held["generation"]:
                    address, agent = client.address, client.user_agent
                    await connection.execute(_ROTATE, session, address, agent, self._lifetime_s)
                    return replace(found, generation=generation + 1)
                if (
                    generation == held["generation"] - 1
                    and held["is_fresh"]
                    and held["is_same_client"]
                ):
                    return found
                await connection.execute(_END, session, "reuse of a refresh token")
                entry = _entry("session.reused", held["user_id"])
                await record(connection, _by(client, held), replace(entry, severity="critical"))
        return "reused"

    async def end(self, session: UUID, client: Origin) -> None:
        """Log out; nothing happens where the session has ended."""
        with unavailable("end a session"):
            async with self._pool.acquire() as connection, connection.transaction():
                held = await connection.fetchrow(_HELD, session, 0.0, "", "")
                if held is None or held["is_over"]:
                    return
                await connection.execute(_END, session, "logged out")
                entry = _entry("user.logged_out", held["user_id"])
                await record(connection, _by(client, held), entry)


def _by(client: Origin, held: Any) -> Origin:
    """The origin of a change that the holder of a session makes."""
    return replace(
        client,
        tenant=held["tenant_id"],
        kind="user",
        id=str(held["user_id"]),
        name=held["username"],
    )


def _entry(event: str, user: int) -> Entry:
    return Entry(event_type=event, subject=f"user/{user}")
