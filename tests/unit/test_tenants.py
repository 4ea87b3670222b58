"""The cache of tenants: how often the database is asked, and what it decides."""

from __future__ import annotations

import asyncio

from iotistica.api.tenants import Tenants
from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable


class Database:
    def __init__(self, *tenants: str) -> None:
        self.tenants = set(tenants)
        self.away = False
        self.asked = 0

    async def load(self) -> set[str]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("PostgreSQL is away")
        return set(self.tenants)


async def test_a_known_tenant_is_never_asked_for_again() -> None:
    database = Database("a")
    tenants = Tenants(database.load, refresh_s=0)
    assert await tenants.holds("a")
    assert await tenants.holds("a")
    assert database.asked == 1


async def test_a_crowd_of_strangers_costs_one_question() -> None:
    database = Database("a")
    tenants = Tenants(database.load, refresh_s=10)
    answers = await asyncio.gather(*(tenants.holds(f"stranger-{n}") for n in range(50)))
    assert not any(answers)
    assert database.asked == 1
    assert tenants.is_unknown("stranger-7")
    assert not tenants.is_unknown("a")


async def test_an_answer_from_before_the_question_does_not_count() -> None:
    database = Database()
    tenants = Tenants(database.load, refresh_s=0)
    assert not await tenants.holds("young")
    database.tenants.add("young")
    assert await tenants.holds("young")


async def test_while_the_database_is_away_nobody_is_refused() -> None:
    database = Database("a")
    database.away = True
    tenants = Tenants(database.load, refresh_s=0)
    waiting = asyncio.create_task(tenants.holds("a"))
    while database.asked < 2:
        await asyncio.sleep(0.001)
    assert not waiting.done()
    assert tenants.error == "PostgreSQL is away"
    database.away = False
    assert await waiting
    assert tenants.error is None


def test_pauses_double_up_to_a_bound_with_jitter() -> None:
    longest = Backoff(0.1, 1.0, jitter=lambda: 1.0)
    assert [round(longest.next_s(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    longest.reset()
    assert longest.next_s() == 0.1
    shortest = Backoff(0.1, 1.0, jitter=lambda: 0.0)
    assert [round(shortest.next_s(), 3) for _ in range(2)] == [0.05, 0.1]
    assert all(shortest.next_s() == 0.5 for _ in range(1000) if shortest.next_s() == 0.5)
