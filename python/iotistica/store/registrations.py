"""How agents come in: registration, challenge, proof (reference sections 5.1, 6.3)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from iotistica import keys
from iotistica.allowance import UNLIMITED, Allowance
from iotistica.errors import Conflict, Denied, Forbidden
from iotistica.store import journal
from iotistica.store.allowances import require_room
from iotistica.store.broker_users import EVERYTHING, put_agent_user
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Connection, DuplicateKey, Pool, Row, unavailable

# Whoever registers by a key holds its row until the commit, so that its uses are counted right.
_KEY = """
SELECT id, tenant_id, fleet_uuid, is_active, expires_at > now() AS is_fresh
FROM provisioning_keys
WHERE key_hash_fast = $1
FOR UPDATE
"""
_USE_KEY = """
UPDATE provisioning_keys
SET agents_provisioned = agents_provisioned + 1, last_used_at = now()
WHERE id = $1 AND agents_provisioned < max_agents
RETURNING id
"""
_AGENT = """
SELECT tenant_id, is_active, device_api_key_hash, device_public_key
FROM agents
WHERE uuid = $1
FOR UPDATE
"""
_ADD = "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_CLAIM = """
UPDATE agents
SET name = $2, type = $3, device_api_key_hash = $4, device_public_key = $5,
    fleet_uuid = coalesce(fleet_uuid, $6), provisioned_by_key_id = $7,
    provisioning_state = 'registered', pop_verified = false, api_key_issued_at = now(),
    mqtt_username = 'agent_' || uuid
WHERE uuid = $1
"""
_DESCRIBE = """
UPDATE agents
SET mac_address = coalesce($2, mac_address), os_version = coalesce($3, os_version),
    agent_version = coalesce($4, agent_version), modified_at = now(),
    last_challenge = CASE WHEN asked.fresh THEN $5 ELSE last_challenge END,
    last_challenge_expires_at = CASE WHEN asked.fresh THEN now() + $6
                                     ELSE last_challenge_expires_at END,
    last_challenge_used_at = CASE WHEN asked.fresh THEN NULL ELSE last_challenge_used_at END
FROM (SELECT last_challenge IS NULL OR last_challenge_used_at IS NOT NULL
             OR last_challenge_expires_at <= now() AS fresh
      FROM agents WHERE uuid = $1) AS asked
WHERE uuid = $1
RETURNING id, uuid::text, tenant_id, name, type, fleet_uuid::text, last_challenge, created_at
"""
_CHALLENGE = """
UPDATE agents
SET last_challenge = CASE WHEN asked.fresh THEN $2 ELSE last_challenge END,
    last_challenge_expires_at = CASE WHEN asked.fresh THEN now() + $3
                                     ELSE last_challenge_expires_at END,
    last_challenge_used_at = CASE WHEN asked.fresh THEN NULL ELSE last_challenge_used_at END
FROM (SELECT last_challenge IS NULL OR last_challenge_used_at IS NOT NULL
             OR last_challenge_expires_at <= now() AS fresh
      FROM agents WHERE uuid = $1 FOR UPDATE) AS asked
WHERE uuid = $1 AND device_public_key IS NOT NULL AND is_active
RETURNING last_challenge AS challenge, last_challenge_expires_at AS expires_at
"""
_SUSPECT = """
SELECT id, uuid::text, tenant_id, name, is_active, device_public_key AS public_key,
       last_challenge AS challenge,
       last_challenge_used_at IS NOT NULL AND pop_verified AS is_used,
       last_challenge_expires_at > now() AS is_fresh
FROM agents
WHERE uuid = $1 AND device_public_key IS NOT NULL
"""
_PROVE = """
UPDATE agents
SET last_challenge_used_at = now(), pop_verified = true, pop_verified_at = now(),
    provisioning_state = 'provisioned', provisioned_at = coalesce(provisioned_at, now()),
    last_auth_method = 'pop', modified_at = now()
WHERE uuid = $1 AND last_challenge = $2 AND device_public_key = $3 AND is_active
  AND last_challenge_used_at IS NULL AND last_challenge_expires_at > now()
RETURNING uuid
"""
_ATTEMPT = """
INSERT INTO provisioning_attempts
    (tenant_id, provisioning_key_id, agent_uuid, ip_address, user_agent, success, error_message)
VALUES ((SELECT tenant_id FROM provisioning_keys WHERE key_hash_fast = $1),
        (SELECT id FROM provisioning_keys WHERE key_hash_fast = $1), $2, $3, $4, $5, $6)
"""
_FAILURES = """
SELECT count(*) AS failures,
       extract(epoch FROM min(created_at) + interval '1 hour' - now()) AS until_s
FROM (SELECT created_at FROM provisioning_attempts
      WHERE NOT success AND ip_address = $1 AND created_at > now() - interval '1 hour'
      ORDER BY created_at DESC LIMIT $2) AS newest
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """What an agent says of itself; keys in the form in which they are stored."""

    uuid: UUID
    name: str
    type: str
    key_hash: str
    public_key: str
    mac_address: str | None
    os_version: str | None
    agent_version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What an agent that was let in is told."""

    id: int
    uuid: str
    tenant: str
    name: str
    type: str
    fleet: str | None
    challenge: str
    created_at: datetime
    password_salt: bytes
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What may be used once: a challenge, and a password for the broker with its salt."""

    challenge: str
    challenge_s: float
    password_salt: bytes
    password_hash: str


class RegistrationStore:
    """Registrations. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool, allowance: Allowance = UNLIMITED) -> None:
        self._pool = pool
        self._allowance = allowance

    async def register(
        self, applicant: Applicant, key_digest: str, offer: Offer, origin: Origin
    ) -> Admission:
        """Let an agent in, or one again that is in by the same keys; then nothing is counted.

        Raises `Denied` for a provisioning key that is not good, `Conflict` for a uuid or a key that
        somebody else has, in whatever tenant, `Forbidden` for an agent that was deactivated or is
        one too many.
        """
        with unavailable("register an agent"):
            async with self._pool.acquire() as connection, connection.transaction():
                try:
                    return await self._register(connection, applicant, key_digest, offer, origin)
                except DuplicateKey:
                    raise _taken(applicant.uuid) from None

    async def _register(
        self,
        connection: Connection,
        applicant: Applicant,
        key_digest: str,
        offer: Offer,
        origin: Origin,
    ) -> Admission:
        key = await connection.fetchrow(_KEY, key_digest)
        if key is None or not key["is_active"]:
            raise Denied("the provisioning key is not valid")
        if not key["is_fresh"]:
            raise Denied("the provisioning key has expired")
        is_new = await self._claim(connection, applicant, key)
        row = await connection.fetchrow(
            _DESCRIBE,
            applicant.uuid,
            applicant.mac_address,
            applicant.os_version,
            applicant.agent_version,
            offer.challenge,
            timedelta(seconds=offer.challenge_s),
        )
        assert row is not None  # the row is ours until the commit
        tenant = row["tenant_id"]
        salt = await put_agent_user(
            connection,
            tenant=tenant,
            agent=applicant.uuid,
            salt=offer.password_salt,
            password_hash=offer.password_hash,
            topics={keys.agent_filter(tenant, str(applicant.uuid)): EVERYTHING},
        )
        await connection.execute(
            _ATTEMPT, key_digest, applicant.uuid, origin.address, origin.user_agent, True, None
        )
        if is_new:
            entry = Entry(
                event_type="agent.registered",
                subject=f"agent/{applicant.uuid}",
                agent=applicant.uuid,
                after={"name": applicant.name, "type": applicant.type, "key": str(key["id"])},
            )
            await journal.record(connection, _as_agent(origin, tenant, applicant), entry)
        return Admission(
            id=row["id"],
            uuid=row["uuid"],
            tenant=tenant,
            name=row["name"],
            type=row["type"],
            fleet=row["fleet_uuid"],
            challenge=row["last_challenge"],
            created_at=row["created_at"],
            password_salt=salt,
            is_new=is_new,
        )

    async def _claim(
        self, connection: Connection, applicant: Applicant, key: asyncpg.Record
    ) -> bool:
        """Make the agent the applicant's; whether it was not before."""
        uuid, tenant = applicant.uuid, key["tenant_id"]
        await connection.execute(_ADD, uuid, tenant, applicant.name)
        known = await connection.fetchrow(_AGENT, uuid)
        if known is None or known["tenant_id"] != tenant:
            raise _taken(uuid)
        if known["device_api_key_hash"] is not None:
            same = hmac.compare_digest(known["device_api_key_hash"], applicant.key_hash)
            if not same or known["device_public_key"] != applicant.public_key:
                raise _taken(uuid)
        if not known["is_active"]:
            raise Forbidden(f"agent {uuid} is deactivated")
        if known["device_api_key_hash"] is not None:
            return False
        await require_room(connection, tenant, self._allowance)
        if await connection.fetchval(_USE_KEY, key["id"]) is None:
            raise Denied("the provisioning key has let in as many agents as it may")
        await connection.execute(
            _CLAIM,
            uuid,
            applicant.name,
            applicant.type,
            applicant.key_hash,
            applicant.public_key,
            key["fleet_uuid"],
            key["id"],
        )
        return True

    async def record_failure(
        self, key_digest: str, agent: UUID | None, origin: Origin, error: str
    ) -> None:
        """Note a registration that was refused."""
        with unavailable("note a registration"):
            await self._pool.execute(
                _ATTEMPT, key_digest, agent, origin.address, origin.user_agent, False, error
            )

    async def blocked_s(self, address: str, most: int) -> float | None:
        """For how long an address that failed more than `most` times an hour is refused."""
        with unavailable("count registrations"):
            row = await self._pool.fetchrow(_FAILURES, address, most + 1)
        assert row is not None  # an aggregate has a row
        return float(row["until_s"]) if row["failures"] > most else None

    async def challenge(self, uuid: UUID, challenge: str, expires_s: float) -> Row | None:
        """The challenge that is open, or `challenge` where there is none; None for no agent."""
        with unavailable("challenge an agent"):
            return await self._pool.fetchrow(
                _CHALLENGE, uuid, challenge, timedelta(seconds=expires_s)
            )

    async def suspect(self, uuid: UUID) -> Row | None:
        """An agent that may prove itself, and its last challenge."""
        with unavailable("read a challenge"):
            return await self._pool.fetchrow(_SUSPECT, uuid)

    async def prove(self, uuid: UUID, challenge: str, public_key: str) -> bool:
        """Use the challenge; False where it is used, has expired, or is another one by now."""
        with unavailable("note a proof"):
            return await self._pool.fetchval(_PROVE, uuid, challenge, public_key) is not None


def _taken(uuid: UUID) -> Conflict:
    # The same words whoever has it: another tenant's agents are nobody's business.
    return Conflict(
        f"agent {uuid} cannot be registered with these keys; the uuid or a key is taken"
    )


def _as_agent(origin: Origin, tenant: str, applicant: Applicant) -> Origin:
    return Origin(
        tenant=tenant,
        kind="agent",
        id=str(applicant.uuid),
        name=applicant.name,
        address=origin.address,
        user_agent=origin.user_agent,
        request_id=origin.request_id,
    )
