"""Registration of agents in three steps (reference sections 5.1, 6.3)."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit
from uuid import UUID

from iotistica import log
from iotistica._native import format_topic
from iotistica.api import proofs
from iotistica.api.accounts.reconciler import Reconciler
from iotistica.api.agent_brokers import AgentBrokers
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.device_keys import DeviceKeys
from iotistica.api.http import Request
from iotistica.api.models.registration import (
    BrokerConfig,
    Challenge,
    KeyExchange,
    KeyExchanged,
    MqttAccess,
    MqttTopics,
    ProvenDevice,
    Registered,
    Registration,
)
from iotistica.api.route import route
from iotistica.credentials import hash_password
from iotistica.errors import BadRequest, Conflict, Denied, Forbidden, NotFound, TooMany
from iotistica.settings import Settings
from iotistica.store.journal import Origin
from iotistica.store.registrations import Admission, Applicant, Offer, RegistrationStore

PURPOSE = "provisioning-key"

_SALT_BYTES = 16
_MAX_KEY = 512
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_PUBLISHES = (
    "endpoints/#",
    "state",
    "metrics",
    "events/#",
    "logs/#",
    "agent/#",
    "jobs/start-next",
    "jobs/+/update",
    "meta/#",
    "cmd/result",
)
_SUBSCRIBES = (
    "jobs/notify",
    "jobs/notify-next",
    "jobs/start-next/accepted",
    "jobs/start-next/rejected",
    "agent/#",
    "config/#",
    "cmd/write",
    "shadow/#",
)

_log = log.get(__name__)


class AgentRegistration:
    """Handlers of registration, challenge and key exchange. None needs more than it is given."""

    def __init__(
        self,
        store: RegistrationStore,
        *,
        digests: AgentDigests,
        keys: DeviceKeys,
        reconciler: Reconciler,
        brokers: AgentBrokers,
        settings: Settings,
    ) -> None:
        self._store = store
        self._digests = digests
        self._keys = keys
        self._reconciler = reconciler
        self._brokers = brokers
        self._settings = settings

    @route(
        "POST", "/api/v1/agent/register", public=True, limit="device-data", errors=(401, 403, 409)
    )
    async def register(self, request: Request, body: Registration) -> Registered:
        """Register an agent by a provisioning key, in the header `X-Provisioning-Key`.

        May be repeated with the same uuid and keys, for instance when the answer was lost: the
        answer is the same again, and the agent counts once. Other keys for a known uuid are 409.
        """
        origin = Origin(
            tenant="",
            address=request.address,
            user_agent=request.headers.get("user-agent", ""),
            request_id=request.identifier,
        )
        await self._check_address(origin.address)
        applicant = self._applicant(body)
        key = request.headers.get("x-provisioning-key", "")
        digest = self._digests.of(PURPOSE, key[:_MAX_KEY]).rpartition("$")[2]
        salt = secrets.token_bytes(_SALT_BYTES)
        username = f"agent_{body.uuid}"
        offer = Offer(
            challenge=proofs.new_challenge(),
            challenge_s=self._settings.challenge_s,
            password_salt=salt,
            password_hash=hash_password(self._digests.mqtt_password(username, salt)),
        )
        try:
            if not key:
                raise Denied("the header x-provisioning-key is missing")
            admission = await self._store.register(applicant, digest, offer, origin)
        except (Denied, Conflict, Forbidden) as error:
            await self._store.record_failure(digest, body.uuid, origin, str(error))
            raise
        # PostgreSQL has it. Where the broker cannot be told now, it is told later.
        await self._reconciler.tell(username)
        self._keys.forget(admission.uuid)
        if admission.is_new:
            _log.info("agent registered", tenant=admission.tenant, agent=admission.uuid)
        return await self._registered(admission, username)

    @route("POST", "/api/v1/device/:uuid/challenge", public=True, limit="device-data")
    async def challenge(self, uuid: UUID) -> Challenge:
        """A challenge to sign. While one is open, it is the answer: asking prolongs nothing."""
        made = proofs.new_challenge()
        found = await self._store.challenge(uuid, made, self._settings.challenge_s)
        if found is None:
            raise NotFound(f"agent {uuid} does not exist")
        return Challenge(challenge=found["challenge"], expires_at=found["expires_at"])

    @route(
        "POST", "/api/v1/device/:uuid/key-exchange", public=True, limit="device-data", errors=(401,)
    )
    async def exchange(self, request: Request, uuid: UUID, body: KeyExchange) -> KeyExchanged:
        """Prove the private key by a signature of `uuid:challenge`, base64.

        The proof that was taken may be repeated: it changes nothing any more.
        """
        if not request.headers.get("x-agent-key"):
            raise Denied("the header x-agent-key is missing")
        if body.uuid not in (None, uuid):
            raise BadRequest(f"field uuid is {body.uuid}; the path says {uuid}")
        found = await self._store.suspect(uuid)
        if found is None:
            raise NotFound(f"agent {uuid} does not exist")
        if not found["is_active"]:
            raise Forbidden(f"agent {uuid} is deactivated")
        challenge, public_key = found["challenge"], found["public_key"]
        if challenge is None or not (found["is_fresh"] or found["is_used"]):
            raise Denied("there is no open challenge; ask for one")
        # The agent signs its uuid as it writes it: capitals are another message.
        names = dict.fromkeys((request.params["uuid"], str(uuid)))
        if not any(proofs.proves(public_key, name, challenge, body.signature) for name in names):
            raise Denied("the signature is not that of the registered key over uuid:challenge")
        if not found["is_used"] and not await self._store.prove(uuid, challenge, public_key):
            raise Denied("the challenge is no longer open; ask for one")
        self._keys.forget(str(uuid))
        return KeyExchanged(
            device=ProvenDevice(id=found["id"], uuid=found["uuid"], device_name=found["name"])
        )

    async def _check_address(self, address: str) -> None:
        if not address:
            return  # without a front door nobody is told apart
        most = self._settings.registration_failures_per_hour
        blocked_s = await self._store.blocked_s(address, most)
        if blocked_s is not None:
            what = f"more than {most} registrations from this address failed within an hour"
            raise TooMany(what, after_s=max(int(blocked_s), 1))

    def _applicant(self, body: Registration) -> Applicant:
        return Applicant(
            uuid=body.uuid,
            name=body.device_name,
            type=body.device_type,
            key_hash=self._keys.digest(body.device_api_key),
            public_key=proofs.public_key(body.device_public_key),
            mac_address=body.mac_address,
            os_version=body.os_version,
            agent_version=body.agent_version,
        )

    def _broker(self, username: str, password: str) -> BrokerConfig:
        """The broker of the settings."""
        broker = urlsplit(self._settings.mqtt_public_url or self._settings.mqtt_url or "")
        protocol, host = broker.scheme or "mqtt", broker.hostname or "localhost"
        return BrokerConfig(
            protocol=protocol,
            host=host,
            port=broker.port or _PORTS.get(protocol, 1883),
            username=username,
            password=password,
            use_tls=protocol in ("mqtts", "wss"),
        )

    async def _registered(self, admission: Admission, username: str) -> Registered:
        tenant, uuid = admission.tenant, admission.uuid
        password = self._digests.mqtt_password(username, admission.password_salt)
        broker = await self._brokers.at_registration(
            tenant, UUID(uuid), self._broker(username, password)
        )
        own = format_topic(tenant, uuid, "")
        return Registered(
            id=admission.id,
            uuid=uuid,
            device_name=admission.name,
            device_type=admission.type,
            tenant_id=tenant,
            fleet_uuid=admission.fleet,
            challenge=admission.challenge,
            created_at=admission.created_at,
            mqtt=MqttAccess(
                username=username,
                password=password,
                broker=f"{broker.protocol}://{broker.host}:{broker.port}",
                broker_config=broker,
                topics=MqttTopics(
                    publish=[own + rest for rest in _PUBLISHES],
                    subscribe=[own + rest for rest in _SUBSCRIBES],
                ),
            ),
        )
