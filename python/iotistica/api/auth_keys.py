"""Tokens of an identity provider: RS256 by its key set (RFC 7517), from a URL or a file."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
import orjson
from jwt.algorithms import RSAAlgorithm

from iotistica import log
from iotistica.api.auth import decoded
from iotistica.api.principal import ROLES, Principal
from iotistica.errors import ConfigError, Denied, StoreUnavailable
from iotistica.settings import Settings

_log = log.get(__name__)

ALGORITHM = "RS256"
"""Of every key in the set: a key for anything else is left out."""

_REQUIRED = ("iss", "aud", "exp", "iat", "sub")
_TIMEOUT_S = 5.0
_MAX_BYTES = 1 << 20
_STALE_S = 86_400.0
"""Keys that cannot be fetched again are used for so long; then nobody passes by them."""

Fetch = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What a token must say, and where it says it."""

    issuer: str
    audience: str
    tenant_claim: str
    role_claim: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who a token of the provider is about."""

    id: str
    email: str
    """Empty unless the provider says that it is verified."""
    tenant: str
    """Empty where the token names none."""


class KeySet:
    """Keys by their id, fetched when they are old or one is missing, and never for each request."""

    def __init__(
        self,
        fetch: Fetch,
        *,
        lifetime_s: float,
        floor_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._lifetime_s = lifetime_s
        self._floor_s = floor_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._keys: Mapping[str, Any] = {}
        self._fetched = self._tried = float("-inf")

    async def key(self, kid: str) -> Any:
        """The public key of this id. Raises `Denied`, and `StoreUnavailable` without any keys."""
        if kid not in self._keys or self._age() > self._lifetime_s:
            await self._refresh(kid)
        if self._age() > _STALE_S:
            raise StoreUnavailable("the keys of the identity provider cannot be fetched")
        found = self._keys.get(kid)
        if found is None:
            raise Denied("the token is not valid")
        return found

    def _age(self) -> float:
        return self._clock() - self._fetched

    async def _refresh(self, kid: str) -> None:
        async with self._lock:
            is_due = kid not in self._keys or self._age() > self._lifetime_s
            if not is_due or self._clock() - self._tried < self._floor_s:
                return
            self._tried = self._clock()
            try:
                self._keys = _parsed(await self._fetch())
            except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
                what = "the keys of the identity provider could not be fetched"
                _log.warning(what, error=str(error) or type(error).__name__)
            else:
                self._fetched = self._tried


class ProviderTokens:
    """Verifies the tokens of an identity provider."""

    def __init__(self, provider: Provider, keys: KeySet) -> None:
        self._provider = provider
        self._keys = keys

    @classmethod
    def of(cls, settings: Settings) -> ProviderTokens | None:
        """As configured; None where no key set is. Raises `ConfigError`."""
        fetch = _source(settings)
        if fetch is None:
            return None
        if not settings.jwks_issuer or not settings.jwks_audience:
            raise ConfigError("JWKS_ISSUER and JWKS_AUDIENCE must be set where a key set is")
        provider = Provider(
            issuer=settings.jwks_issuer,
            audience=settings.jwks_audience,
            tenant_claim=settings.jwks_tenant_claim,
            role_claim=settings.jwks_role_claim,
        )
        floor_s = settings.jwks_refetch_floor_s
        return cls(provider, KeySet(fetch, lifetime_s=settings.jwks_cache_s, floor_s=floor_s))

    async def verify(self, token: str, kid: str) -> Principal:
        """The user of a token. Raises `Denied`, `StoreUnavailable`."""
        return self._principal(await self._claims(token, kid))

    async def subject(self, token: str) -> Subject:
        """Who a token is about. Raises `Denied`, `StoreUnavailable`."""
        kid = key_id(token)
        if kid is None:
            raise Denied("the token is not valid")
        claims = await self._claims(token, kid)
        tenant, email = claims.get(self._provider.tenant_claim), claims.get("email")
        is_proven = claims.get("email_verified") is True and isinstance(email, str)
        found = Subject(
            id=str(claims["sub"]),
            email=str(email) if is_proven else "",
            tenant=tenant if isinstance(tenant, str) else "",
        )
        if "\0" in f"{found.id}{found.email}{found.tenant}":
            raise Denied("the token is not valid")  # PostgreSQL could not look for it
        return found

    async def _claims(self, token: str, kid: str) -> dict[str, Any]:
        return decoded(
            token,
            await self._keys.key(kid),
            algorithm=ALGORITHM,
            audience=self._provider.audience,
            issuer=self._provider.issuer,
            also=_REQUIRED,
        )

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        tenant, role = (
            claims.get(self._provider.tenant_claim),
            _role(claims.get(self._provider.role_claim)),
        )
        if not isinstance(tenant, str) or not tenant:
            raise Denied("the token names no tenant")
        email = str(claims.get("email", ""))
        return Principal(
            kind="user",
            tenant=tenant,
            # Never that of a user of ours, which is a number.
            id=f"sub:{claims['sub']}",
            name=str(claims.get("nickname") or claims.get("name") or email or claims["sub"]),
            email=email,
            role=role,
            permissions=ROLES.get(role, frozenset()),
        )


def key_id(token: str) -> str | None:
    """Id of the key that a token says signed it by RS256; None where it says anything else.

    It chooses who verifies, and nothing else: each verifier has one algorithm and keys for it.
    """
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        return None
    kid = header.get("kid")
    return kid if header.get("alg") == ALGORITHM and isinstance(kid, str) else None


def _role(value: object) -> str:
    """The greatest built-in role that is named; a provider may name one or a list."""
    named = value if isinstance(value, list) else [value]
    return next((role for role in reversed(tuple(ROLES)) if role in named), "")


def _parsed(document: bytes) -> dict[str, Any]:
    """RSA keys for signatures by RS256. Raises `ValueError` where there is no set."""
    found = orjson.loads(document)
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise ValueError("it is not a JSON Web Key Set")
    keys = {}
    for one in found["keys"]:
        if not isinstance(one, dict) or not isinstance(kid := one.get("kid"), str):
            continue
        is_ours = one.get("use", "sig") == "sig" and one.get("alg", ALGORITHM) == ALGORITHM
        if one.get("kty") == "RSA" and is_ours and "d" not in one:
            try:
                keys[kid] = RSAAlgorithm.from_jwk(one)
            except (jwt.InvalidKeyError, ValueError, KeyError):
                _log.warning("a key of the identity provider is malformed", kid=kid[:64])
    return keys


def _source(settings: Settings) -> Fetch | None:
    if settings.jwks_file is not None:
        return _file(settings.jwks_file)
    if settings.jwks_url is None:
        return None
    url = urlsplit(settings.jwks_url)
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.hostname or "")):
        raise ConfigError(f"JWKS_URL is {settings.jwks_url[:64]}; it must begin with https://")
    return _url(settings.jwks_url)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _file(path: Path) -> Fetch:
    async def fetch() -> bytes:
        return await asyncio.to_thread(path.read_bytes)

    return fetch


def _url(url: str) -> Fetch:
    async def fetch() -> bytes:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"it has more than {_MAX_BYTES} bytes")
            return bytes(body)

    return fetch
