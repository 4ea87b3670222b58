"""What a process remembers, and what it must not."""

from __future__ import annotations

import asyncio

import pytest

from iotistica.api.remembered import Remembered
from iotistica.errors import StoreUnavailable


class Store:
    """Answers when it is told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {"a": "one", "b": "two", "c": "three"}
        self.asked = 0
        self.is_away = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.now = 100.0

    async def load(self, key: str) -> str | None:
        self.asked += 1
        value = self.values.get(key)
        await self.may_answer.wait()
        if self.is_away:
            raise StoreUnavailable("away")
        return value

    def remembered(self, most: int = 10) -> Remembered[str, str]:
        return Remembered(self.load, lifetime_s=10, most=most, clock=lambda: self.now)


async def test_it_is_loaded_once_until_it_expires() -> None:
    store = Store()
    known = store.remembered()
    assert [await known.get("a") for _ in range(3)] == ["one"] * 3
    assert store.asked == 1
    store.values["a"] = "new"
    store.now += 9.9
    assert await known.get("a") == "one"
    store.now += 0.2
    assert await known.get("a") == "new"


async def test_who_asks_at_the_same_time_waits_for_one_answer() -> None:
    store = Store()
    known = store.remembered()
    store.may_answer.clear()
    asking = [asyncio.create_task(known.get("a")) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    store.may_answer.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == ["one"] * 4
    assert store.asked == 1


async def test_nothing_is_remembered_of_what_does_not_exist() -> None:
    store = Store()
    known = store.remembered()
    assert await known.get("x") is None
    store.values["x"] = "made"
    assert await known.get("x") == "made"


async def test_what_was_read_before_a_drop_is_not_remembered() -> None:
    store = Store()
    known = store.remembered()
    store.may_answer.clear()
    early = asyncio.create_task(known.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.values["a"] = "changed"
    known.drop(lambda key, _: key == "a")
    late = asyncio.create_task(known.get("a"))
    await asyncio.sleep(0)
    store.may_answer.set()
    assert (await early, await late) == ("one", "changed")
    assert await known.get("a") == "changed"


async def test_only_what_matches_is_dropped() -> None:
    store = Store()
    known = store.remembered()
    await known.get("a")
    await known.get("b")
    known.drop(lambda _, value: value == "one")
    await known.get("a")
    await known.get("b")
    assert store.asked == 3


async def test_the_oldest_goes_where_there_is_no_room() -> None:
    store = Store()
    known = store.remembered(most=2)
    for key in "abc":
        await known.get(key)
    await known.get("b")
    assert store.asked == 3
    await known.get("a")
    assert store.asked == 4


async def test_an_outage_is_told_to_all_and_not_remembered() -> None:
    store = Store()
    known = store.remembered()
    store.is_away = True
    answers = await asyncio.gather(*(known.get("a") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    store.is_away = False
    assert await known.get("a") == "one"
    store.is_away = True
    with pytest.raises(StoreUnavailable):
        await known.get("b")
