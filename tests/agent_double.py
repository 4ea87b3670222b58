"""A double of the reference's agent: it follows the protocol step by step and knows nothing of us.

Topics, signatures and headers are made here, not by the code under test (reference 1.1, 5.1, 6.3).
"""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from iotistica import mqtt


@dataclass(frozen=True)
class Response:
    """What came back."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Transport(Protocol):
    """Carries a request to the API."""

    async def __call__(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> Response: ...


class Http:
    """The real thing: HTTP to the API's address."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client = client
        self._url = url

    async def __call__(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> Response:
        content = {} if body is None else {"json": body}
        async with self._client.request(
            method, self._url + path, headers=dict(headers), **content
        ) as reply:
            text = await reply.read()
            is_json = reply.content_type == "application/json" and text
            return Response(
                reply.status,
                json.loads(text) if is_json else text,
                {name.lower(): value for name, value in reply.headers.items()},
            )


def ed25519() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def p256() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


@dataclass
class AgentDouble:
    """One agent; what it learns it keeps, as a real one does on its disk."""

    ask: Transport
    provisioning_key: str
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    api_key: str = field(default_factory=lambda: secrets.token_hex(32))
    private_key: Ed25519PrivateKey | EllipticCurvePrivateKey = field(default_factory=ed25519)
    name: str = "double"
    former_key: str | None = None
    registration: dict[str, Any] = field(default_factory=dict)

    @property
    def public_key(self) -> str:
        """PEM."""
        key = self.private_key.public_key()
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def tenant(self) -> str:
        """As the registration told."""
        return str(self.registration["tenantId"])

    def body(self, **changes: Any) -> dict[str, Any]:
        """What it says of itself."""
        return {
            "uuid": self.uuid,
            "deviceName": self.name,
            "deviceType": "standalone",
            "deviceApiKey": self.api_key,
            "devicePublicKey": self.public_key,
            "macAddress": "02:00:00:00:00:01",
            "osVersion": "Debian 12",
            "agentVersion": "1.4.2",
            **changes,
        }

    async def register(self, **changes: Any) -> Response:
        """Step one."""
        headers = {
            "x-provisioning-key": self.provisioning_key,
            "x-idempotency-key": f"register-{self.uuid}",
        }
        answer = await self.ask("POST", "/api/v1/agent/register", self.body(**changes), headers)
        if answer.status == 200:
            self.registration = answer.body
        return answer

    async def challenge(self) -> Response:
        """Step two, where the challenge of the registration is not at hand."""
        return await self.ask("POST", f"/api/v1/device/{self.uuid}/challenge", None, {})

    def sign(self, challenge: str) -> str:
        """The signature of `uuid:challenge`, base64."""
        message = f"{self.uuid}:{challenge}".encode()
        if isinstance(self.private_key, Ed25519PrivateKey):
            signature = self.private_key.sign(message)
        else:
            signature = self.private_key.sign(message, ECDSA(SHA256()))
        return base64.b64encode(signature).decode()

    async def exchange(self, signature: str) -> Response:
        """Step three."""
        headers = {
            "x-agent-key": self.api_key,
            "x-idempotency-key": f"key-exchange-{self.uuid}",
        }
        body = {"signature": signature, "uuid": self.uuid}
        return await self.ask("POST", f"/api/v1/device/{self.uuid}/key-exchange", body, headers)

    async def come_in(self) -> None:
        """All three steps."""
        answer = await self.register()
        assert answer.status == 200, answer.body
        answer = await self.exchange(self.sign(self.registration["challenge"]))
        assert answer.status == 200, answer.body

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        """Anything, by its own key."""
        own = {"x-device-api-key": self.api_key}
        if self.former_key is not None:
            own["x-device-api-key-previous"] = self.former_key
        return await self.ask(method, path, body, {**own, **headers})

    async def poll(self, etag: str | None = None) -> Response:
        """Its target state."""
        headers = {} if etag is None else {"if-none-match": etag}
        return await self.call("GET", f"/api/v1/device/{self.uuid}/state", **headers)

    async def rotate(self) -> Response:
        """Get a new key; the former one is kept, as it may be needed yet."""
        answer = await self.call("POST", f"/api/v1/device/{self.uuid}/rotate-key")
        if answer.status == 200:
            self.former_key, self.api_key = self.api_key, answer.body["newApiKey"]
        return answer

    def topic(self, rest: str) -> str:
        """A topic of its own."""
        return f"i/{_short(self.tenant)}/a/{_short(self.uuid)}/{rest}"

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[mqtt.Session]:
        """A session at the broker, by what the registration told."""
        config = self.registration["mqtt"]["brokerConfig"]
        options = mqtt.Options(
            host=config["host"],
            port=config["port"],
            tls=config["useTls"],
            username=config["username"],
            password=config["password"],
            client_id=f"{config['clientIdPrefix']}_{self.uuid}",
            clean_start=True,
        )
        async with mqtt.connect(options) as session:
            yield session

    async def publish(self, session: mqtt.Session, rest: str, payload: Any) -> None:
        """With QoS 1; returns when the broker has it."""
        await session.publish(self.topic(rest), json.dumps(payload).encode(), qos=1)


def _short(identifier: str) -> str:
    raw = bytes.fromhex(identifier.replace("-", ""))
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
