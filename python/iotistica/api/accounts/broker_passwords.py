"""Passwords of users of the broker, none of which is stored as it is.

One that we make is an HMAC of the user's salt; one that somebody chose is sealed with AES-256-GCM.
Both need the deployment's secret, so a copy of the database gives neither, nor does the secret
alone; and the broker can be told again at any time, which one that takes plain text needs (the
dynamic-security plugin of Mosquitto 2.0).
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from iotistica.api.agent_digests import AgentDigests

_SALT_BYTES = 16
_NONCE_BYTES = 12
_PURPOSE = "mqtt-password-seal"
_NOBODYS_SALT = bytes(_SALT_BYTES)


@dataclass(frozen=True, slots=True)
class StoredPassword:
    """What is stored of a password: one of the two, or nothing that is ours."""

    salt: bytes | None = None
    sealed: bytes | None = None


class BrokerPasswords:
    """Makes, seals and checks. Raises `ConfigError` where the deployment has no secret."""

    def __init__(self, digests: AgentDigests) -> None:
        self._digests = digests

    def generate(self) -> StoredPassword:
        """A new password, which `reveal` tells."""
        return StoredPassword(salt=secrets.token_bytes(_SALT_BYTES))

    def seal(self, username: str, password: str) -> StoredPassword:
        """A password that somebody chose; it opens for this user alone."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return StoredPassword(
            sealed=nonce + self._cipher().encrypt(nonce, password.encode(), username.encode())
        )

    def reveal(self, username: str, stored: StoredPassword) -> str | None:
        """The password; None where it is not ours, or was sealed under another secret."""
        if stored.sealed is not None:
            nonce, sealed = stored.sealed[:_NONCE_BYTES], stored.sealed[_NONCE_BYTES:]
            try:
                return self._cipher().decrypt(nonce, sealed, username.encode()).decode()
            except InvalidTag:
                return None
        if stored.salt is not None:
            return self._digests.mqtt_password(username, stored.salt)
        return None

    def verify(self, username: str, stored: StoredPassword | None, password: str) -> bool:
        """Whether it is the password; that of nobody, None, takes as long to deny."""
        known = self.reveal(username, stored or StoredPassword(salt=_NOBODYS_SALT))
        # Of different lengths, compare_digest would tell the length.
        expected = self._digests.of(_PURPOSE, known or "")
        is_right = hmac.compare_digest(expected, self._digests.of(_PURPOSE, password))
        return is_right and stored is not None and known is not None

    def _cipher(self) -> AESGCM:
        return AESGCM(self._digests.key(_PURPOSE))
