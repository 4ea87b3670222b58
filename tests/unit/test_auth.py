"""Tokens: who may pass, and who may not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from iotistica.api import auth
from iotistica.api.http import Request
from iotistica.api.principal import ROLES, Principal
from iotistica.errors import ConfigError, Denied
from iotistica.settings import Settings

KEY = b"0123456789abcdef" * 4
ADA = Principal(
    kind="user",
    id="7",
    name="ada",
    email="ada@example.org",
    role="admin",
    tenant="73eddd385ce8",
    permissions=ROLES["admin"],
)
NOW = int(time.time())
CLAIMS: dict[str, Any] = {
    "iss": "iotistic-api",
    "aud": "iotistic-dashboard",
    "userId": 7,
    "username": "ada",
    "email": "ada@example.org",
    "role": "admin",
    "tenantId": "73eddd385ce8",
    "type": "access",
    "iat": NOW,
    # Made when the tests are collected, used when it is their turn.
    "exp": NOW + 86_400,
}


def signed(changes: dict[str, Any] | None = None, **options: Any) -> str:
    claims = {name: value for name, value in {**CLAIMS, **(changes or {})}.items() if value != ...}
    return jwt.encode(claims, options.get("key", KEY), algorithm=options.get("algorithm", "HS256"))


def issue(**options: Any) -> str:
    return auth.issue_token(
        KEY.decode(),
        tenant=ADA.tenant,
        user_id=ADA.id,
        username=ADA.name,
        email=ADA.email,
        role=ADA.role,
        **options,
    )


def verify(token: str) -> Principal:
    return auth.Tokens(KEY).verify(token)


def test_a_token_of_ours_and_one_of_the_references_form_pass() -> None:
    assert verify(issue()) == ADA
    assert verify(signed()) == ADA


def test_an_issued_token_has_the_claims_of_the_reference() -> None:
    claims = jwt.decode(
        issue(expires_s=100),
        KEY,
        algorithms=["HS256"],
        audience="iotistic-dashboard",
    )
    assert claims.pop("exp") - claims.pop("iat") == 100
    expected = {name: CLAIMS[name] for name in CLAIMS if name not in ("iat", "exp")}
    assert claims == {**expected, "userId": "7"}


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (signed({"exp": NOW - 10}), "expired"),
        (signed({"iss": "someone"}), "not valid"),
        (signed({"aud": "someone"}), "not valid"),
        (signed({"type": "refresh"}), "not an access token"),
        (signed({"iat": NOW + 3600}), "not valid"),
        (signed({"tenantId": ""}), "not valid"),
        (signed({"tenantId": 7}), "not valid"),
        (signed({"userId": None}), "not valid"),
        *((signed({name: ...}), "not valid") for name in ("iss", "aud", "exp", "iat", "userId")),
        *((signed({name: ...}), "not valid") for name in ("tenantId", "type")),
        (signed(key=KEY[::-1]), "not valid"),
        (signed(algorithm="HS384"), "not valid"),
        (signed(algorithm="HS512"), "not valid"),
        (jwt.encode(CLAIMS, None, algorithm="none"), "not valid"),
        ("a.b.c", "not valid"),
        ("", "not valid"),
    ],
)
def test_any_other_token_is_denied(token: str, reason: str) -> None:
    with pytest.raises(Denied, match=reason):
        verify(token)


@pytest.mark.parametrize("header", ["", "Bearer", "Basic eDp5", "bearer"])
def test_without_a_bearer_token_nobody_passes(header: str) -> None:
    request = Request(method="GET", path="/", headers={"authorization": header})
    with pytest.raises(Denied, match="a bearer token is required"):
        auth.bearer(request)


def test_the_scheme_has_no_case() -> None:
    request = Request(method="GET", path="/", headers={"authorization": "bearer x"})
    assert auth.bearer(request) == "x"


def test_the_secret_is_long_and_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JWT_SECRET", "JWT_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"JWT_SECRET \(or JWT_SECRET_FILE\) is not set"):
        auth.secret(Settings.load())
    with pytest.raises(ConfigError, match="JWT_SECRET has 31 bytes; at least 32 are needed"):
        auth.secret(Settings.load(jwt_secret="x" * 31))
    file = tmp_path / "secret"
    with pytest.raises(ConfigError, match=f"JWT_SECRET_FILE {file} cannot be read: No such file"):
        auth.secret(Settings.load(jwt_secret_file=file))
    file.write_bytes(KEY + b"\n")
    assert auth.secret(Settings.load(jwt_secret_file=file)) == KEY
