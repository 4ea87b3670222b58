"""Proof of possession: signatures of agents over their challenge (reference 5.1)."""

from __future__ import annotations

import base64
import binascii
import secrets

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from iotistica.errors import BadRequest

_CHALLENGE_BYTES = 32


def new_challenge() -> str:
    """32 random bytes, base64url."""
    return secrets.token_urlsafe(_CHALLENGE_BYTES)


def public_key(pem: str) -> str:
    """The key in the one form in which keys are stored and compared. Raises `BadRequest`."""
    key = _loaded(pem)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def proves(pem: str, uuid: str, challenge: str, signature: str) -> bool:
    """Whether the key's owner signed `uuid:challenge`. Raises `BadRequest` for no base64."""
    try:
        signed = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("field signature must be base64") from None
    key, message = _loaded(pem), f"{uuid}:{challenge}".encode()
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signed, message)
        else:
            key.verify(signed, message, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _loaded(pem: str) -> Ed25519PublicKey | EllipticCurvePublicKey:
    try:
        key: PublicKeyTypes = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadRequest("field devicePublicKey is not a public key in PEM") from None
    if isinstance(key, Ed25519PublicKey):
        return key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    raise BadRequest("field devicePublicKey must be an Ed25519 or a P-256 key")
