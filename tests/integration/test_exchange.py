"""Logging in by a token of an identity provider (`/auth/auth0-exchange`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from jwt.algorithms import RSAAlgorithm
from tests.people import add, bearing, journal, login
from tests.rest import Answer, Rest, open_rest

from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.streams import Streams

OURS, FOREIGN = generate_private_key(65537, 2048), generate_private_key(65537, 2048)
NOW = int(time.time())
CLAIMS: dict[str, Any] = {
    "iss": "https://id.example.org/",
    "aud": "iotistica",
    "sub": "auth0|7",
    "email": "ada@example.org",
    "email_verified": True,
    "iat": NOW,
    "exp": NOW + 3600,
}


def signed(key: Any = OURS, **changes: Any) -> str:
    claims = {name: one for name, one in {**CLAIMS, **changes}.items() if one is not None}
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": "one"})


@pytest.fixture
async def provided(
    pool: Pool, streams: Streams, tenant: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[Rest]:
    """The API with a key set of an identity provider."""
    key = {**RSAAlgorithm.to_jwk(OURS.public_key(), as_dict=True), "kid": "one"}
    keys = tmp_path / "keys.json"
    keys.write_bytes(orjson.dumps({"keys": [key]}))
    options = {
        "redis_url": redis_url,
        "jwks_file": keys,
        "jwks_issuer": CLAIMS["iss"],
        "jwks_audience": CLAIMS["aud"],
    }
    async with open_rest(pool, streams, tenant, **options) as rest:
        yield rest


async def exchange(rest: Rest, body: Any = None, **headers: str) -> Answer:
    path = "/api/v1/auth/auth0-exchange"
    return await rest.ask("POST", path, body, role=None, headers=headers)


async def test_a_user_is_known_by_the_address_and_then_by_the_subject(
    provided: Rest, connection: asyncpg.Connection
) -> None:
    user = await add(provided, "ada", "operator")
    await add(provided, "eve", "owner")
    answer = await exchange(provided, {"token": signed()})
    assert answer.status == 200
    assert answer.body["message"] == "Auth0 token exchange successful"
    assert answer.body["user"]["id"] == user
    assert answer.body["data"]["accessToken"] == answer.body["accessToken"]
    me = await provided.ask("GET", "/api/v1/auth/me", headers=bearing(answer))
    assert (me.body["user"]["username"], me.body["user"]["role"]) == ("ada", "operator")
    renewal = {"refreshToken": answer.body["refreshToken"]}
    assert (await provided.ask("POST", "/api/v1/auth/refresh", renewal, role=None)).status == 200

    # From now on the address does not matter, nor whether it is verified.
    for changes in ({"email": "eve@example.org"}, {"email": None}, {"email_verified": False}):
        again = await exchange(provided, {"auth0Token": signed(**changes)})
        assert again.body["user"]["id"] == user
    # And nobody else becomes her by it.
    assert (await exchange(provided, {"token": signed(sub="auth0|8")})).status == 403
    sub = await connection.fetchval("SELECT auth0_sub FROM users WHERE id = $1", user)
    assert sub == "auth0|7"
    (linked,) = await journal(provided, "user.linked")
    assert (linked["subject"], linked["after"]) == (f"user/{user}", {"auth0Sub": "auth0|7"})
    assert len(await journal(provided, "user.logged_in")) == 4


async def test_the_token_may_be_a_bearer(provided: Rest) -> None:
    await add(provided, "ada")
    answer = await exchange(provided, authorization=f"Bearer {signed()}")
    assert answer.status == 200
    assert (await exchange(provided)).status == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"email": "nobody@example.org"},
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": None},
        {"email": None},
        {"email": ["ada@example.org"]},
        {"tenantId": "another"},
        {"role": "owner", "email": "nobody@example.org"},
    ],
)
async def test_whoever_is_not_known_gets_nothing(
    provided: Rest, connection: asyncpg.Connection, changes: dict[str, Any]
) -> None:
    await add(provided, "ada", "owner")
    answer = await exchange(provided, {"token": signed(**changes)})
    assert answer.status == 403
    assert "the token is about nobody here" in answer.body["message"]
    assert await connection.fetchval("SELECT count(*) FROM users") == 1
    assert await connection.fetchval("SELECT count(*) FROM refresh_tokens") == 0


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        signed(FOREIGN),
        signed(exp=NOW - 60),
        signed(aud="another"),
        signed(iss="https://elsewhere/"),
        signed(sub="a\0b"),
        jwt.encode(CLAIMS, "k" * 64, algorithm="HS256", headers={"kid": "one"}),
        jwt.encode(CLAIMS, None, algorithm="none", headers={"kid": "one"}),
    ],
)
async def test_a_token_that_the_provider_did_not_sign_for_us_is_refused(
    provided: Rest, token: str
) -> None:
    await add(provided, "ada")
    assert (await exchange(provided, {"token": token})).status == 401


async def test_who_is_in_two_tenants_says_which(provided: Rest, pool: Pool) -> None:
    await AgentStore(pool).ensure_tenant("another")
    own, other = await add(provided, "ada"), await add(provided, "ada", tenant="another")
    assert (await exchange(provided, {"token": signed()})).status == 403
    by_claim = await exchange(provided, {"token": signed(tenantId="another")})
    assert by_claim.body["user"]["id"] == other
    by_body = await exchange(provided, {"token": signed(), "tenantId": provided.tenant})
    assert by_body.body["user"]["id"] == own
    # What the provider says comes first.
    both = {"token": signed(tenantId="another"), "tenantId": provided.tenant}
    assert (await exchange(provided, both)).body["user"]["id"] == other


async def test_who_was_stopped_or_has_another_address_is_not_let_in(provided: Rest) -> None:
    user = await add(provided, "ada")
    assert (await exchange(provided, {"token": signed()})).status == 200
    path = f"/api/v1/users/{user}"
    moved = await provided.ask("PATCH", path, {"email": "new@example.org"})
    assert moved.status == 200
    assert (await exchange(provided, {"token": signed()})).status == 403
    assert (await exchange(provided, {"token": signed(email="new@example.org")})).status == 200
    assert (await provided.ask("PATCH", path, {"isActive": False})).status == 200
    assert (await exchange(provided, {"token": signed()})).status == 403


async def test_two_exchanges_at_once_link_one_user(provided: Rest) -> None:
    await add(provided, "ada")
    answers = await asyncio.gather(*(exchange(provided, {"token": signed()}) for _ in range(4)))
    assert {answer.status for answer in answers} <= {200, 409}
    assert 200 in {answer.status for answer in answers}
    assert len(await journal(provided, "user.linked")) == 1
    assert (await exchange(provided, {"token": signed()})).status == 200


async def test_without_an_identity_provider_there_is_no_exchange(rest: Rest) -> None:
    await add(rest, "ada")
    answer = await exchange(rest, {"token": signed()})
    assert (answer.status, answer.body["message"]) == (401, "no identity provider is configured")
    assert (await login(rest, "ada")).status == 200
