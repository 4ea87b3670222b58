"""Digests of secrets that are looked up: HMAC-SHA256 with a pepper (reference section 6.3).

Only for secrets of full entropy, such as keys that we make; passwords need `passwords`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from uuid import UUID

from iotistica.errors import Denied
from iotistica.settings import Settings

_REFRESH = "iotrt_"
_ID_BYTES, _NUMBER_BYTES, _MAC_BYTES = 16, 4, 32


class Digests:
    """Digests under one pepper."""

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper

    @classmethod
    def of(cls, settings: Settings, fallback: bytes) -> Digests:
        """With SECRET_DIGEST_PEPPER, else the signing secret, as the reference does."""
        given = settings.secret_digest_pepper
        return cls(given.get_secret_value().encode() if given is not None else fallback)

    def digest(self, purpose: str, secret: str) -> bytes:
        """Digest of a secret; the same secret has another one for another purpose."""
        return hmac.digest(self._pepper, f"{purpose}:{secret}".encode(), hashlib.sha256)

    def refresh_token(self, session: UUID, generation: int) -> str:
        """The refresh token of a generation of a session: nothing of it needs to be stored."""
        what = session.bytes + generation.to_bytes(_NUMBER_BYTES, "big")
        return _REFRESH + base64.urlsafe_b64encode(what + self._mac(what)).decode().rstrip("=")

    def session(self, refresh_token: str) -> tuple[UUID, int]:
        """Session and generation of a refresh token that is ours. Raises `Denied`."""
        text = refresh_token.removeprefix(_REFRESH)
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            raw = b""
        what, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if len(what) != _ID_BYTES + _NUMBER_BYTES or not hmac.compare_digest(mac, self._mac(what)):
            raise Denied("the refresh token is not valid")
        return UUID(bytes=what[:_ID_BYTES]), int.from_bytes(what[_ID_BYTES:], "big")

    def _mac(self, what: bytes) -> bytes:
        return hmac.digest(self._pepper, b"refresh-token:" + what, hashlib.sha256)
