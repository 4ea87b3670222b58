"""Who is calling: JSON Web Tokens signed with HS256 (reference 6.1). The only module with jwt."""

from __future__ import annotations

import time
from typing import Any

import jwt

from iotistica.api.http import Request
from iotistica.api.principal import ROLES, Principal
from iotistica.api.route import Route
from iotistica.errors import ConfigError, Denied
from iotistica.settings import Settings

ISSUER = "iotistic-api"
AUDIENCE = "iotistic-dashboard"
ALGORITHM = "HS256"
"""Ours alone: what a token says about its algorithm is never believed."""
ACCESS_S = 15 * 60
MINIMUM_SECRET_BYTES = 32

_REQUIRED = ("iss", "aud", "exp", "iat", "userId", "tenantId", "type")


def secret(settings: Settings) -> bytes:
    """The signing secret. Raises `ConfigError` where it is missing or short."""
    if settings.jwt_secret is not None:
        value = settings.jwt_secret.get_secret_value().encode()
    elif settings.jwt_secret_file is not None:
        try:
            value = settings.jwt_secret_file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(
                f"JWT_SECRET_FILE {settings.jwt_secret_file} cannot be read: {error.strerror}"
            ) from None
    else:
        raise ConfigError("JWT_SECRET (or JWT_SECRET_FILE) is not set; tokens cannot be verified")
    if len(value) < MINIMUM_SECRET_BYTES:
        raise ConfigError(
            f"JWT_SECRET has {len(value)} bytes; at least {MINIMUM_SECRET_BYTES} are needed"
        )
    return value


def issue_token(
    key: bytes | str,
    *,
    tenant: str,
    user_id: str = "development",
    username: str = "development",
    email: str = "",
    role: str = "owner",
    expires_s: float = ACCESS_S,
) -> str:
    """An access token of the reference's form."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "userId": user_id,
        "username": username,
        "email": email,
        "role": role,
        "tenantId": tenant,
        "type": "access",
        "iat": now,
        "exp": now + int(expires_s),
    }
    return jwt.encode(claims, key, algorithm=ALGORITHM)


class Tokens:
    """Verifies the tokens of users."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def identify(self, request: Request, _route: Route) -> Principal:
        """The user behind a request. Raises `Denied`."""
        return self.verify(bearer(request))

    def verify(self, token: str) -> Principal:
        """The user of a token. Raises `Denied`, with a reason that helps no forger."""
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": list(_REQUIRED)},
            )
        except jwt.ExpiredSignatureError:
            raise Denied("the token has expired") from None
        except jwt.InvalidTokenError:
            raise Denied("the token is not valid") from None
        if claims["type"] != "access":
            raise Denied("the token is not an access token")
        return _principal(claims)


def bearer(request: Request) -> str:
    """The token of the Authorization header. Raises `Denied`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Denied("a bearer token is required")
    return token.strip()


def _principal(claims: dict[str, Any]) -> Principal:
    user, tenant = claims["userId"], claims["tenantId"]
    if not isinstance(user, str | int) or not isinstance(tenant, str) or not tenant:
        raise Denied("the token is not valid")
    role = str(claims.get("role", "viewer"))
    return Principal(
        kind="user",
        tenant=tenant,
        id=str(user),
        name=str(claims.get("username", "")),
        email=str(claims.get("email", "")),
        role=role,
        permissions=ROLES.get(role, frozenset()),
    )
