"""Login, refresh, logout and passwords, through the whole API."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import orjson
import pytest
from argon2 import PasswordHasher
from tests.people import PASSWORD, add, bearing, journal, login, someone
from tests.rest import Answer, Rest

from iotistica.api.principal import ROLES
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool

OTHER = "another-tenant"


async def refresh(rest: Rest, token: str, **headers: str) -> Answer:
    body = {"refreshToken": token}
    return await rest.ask("POST", "/api/v1/auth/refresh", body, role=None, headers=headers)


async def me(rest: Rest, answer: Answer) -> Answer:
    return await rest.ask("GET", "/api/v1/auth/me", headers=bearing(answer))


async def test_a_login_answers_in_both_forms_of_the_reference(rest: Rest) -> None:
    user = await add(rest, "ada", "operator")
    answer = await login(rest, "ada")
    assert answer.status == 200
    body: dict[str, Any] = answer.body
    shown = body.pop("user")
    access, renewal = body.pop("accessToken"), body.pop("refreshToken")
    assert body == {
        "message": "Login successful",
        "data": {
            "accessToken": access,
            "refreshToken": renewal,
            "mustChangePassword": False,
            "user": shown,
        },
        "expiresIn": 900,
        "mustChangePassword": False,
        "tokenType": "Bearer",
    }
    assert shown.pop("lastLoginAt") is None  # before this one
    assert shown == {
        "id": user,
        "username": "ada",
        "email": "ada@example.org",
        "role": "operator",
        "fullName": "",
        "tenantId": rest.tenant,
        "permissions": sorted(ROLES["operator"]),
        "mustChangePassword": False,
    }
    mine = await rest.ask("GET", "/api/v1/auth/me", headers={"authorization": f"Bearer {access}"})
    assert mine.status == 200
    assert mine.body["user"] == mine.body["data"]
    assert mine.body["user"]["id"] == user


@pytest.mark.parametrize(
    "body",
    [
        {"email": "Ada@Example.org", "password": PASSWORD},
        {"username": "ada@example.org", "password": PASSWORD},
        {"username": " ADA ", "password": PASSWORD},
    ],
)
async def test_a_name_or_an_address_in_either_field_logs_in(
    rest: Rest, body: dict[str, str]
) -> None:
    await add(rest, "ada")
    assert (await rest.ask("POST", "/api/v1/auth/login", body, role=None)).status == 200


async def test_unknown_user_wrong_password_and_inactive_user_answer_the_same(
    rest: Rest, pool: Pool
) -> None:
    user = await add(rest, "ada")
    idle = await add(rest, "idle")
    await pool.execute("UPDATE users SET is_active = false WHERE id = $1", idle)
    answers = [
        await login(rest, "nobody"),
        await login(rest, "ada", "wrong horse"),
        await login(rest, "idle"),
        await login(rest, "ada", tenantId="elsewhere"),
    ]
    assert [answer.status for answer in answers] == [401] * 4
    assert len({orjson.dumps(answer.body) for answer in answers}) == 1
    entries = {entry["subject"]: entry for entry in await journal(rest, "user.login_failed")}
    assert set(entries) == {f"user/{idle}", f"user/{user}"}
    entry = entries[f"user/{user}"]
    assert entry == {
        **entry,
        "severity": "warning",
        "actorType": "system",
        "actorName": "unknown",
        "ipAddress": "192.0.2.1",
    }


async def test_a_name_in_two_tenants_needs_the_tenant(rest: Rest, pool: Pool) -> None:
    await AgentStore(pool).ensure_tenant(OTHER)
    await add(rest, "ada")
    theirs = await add(rest, "ada", tenant=OTHER)
    assert (await login(rest, "ada")).status == 401
    assert (await login(rest, "ada", tenantId=OTHER)).body["user"]["id"] == theirs
    headers = {"x-tenant-id": OTHER}
    body = {"username": "ada", "password": PASSWORD}
    answer = await rest.ask("POST", "/api/v1/auth/login", body, role=None, headers=headers)
    assert answer.body["user"]["tenantId"] == OTHER


async def test_an_account_is_closed_for_the_minute_after_ten_failures(rest: Rest) -> None:
    await add(rest, "ada")
    await login(rest, "ada")  # successes do not count
    for name in ("ada", "ada@example.org") * 5:
        assert (await login(rest, name, "wrong horse")).status == 401
    answer = await login(rest, "ADA", tenantId=rest.tenant)
    assert answer.status == 429
    assert answer.body["error"] == "Too many requests"
    assert 1 <= answer.body["retryAfter"] <= 60
    assert answer.headers["retry-after"] == str(answer.body["retryAfter"])


async def test_an_account_that_does_not_exist_is_closed_as_well(rest: Rest) -> None:
    statuses = [(await login(rest, "nobody")).status for _ in range(11)]
    assert statuses == [401] * 10 + [429]


async def test_an_old_hash_is_replaced_at_login(rest: Rest, pool: Pool) -> None:
    user = await add(rest, "ada")
    old = PasswordHasher(memory_cost=8, time_cost=1, parallelism=1).hash(PASSWORD)
    await pool.execute("UPDATE users SET password_hash = $2 WHERE id = $1", user, old)
    assert (await login(rest, "ada")).status == 200
    stored = await pool.fetchval("SELECT password_hash FROM users WHERE id = $1", user)
    assert stored.startswith("$argon2id$v=19$m=64,t=2,p=1$")
    assert (await login(rest, "ada")).status == 200


async def test_refresh_gives_a_new_pair(rest: Rest) -> None:
    await add(rest, "ada")
    first = await login(rest, "ada")
    second = await refresh(rest, first.body["refreshToken"])
    assert second.status == 200
    assert second.body["message"] == "Token refreshed"
    assert second.body["refreshToken"] != first.body["refreshToken"]
    assert (await me(rest, second)).status == 200
    assert (await refresh(rest, second.body["refreshToken"])).status == 200


async def test_two_refreshes_at_once_get_the_same_pair(rest: Rest) -> None:
    await add(rest, "ada")
    first = await login(rest, "ada")
    token = first.body["refreshToken"]
    answers = await asyncio.gather(*(refresh(rest, token) for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    assert len({answer.body["refreshToken"] for answer in answers}) == 1
    assert (await refresh(rest, answers[0].body["refreshToken"])).status == 200


@pytest.mark.parametrize("headers", [{"x-forwarded-for": "203.0.113.9"}, {"user-agent": "thief"}])
async def test_reuse_by_another_client_ends_the_session(
    rest: Rest, headers: dict[str, str]
) -> None:
    user = await add(rest, "ada")
    first = await login(rest, "ada")
    second = await refresh(rest, first.body["refreshToken"])
    stolen = await refresh(rest, first.body["refreshToken"], **headers)
    assert (stolen.status, stolen.body["message"]) == (401, "the refresh token is not valid")
    assert (await refresh(rest, second.body["refreshToken"])).status == 401
    [entry] = await journal(rest, "session.reused")
    assert (entry["severity"], entry["subject"]) == ("critical", f"user/{user}")


async def test_reuse_after_the_grace_time_ends_the_session(rest: Rest, pool: Pool) -> None:
    await add(rest, "ada")
    other = await login(rest, "ada")
    first = await login(rest, "ada")
    second = await refresh(rest, first.body["refreshToken"])
    await pool.execute("UPDATE refresh_tokens SET rotated_at = rotated_at - interval '11 s'")
    assert (await refresh(rest, first.body["refreshToken"])).status == 401
    assert (await refresh(rest, second.body["refreshToken"])).status == 401
    # Another login of the same user is another family.
    assert (await refresh(rest, other.body["refreshToken"])).status == 200


async def test_an_expired_session_is_over(rest: Rest, pool: Pool) -> None:
    await add(rest, "ada")
    token = (await login(rest, "ada")).body["refreshToken"]
    await pool.execute("UPDATE refresh_tokens SET expires_at = now()")
    assert (await refresh(rest, token)).status == 401


@pytest.mark.parametrize("token", ["", "iotrt_", "iotrt_AAAA", "x" * 100, "iotrt_\u00e4", "a.b.c"])
async def test_a_forged_refresh_token_is_refused(rest: Rest, token: str) -> None:
    assert (await refresh(rest, token)).status == 401


async def test_an_access_token_is_no_refresh_token_nor_the_other_way(rest: Rest) -> None:
    await add(rest, "ada")
    first = await login(rest, "ada")
    assert (await refresh(rest, first.body["accessToken"])).status == 401
    headers = {"authorization": f"Bearer {first.body['refreshToken']}"}
    assert (await rest.ask("GET", "/api/v1/auth/me", headers=headers)).status == 401


async def test_logout_ends_the_session(rest: Rest) -> None:
    user = await add(rest, "ada")
    body = {"refreshToken": (await login(rest, "ada")).body["refreshToken"]}
    for _ in range(2):
        answer = await rest.ask("POST", "/api/v1/auth/logout", body, role=None)
        assert (answer.status, answer.body) == (200, {"message": "Logged out successfully"})
    assert (await refresh(rest, body["refreshToken"])).status == 401
    [entry] = await journal(rest, "user.logged_out")
    assert (entry["actorType"], entry["actorId"], entry["actorName"]) == ("user", str(user), "ada")


async def test_nothing_of_a_token_or_password_is_stored(
    rest: Rest, connection: asyncpg.Connection
) -> None:
    await add(rest, "ada")
    first = await login(rest, "ada")
    secrets = [first.body["refreshToken"].removeprefix("iotrt_")[:20], PASSWORD]
    for table in ("users", "refresh_tokens", "audit_logs"):
        rows = await connection.fetch(f"SELECT t::text AS row FROM {table} t")
        assert rows
        assert not [row for row in rows for secret in secrets if secret in row["row"]]


async def change(rest: Rest, who: Answer, current: str, new: str) -> Answer:
    body = {"currentPassword": current, "newPassword": new}
    return await rest.ask("POST", "/api/v1/auth/change-password", body, headers=bearing(who))


async def test_a_changed_password_ends_every_session_and_token(rest: Rest) -> None:
    await add(rest, "ada")
    first, second = await login(rest, "ada"), await login(rest, "ada")
    changed = await change(rest, first, PASSWORD, "battery staple")
    assert changed.status == 200
    for old in (first, second):
        assert (await me(rest, old)).status == 401
        assert (await refresh(rest, old.body["refreshToken"])).status == 401
    assert (await me(rest, changed)).status == 200
    assert (await refresh(rest, changed.body["refreshToken"])).status == 200
    assert (await login(rest, "ada")).status == 401
    assert (await login(rest, "ada", "battery staple")).status == 200
    [entry] = await journal(rest, "user.password_changed")
    assert (entry["before"], entry["after"]) == (None, None)


@pytest.mark.parametrize(
    ("current", "new", "status", "message"),
    [
        ("wrong", "battery staple", 403, "field currentPassword is not the password"),
        (PASSWORD, "short", 400, 'field newPassword is "short": expected str of length >= 8'),
        (PASSWORD, PASSWORD, 400, "field newPassword is the present password"),
    ],
)
async def test_a_password_is_not_changed_to_anything(
    rest: Rest, current: str, new: str, status: int, message: str
) -> None:
    await add(rest, "ada")
    first = await login(rest, "ada")
    answer = await change(rest, first, current, new)
    assert answer.status == status
    assert answer.body["message"].startswith(message)
    assert (await me(rest, first)).status == 200


async def test_a_reset_password_must_be_changed_before_anything_else(rest: Rest) -> None:
    user = await add(rest, "ada", "admin")
    before = await login(rest, "ada")
    admin = await someone(rest, "grace", "admin")
    body = {"userId": user, "newPassword": "temporary 1"}
    answer = await rest.ask("POST", "/api/v1/auth/reset-password", body, headers=admin)
    assert (answer.status, answer.body) == (200, {"message": "Password reset"})
    assert (await me(rest, before)).status == 401
    given = await login(rest, "ada", "temporary 1")
    assert given.body["mustChangePassword"] is True
    refused = await rest.ask("GET", "/api/v1/users", headers=bearing(given))
    assert refused.status == 403
    assert refused.body["message"].startswith("the password must be changed first")
    assert (await me(rest, given)).status == 200
    changed = await change(rest, given, "temporary 1", "my own words")
    assert changed.body["mustChangePassword"] is False
    assert (await rest.ask("GET", "/api/v1/users", headers=bearing(changed))).status == 200


async def test_a_password_that_was_reset_meanwhile_is_not_changed(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await add(rest, "ada")
    first = await login(rest, "ada")
    verify, admin = rest.identity.passwords.verify, await someone(rest, "grace", "admin")

    async def slow(stored: str | None, password: str) -> Any:
        verdict = await verify(stored, password)
        body = {"userId": user, "newPassword": "temporary 1"}
        await rest.ask("POST", "/api/v1/auth/reset-password", body, headers=admin)
        return verdict

    monkeypatch.setattr(rest.identity.passwords, "verify", slow)
    answer = await change(rest, first, PASSWORD, "battery staple")
    monkeypatch.undo()
    assert answer.status == 409
    assert (await login(rest, "ada", "battery staple")).status == 401
    assert (await login(rest, "ada", "temporary 1")).status == 200


async def test_nobody_resets_the_password_of_somebody_who_may_do_more(
    rest: Rest, pool: Pool
) -> None:
    await AgentStore(pool).ensure_tenant(OTHER)
    owner = await add(rest, "olga", "owner")
    theirs = await add(rest, "ada", tenant=OTHER)
    admin = await someone(rest, "grace", "admin")
    body = {"userId": owner, "newPassword": "taken over"}
    answer = await rest.ask("POST", "/api/v1/auth/reset-password", body, headers=admin)
    assert answer.status == 403
    for user in (theirs, 10**12):
        body = {"userId": user, "newPassword": "taken over"}
        answer = await rest.ask("POST", "/api/v1/auth/reset-password", body, headers=admin)
        assert answer.status == 404
        assert answer.body["message"] == f"user {user} does not exist"


async def test_a_token_that_names_no_number_counts_as_it_stands(rest: Rest) -> None:
    answer = await rest.ask("GET", "/api/v1/auth/me", role="manager")
    assert answer.body["user"]["id"] == "development"
    assert answer.body["user"]["role"] == "manager"
    body = {"currentPassword": "x", "newPassword": "long enough"}
    assert (await rest.ask("POST", "/api/v1/auth/change-password", body)).status == 403
