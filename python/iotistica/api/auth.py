"""Who is calling: JSON Web Tokens signed with our own secret by HS256 (reference 6.1)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
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

_LEEWAY_S = 5
"""By so much the clocks of two machines may differ."""
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
    mark: int | None = None,
) -> str:
    """An access token of the reference's form.

    Where `user_id` is a number it is a user in the database, who decides what it is worth; any
    other id is nobody's, and the token counts as it stands.
    """
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
        **({} if mark is None else {"mark": mark}),
    }
    return jwt.encode(claims, key, algorithm=ALGORITHM)


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that is ours: whom it was given to, and the mark that they had then."""

    principal: Principal
    mark: int | None


class Tokens:
    """Verifies, and makes, the tokens of users."""

    def __init__(self, key: bytes, *, lifetime_s: int = ACCESS_S) -> None:
        self._key = key
        self.lifetime_s = lifetime_s

    @property
    def key(self) -> bytes:
        """The signing secret."""
        return self._key

    async def identify(self, request: Request, _route: Route) -> Principal:
        """The user behind a request. Raises `Denied`."""
        return self.verify(bearer(request))

    def issue(self, principal: Principal, mark: int) -> str:
        """An access token for a user, who has this mark (`standings.mark_of`)."""
        return issue_token(
            self._key,
            tenant=principal.tenant,
            user_id=principal.id,
            username=principal.name,
            email=principal.email,
            role=principal.role,
            expires_s=self.lifetime_s,
            mark=mark,
        )

    def verify(self, token: str) -> Principal:
        """The user of a token. Raises `Denied`, with a reason that helps no forger."""
        return self.read(token).principal

    def read(self, token: str) -> Verified:
        """The same, with the mark."""
        claims = decoded(
            token, self._key, algorithm=ALGORITHM, audience=AUDIENCE, issuer=ISSUER, also=_REQUIRED
        )
        mark = claims.get("mark")
        if claims["type"] != "access":
            raise Denied("the token is not an access token")
        return Verified(_principal(claims), mark if isinstance(mark, int) else None)


def decoded(
    token: str,
    key: Any,
    *,
    algorithm: str,
    audience: str,
    issuer: str,
    also: Sequence[str],
) -> dict[str, Any]:
    """Claims of a token that is signed by this algorithm and no other. Raises `Denied`."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=audience,
            issuer=issuer,
            leeway=_LEEWAY_S,
            options={"require": list(also)},
        )
    except jwt.ExpiredSignatureError:
        raise Denied("the token has expired") from None
    except jwt.InvalidTokenError:
        raise Denied("the token is not valid") from None
    return claims


def expiry(token: str) -> float | None:
    """When a token ends that was verified before, epoch seconds."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None
    expires_at = claims.get("exp")
    return float(expires_at) if isinstance(expires_at, int | float) else None


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
