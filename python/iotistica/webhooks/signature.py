"""How a receiver knows that a request is ours. Pure.

The secret of a webhook is computed of a random salt by a key of the deployment, so that none is
stored; it is shown once, when the salt is made.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from iotistica.settings import Settings

_SALT_BYTES = 16
_PURPOSE = b"iotistica webhook\0"


def new_salt() -> bytes:
    """Of a new secret."""
    return secrets.token_bytes(_SALT_BYTES)


def secret_of(key: bytes, tenant: str, salt: bytes) -> str:
    """The secret that a receiver is given."""
    digest = hmac.digest(key, _PURPOSE + tenant.encode() + b"\0" + salt, "sha256")
    return "whsec_" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def sign(secret: str, at_s: int, body: bytes) -> str:
    """Value of `X-Iotistica-Signature`: time and HMAC-SHA256 of `{time}.{body}`, in hex."""
    digest = hmac.new(secret.encode(), b"%d." % at_s + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def explicit_key(settings: Settings) -> bytes | None:
    """The key of the settings, where it has one for this purpose."""
    key = settings.webhook_key
    return None if key is None else key.get_secret_value().encode()
