"""Tokens of an identity provider, and everything that a forger may try with two kinds of key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from iotistica.api.auth import Tokens, issue_token
from iotistica.api.auth_keys import KeySet, Provider, ProviderTokens
from iotistica.api.callers import Callers
from iotistica.api.principal import ROLES, Principal
from iotistica.api.remembered import Remembered
from iotistica.api.standings import Standings
from iotistica.errors import ConfigError, Denied, StoreUnavailable
from iotistica.settings import Settings

SECRET = b"0123456789abcdef" * 4
NOW = int(time.time())
OURS, FOREIGN = generate_private_key(65537, 2048), generate_private_key(65537, 2048)
CLAIMS: dict[str, Any] = {
    "iss": "https://id.example.org/",
    "aud": "iotistica",
    "sub": "auth0|7",
    "nickname": "ada",
    "email": "ada@example.org",
    "https://iotistica/tenant": "73eddd385ce8",
    "https://iotistica/role": "operator",
    "iat": NOW,
    "exp": NOW + 86_400,
}
ADA = Principal(
    kind="user",
    tenant="73eddd385ce8",
    id="sub:auth0|7",
    name="ada",
    email="ada@example.org",
    role="operator",
    permissions=ROLES["operator"],
)


def public(key: RSAPrivateKey, kid: str = "one", **more: Any) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


def pem(key: RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signed(
    changes: dict[str, Any] | None = None,
    *,
    key: Any = OURS,
    algorithm: str = "RS256",
    kid: str | None = "one",
) -> str:
    claims = {name: value for name, value in {**CLAIMS, **(changes or {})}.items() if value != ...}
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def crafted(header: dict[str, Any], secret: bytes | None, claims: dict[str, Any] = CLAIMS) -> str:
    """A token as a forger writes it, whom no library stops."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    text = f"{part(orjson.dumps(header))}.{part(orjson.dumps(claims))}"
    mac = b"" if secret is None else hmac.digest(secret, text.encode(), hashlib.sha256)
    return f"{text}.{part(mac)}"


class Source:
    """A key set that can change, break, and tell how often it was fetched."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.fetched = 0
        self.is_broken = False

    async def fetch(self) -> bytes:
        self.fetched += 1
        if self.is_broken:
            raise OSError("no route to host")
        return orjson.dumps({"keys": self.keys})


async def _existing(tenant: str) -> str | None:
    return tenant if tenant == CLAIMS["https://iotistica/tenant"] else None


class Desk:
    """Callers with a provider, whose clock is moved by hand."""

    def __init__(self, source: Source) -> None:
        self.now = 1000.0
        provider = Provider(
            issuer=CLAIMS["iss"],
            audience="iotistica",
            tenant_claim="https://iotistica/tenant",
            role_claim="https://iotistica/role",
        )
        keys = KeySet(source.fetch, lifetime_s=3600, floor_s=30, clock=lambda: self.now)
        self._callers = Callers(
            tokens=Tokens(SECRET),
            provider=ProviderTokens(provider, keys),
            standings=Standings(Mock(), lifetime_s=10),
            services=Mock(),
            tenants=Remembered(_existing, lifetime_s=10),
        )

    async def user(self, token: str) -> Principal:
        return await self._callers.user(token)


@pytest.fixture
def source() -> Source:
    return Source(public(OURS))


@pytest.fixture
def desk(source: Source) -> Desk:
    return Desk(source)


async def test_a_token_of_the_provider_passes_beside_our_own(desk: Desk, source: Source) -> None:
    assert await desk.user(signed()) == ADA
    ours = await desk.user(issue_token(SECRET, tenant="t", role="viewer"))
    assert (ours.tenant, ours.role) == ("t", "viewer")
    assert source.fetched == 1


@pytest.mark.parametrize(
    ("named", "role"),
    [
        (["viewer", "manager"], "manager"),
        ("viewer", "viewer"),
        ("king", ""),
        (["king", 7, None], ""),
        (None, ""),
        ({"viewer": True}, ""),
    ],
)
async def test_the_greatest_known_role_counts(desk: Desk, named: Any, role: str) -> None:
    found = await desk.user(signed({"https://iotistica/role": named}))
    assert (found.role, found.permissions) == (role, ROLES.get(role, frozenset()))


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        # Signatures that are none, or of another key or algorithm
        (crafted({"alg": "none", "kid": "one"}, None), "not valid"),
        (crafted({"alg": "None", "typ": "JWT"}, None), "not valid"),
        (crafted({"alg": "RS256", "kid": "one"}, None), "not valid"),
        (crafted({"kid": "one"}, pem(OURS)), "not valid"),
        # The public key, which everybody has, taken for a secret
        (crafted({"alg": "HS256", "kid": "one"}, pem(OURS)), "not valid"),
        (crafted({"alg": "HS256"}, pem(OURS)), "not valid"),
        (crafted({"alg": "RS256", "kid": "one"}, pem(OURS)), "not valid"),
        (crafted({"alg": "HS256", "kid": "one"}, orjson.dumps(public(OURS))), "not valid"),
        # Our own secret serves for our own tokens only, and by HS256 only
        (crafted({"alg": "HS256", "kid": "one"}, SECRET), "not valid"),
        (crafted({"alg": "RS256", "kid": "one"}, SECRET), "not valid"),
        (signed(key=SECRET, algorithm="HS384"), "not valid"),
        # A key that the token brings along
        (crafted({"alg": "RS256", "kid": "one", "jwk": public(FOREIGN)}, b"x"), "not valid"),
        (crafted({"alg": "RS256", "kid": "one", "jku": "https://evil"}, b"x"), "not valid"),
        (signed(key=FOREIGN), "not valid"),
        (signed(kid="two"), "not valid"),
        (signed(kid=None), "not valid"),
        (signed(algorithm="RS512"), "not valid"),
        (signed(algorithm="PS256"), "not valid"),
        # Right signatures of wrong claims
        (signed({"iss": "https://evil.example.org/"}), "not valid"),
        (signed({"iss": ...}), "not valid"),
        (signed({"aud": "somebody"}), "not valid"),
        (signed({"aud": ...}), "not valid"),
        (signed({"sub": ...}), "not valid"),
        (signed({"iss": "iotistic-api", "aud": "iotistic-dashboard"}), "not valid"),
        (signed({"exp": NOW - 60}), "has expired"),
        (signed({"exp": ...}), "not valid"),
        (signed({"nbf": NOW + 3600}), "not valid"),
        (signed({"iat": NOW + 3600}), "not valid"),
        (signed({"https://iotistica/tenant": ...}), "names no tenant"),
        (signed({"https://iotistica/tenant": ["a"]}), "names no tenant"),
        (signed({"https://iotistica/tenant": ""}), "names no tenant"),
        (signed({"https://iotistica/tenant": "another"}), "names no tenant of this platform"),
        (signed()[:-4], "not valid"),
        ("a.b.c", "not valid"),
        ("..", "not valid"),
    ],
)
async def test_a_forged_token_is_denied(desk: Desk, token: str, reason: str) -> None:
    with pytest.raises(Denied, match=reason):
        await desk.user(token)


@pytest.mark.parametrize(
    "key",
    [
        public(OURS, alg="RS512"),
        public(OURS, use="enc"),
        {"kty": "oct", "kid": "one", "k": base64.urlsafe_b64encode(SECRET).decode()},
        {"kty": "RSA", "kid": "one", "n": "?", "e": "AQAB"},
        {"kty": "RSA", "kid": "one"},
        {"kty": "RSA", "kid": 1},
        RSAAlgorithm.to_jwk(OURS, as_dict=True) | {"kid": "one"},
        "key",
    ],
)
async def test_a_key_for_something_else_verifies_nothing(key: Any) -> None:
    with pytest.raises(Denied, match="not valid"):
        await Desk(Source(key)).user(signed())


async def test_keys_are_not_fetched_for_each_request(desk: Desk, source: Source) -> None:
    for _ in range(5):
        await desk.user(signed())
        for kid in ("two", "three"):
            with pytest.raises(Denied):
                await desk.user(signed(kid=kid))
    assert source.fetched == 1
    desk.now += 31
    with pytest.raises(Denied):
        await desk.user(signed(kid="two"))
    assert source.fetched == 2


async def test_a_new_key_is_found_and_an_old_one_is_forgotten(desk: Desk, source: Source) -> None:
    await desk.user(signed())
    source.keys = [public(FOREIGN, "two")]
    desk.now += 31
    assert await desk.user(signed(key=FOREIGN, kid="two")) == ADA
    with pytest.raises(Denied):
        await desk.user(signed())


async def test_old_keys_serve_while_the_provider_is_away_but_not_forever(
    desk: Desk, source: Source
) -> None:
    await desk.user(signed())
    source.is_broken = True
    desk.now += 3601
    assert await desk.user(signed()) == ADA
    assert await desk.user(signed()) == ADA
    assert source.fetched == 2
    desk.now += 86_400
    with pytest.raises(StoreUnavailable, match="cannot be fetched"):
        await desk.user(signed())


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": 1}', b"<html>"])
async def test_without_any_keys_nobody_passes(document: bytes, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(document)
    settings = Settings.load(jwks_file=file, jwks_issuer="i", jwks_audience="a")
    tokens = ProviderTokens.of(settings)
    assert tokens is not None
    with pytest.raises(StoreUnavailable):
        await tokens.verify(signed(), "one")


async def test_keys_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(orjson.dumps({"keys": [public(OURS)]}))
    settings = Settings.load(
        jwks_file=file,
        jwks_issuer=CLAIMS["iss"],
        jwks_audience="iotistica",
        jwks_tenant_claim="https://iotistica/tenant",
        jwks_role_claim="https://iotistica/role",
    )
    tokens = ProviderTokens.of(settings)
    assert tokens is not None
    assert await tokens.verify(signed(), "one") == ADA


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"jwks_url": "http://id.example.org/k"}, "it must begin with https://"),
        ({"jwks_url": "ftp://id.example.org/k"}, "it must begin with https://"),
        ({"jwks_url": "https://id.example.org/k"}, "JWKS_ISSUER and JWKS_AUDIENCE must be set"),
        (
            {"auth0_domain": "id.example.org", "auth0_enabled": True},
            "JWKS_ISSUER and JWKS_AUDIENCE must be set",
        ),
    ],
)
def test_a_key_set_needs_its_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProviderTokens.of(Settings.load(**given))


def test_the_references_names_describe_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH0_DOMAIN", "id.example.org")
    monkeypatch.setenv("AUTH0_AUDIENCE", "iotistica")
    assert ProviderTokens.of(Settings.load()) is None
    monkeypatch.setenv("AUTH0_ENABLED", "true")
    settings = Settings.load()
    assert settings.jwks_url == "https://id.example.org/.well-known/jwks.json"
    assert (settings.jwks_issuer, settings.jwks_audience) == (
        "https://id.example.org/",
        "iotistica",
    )
    assert ProviderTokens.of(settings) is not None


def test_spans_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, seconds in (("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)):
        monkeypatch.setenv("JWT_ACCESS_TOKEN_EXPIRY", text)
        assert Settings.load().access_token_s == seconds
    monkeypatch.setenv("JWT_REFRESH_TOKEN_EXPIRY", "2w")
    assert Settings.load().refresh_token_s == 14 * 86_400
    for wrong in ("15", "0m", "1y", "m", "-1m", "1.5h"):
        monkeypatch.setenv("JWT_ACCESS_TOKEN_EXPIRY", wrong)
        with pytest.raises(ConfigError, match="JWT_ACCESS_TOKEN_EXPIRY"):
            Settings.load()
