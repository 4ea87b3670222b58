"""Digests of the keys of agents, and passwords that nobody stores (reference 6.3)."""

from __future__ import annotations

import base64
from functools import cached_property

from iotistica.api import auth
from iotistica.api.digests import Digests
from iotistica.settings import Settings

_PASSWORD_BYTES = 16


class AgentDigests:
    """Digests with a secret that is not in the database: a copy of that helps nobody."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def of(self, purpose: str, key: str) -> str:
        """`hmac-sha256$purpose$hex`. Raises `ConfigError` where there is no secret."""
        return f"hmac-sha256${purpose}${self._digests.digest(purpose, key).hex()}"

    def key(self, purpose: str) -> bytes:
        """A key of 32 bytes, the same each time. Raises `ConfigError`."""
        return self._digests.digest(purpose, "")

    def mqtt_password(self, username: str, salt: bytes) -> str:
        """The password of a broker user: 24 characters, the same each time.

        So a registration that is repeated gets the same one, and the broker can be told again,
        although no password is stored.
        """
        made = self._digests.digest("mqtt-password", f"{username}:{salt.hex()}")
        return base64.b64encode(made[:_PASSWORD_BYTES]).decode()

    @cached_property
    def _digests(self) -> Digests:
        # Late: the routes are listed without any secret.
        has_own = self._settings.secret_digest_pepper is not None
        return Digests.of(self._settings, b"" if has_own else auth.secret(self._settings))
