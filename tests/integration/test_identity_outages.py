"""Users and keys while a server is away, and key sets from a server that misbehaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from tests.people import add, bearing, login
from tests.rest import KEY, Rest

from iotistica.api.auth import Tokens
from iotistica.api.auth_keys import ProviderTokens
from iotistica.api.identity import Identity
from iotistica.api.route import routes_of
from iotistica.api.routes.roles import Roles
from iotistica.api.routes.sessions import Sessions
from iotistica.api.routes.users import Users
from iotistica.api.table import Table
from iotistica.errors import Denied, StoreUnavailable
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool, open_pool
from iotistica.store.roles import RoleStore

NOWHERE = "redis://127.0.0.1:1/0"
SET = b'{"keys": []}'

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def api(pool: Pool, tenant: str, **settings: Any) -> Rest:
    """The routes of users, with their gate; the caller closes the identity."""
    given = Settings.load(jwt_secret=KEY, password_memory_kib=64, **settings)
    identity = Identity(given, pool, Tokens(KEY.encode()))
    roles = RoleStore(pool)
    parts = (Sessions(identity, given), Users(identity, roles), Roles(identity, roles))
    table = [route for part in parts for route in routes_of(part)]
    identity.start()
    return Rest(Table(table, identity.callers, identity.gate), tenant, identity)


async def test_without_redis_users_log_in_and_are_changed(pool: Pool, tenant: str) -> None:
    await AgentStore(pool).ensure_tenant(tenant)
    rest = await api(pool, tenant, redis_url=NOWHERE)
    user = await add(rest, "ada", "admin")
    answer = await login(rest, "ada")
    assert answer.status == 200
    assert (await rest.ask("PATCH", f"/api/v1/users/{user}", {"isActive": False})).status == 200
    # In this process at once, though nobody else could be told.
    assert (await rest.ask("GET", "/api/v1/users", headers=bearing(answer))).status == 401
    # Limits stay, too: ten a minute for this address, one of which is used up.
    statuses = [(await login(rest, "nobody")).status for _ in range(12)]
    assert statuses == [401] * 9 + [429] * 3
    await rest.identity.close()


async def test_without_postgresql_nobody_is_taken_for_somebody(redis_url: str, tenant: str) -> None:
    away = await open_pool(
        Settings.load(database_url="postgresql://nobody@127.0.0.1:1/x"), application_name="test"
    )
    rest = await api(away, tenant, redis_url=redis_url)
    body = {"username": "ada", "password": "x"}
    answer = await rest.ask("POST", "/api/v1/auth/login", body, role=None)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    key, _, _ = rest.identity.services.make()
    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
        answer = await rest.ask("GET", "/api/v1/roles/owner", headers=headers, role=None)
        assert answer.status == 503
    await rest.identity.close()
    away.terminate()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Answer], Awaitable[str]]]:
    """Serve what a handler answers; the URL."""
    runners: list[web.AppRunner] = []

    async def begin(answer: Answer) -> str:
        application = web.Application()
        application.router.add_get("/keys", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/keys"

    yield begin
    for runner in runners:
        await runner.cleanup()


async def _whole(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=SET)


async def _huge(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=SET.ljust(2 << 20))


async def _broken(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, body=SET)


async def _elsewhere(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/keys?again")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_whole, Denied),
        (_huge, StoreUnavailable),
        (_broken, StoreUnavailable),
        (_elsewhere, StoreUnavailable),
    ],
)
async def test_a_key_set_is_taken_whole_or_not_at_all(
    serve: Callable[[Answer], Awaitable[str]], answer: Answer, error: type[Exception]
) -> None:
    settings = Settings.load(jwks_url=await serve(answer), jwks_issuer="i", jwks_audience="a")
    tokens = ProviderTokens.of(settings)
    assert tokens is not None
    with pytest.raises(error):
        await tokens.verify("a.b.c", "one")
