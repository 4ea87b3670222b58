"""Rate limits: right in total over several processes, and no outage without Redis."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from tests.rest import KEY

from iotistica.api.auth import Tokens, issue_token
from iotistica.api.gate import Limits, network
from iotistica.api.http import Request
from iotistica.api.limiter import Limiter
from iotistica.api.route import route, routes_of
from iotistica.api.table import Table
from iotistica.errors import TooMany
from iotistica.settings import Settings
from iotistica.streams.grants import Grants

NOON = 1_800_000_000 // 60 * 60


class Asked:
    """Grants that count how often they are asked."""

    def __init__(self, url: str) -> None:
        self._grants = Grants(url, timeout_s=1)
        self.trips = 0

    async def take(self, key: str, wanted: int, *, most: int, window_s: int) -> int:
        self.trips += 1
        return await self._grants.take(key, wanted, most=most, window_s=window_s)

    async def close(self) -> None:
        await self._grants.close()


class Deployment:
    """Limiters of several processes, whose clock stands still until it is moved."""

    def __init__(self, url: str, processes: int, **options: int) -> None:
        self.now = float(NOON)
        self.grants = Asked(url)
        self.limiters = [
            Limiter(self.grants, processes=processes, clock=lambda: self.now, **options)  # type: ignore[arg-type]
            for _ in range(processes)
        ]

    async def spend(self, process: int, times: int, most: int, key: str = "k") -> int:
        """How many of so many attempts pass."""

        async def attempt() -> int:
            try:
                await self.limiters[process].take("global", key, most)
            except TooMany:
                return 0
            return 1

        return sum(await asyncio.gather(*(attempt() for _ in range(times))))


@pytest.mark.parametrize("most", [1, 2, 3, 10, 17, 100, 300])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
async def test_all_processes_together_give_exactly_the_limit(
    redis_url: str, processes: int, most: int
) -> None:
    deployment = Deployment(redis_url, processes)
    spent = await asyncio.gather(
        *(deployment.spend(process, 2 * most, most) for process in range(processes))
    )
    assert sum(spent) == most
    deployment.now += 60
    assert await deployment.spend(0, 1, most) == 1
    await deployment.grants.close()


@pytest.mark.parametrize(("processes", "alone"), [(1, 300), (2, 225), (4, 189), (8, 174)])
async def test_a_process_that_is_alone_gives_most_of_it(
    redis_url: str, processes: int, alone: int
) -> None:
    deployment = Deployment(redis_url, processes)
    assert await deployment.spend(0, 600, 300) == alone
    await deployment.grants.close()


async def test_who_is_modest_costs_no_round_trip(redis_url: str) -> None:
    deployment = Deployment(redis_url, 4)
    for key in range(100):
        assert await deployment.spend(0, 37, 300, str(key)) == 37
    assert deployment.grants.trips == 0
    # Neither does who has nothing left.
    await deployment.spend(0, 1000, 300, "flood")
    assert deployment.grants.trips < 25
    trips = deployment.grants.trips
    assert await deployment.spend(0, 1000, 300, "flood") == 0
    assert deployment.grants.trips == trips
    await deployment.grants.close()


async def test_memory_is_bounded_and_the_limit_stays(redis_url: str) -> None:
    deployment = Deployment(redis_url, 2, most_keys=10)
    for key in range(1000):
        await deployment.spend(0, 1, 20, str(key))
    assert len(deployment.limiters[0]._purses) == 10
    # One that is not remembered has what lies in Redis.
    assert await deployment.spend(0, 40, 20, "late") == 10
    await deployment.grants.close()


async def test_without_redis_each_process_has_its_part(redis_url: str) -> None:
    deployment = Deployment("redis://127.0.0.1:1/0", 4)
    spent = [await deployment.spend(process, 300, 100) for process in range(4)]
    assert spent == [25, 25, 25, 25]
    assert [await deployment.spend(process, 5, 1) for process in range(4)] == [0, 0, 0, 0]
    deployment.now += 60
    assert await deployment.spend(0, 5, 1) == 1
    await deployment.grants.close()


async def test_a_redis_that_hangs_delays_one_request_a_second() -> None:
    # Takes connections and never reads.
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    grants = Grants(f"redis://127.0.0.1:{port}/0", timeout_s=0.1)
    limiter = Limiter(grants, processes=1)
    started = asyncio.get_running_loop().time()
    for key in range(20):
        for _ in range(6):
            await limiter.take("auth", str(key), 10)
    assert asyncio.get_running_loop().time() - started < 1
    await grants.close()
    silent.close()


class Part:
    @route("GET", "/public", public=True)
    async def public(self) -> str:
        """Say hello."""
        return "hello"

    @route("POST", "/login", public=True, limit="auth")
    async def login(self) -> str:
        """Say hello."""
        return "hello"

    @route("GET", "/mine", needs="data:read")
    async def mine(self) -> str:
        """Say hello."""
        return "hello"

    @route("GET", "/free", public=True, limit="none")
    async def free(self) -> str:
        """Say hello."""
        return "hello"


@pytest.fixture
async def table(redis_url: str) -> AsyncIterator[Table]:
    settings = Settings.load(rate_limit_global=20)
    limiter = Limiter(Grants(redis_url, timeout_s=1), processes=1, clock=lambda: NOON + 20.5)
    yield Table(routes_of(Part()), Tokens(KEY.encode()), Limits(limiter, settings))
    await limiter.close()


async def ask(
    table: Table, target: str, times: int, *, address: str = "192.0.2.1", user: str | None = None
) -> Counter[int]:
    method, _, path = target.partition(" ")
    headers = {"x-forwarded-for": address}
    if user is not None:
        headers["authorization"] = f"Bearer {issue_token(KEY, tenant='t', user_id=user)}"
    request = Request(method=method, path=path, headers=headers)
    return Counter([(await table.answer(request)).status for _ in range(times)])


async def test_logins_are_limited_by_address(table: Table) -> None:
    assert await ask(table, "POST /login", 15) == {200: 10, 429: 5}
    assert await ask(table, "POST /login", 15, address="192.0.2.2") == {200: 10, 429: 5}
    assert await ask(table, "GET /free", 100) == {200: 100}


async def test_callers_behind_one_address_are_counted_one_by_one(table: Table) -> None:
    for user in ("1", "2", "3"):
        assert await ask(table, "GET /mine", 25, user=user) == {200: 20, 429: 5}
    assert await ask(table, "GET /public", 25) == {200: 20, 429: 5}


async def test_who_tries_credentials_is_counted_by_address(table: Table) -> None:
    assert await ask(table, "GET /mine", 25) == {401: 20, 429: 5}
    assert await ask(table, "GET /mine", 1, address="192.0.2.2") == {401: 1}


async def test_the_answer_says_when_to_try_again(table: Table) -> None:
    await ask(table, "POST /login", 10)
    headers = {"x-forwarded-for": "192.0.2.1"}
    reply = await table.answer(Request(method="POST", path="/login", headers=headers))
    assert reply.status == 429
    assert reply.headers["retry-after"] == "40"
    assert reply.body == (
        b'{"error":"Too many requests","message":"more than 10 requests a minute (auth)",'
        b'"retryAfter":40}'
    )


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("x" * 100, "x" * 64),
    ],
)
def test_an_address_of_ipv6_counts_with_its_network(address: str, counted: str) -> None:
    assert network(address) == counted
