"""Slots: never more than there are, first come first served, and nothing leaks."""

from __future__ import annotations

import asyncio

import pytest

from iotistica.ingestion.slots import Slots


async def test_who_waits_is_served_in_turn_and_before_a_free_slot_is_taken() -> None:
    slots = Slots(1)
    slots.take()
    order: list[int] = []

    async def work(number: int) -> None:
        async with slots:
            order.append(number)

    waiting = [asyncio.create_task(work(number)) for number in range(3)]
    await asyncio.sleep(0)
    slots.release()
    assert not slots.is_free
    with pytest.raises(RuntimeError):
        slots.take()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2]
    assert slots.is_free


async def test_growing_lets_the_waiting_in_and_shrinking_takes_none_away() -> None:
    slots = Slots(1)
    slots.take()
    waiting = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    slots.resize(2)
    await waiting
    assert slots.taken == 2
    slots.resize(1)
    slots.release()
    assert not slots.is_free
    slots.release()
    assert slots.is_free


async def test_who_gives_up_waiting_takes_nothing_with_it() -> None:
    slots = Slots(1)
    slots.take()
    first, second = (asyncio.create_task(slots.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    slots.release()
    await second
    assert slots.taken == 1
    third = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    slots.release()  # it is given the slot, and cancelled before it runs
    third.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third
    assert slots.taken == 0
    assert slots.is_free


async def test_a_free_slot_is_told() -> None:
    slots, told = Slots(1), []
    slots.on_free = lambda: told.append(slots.is_free)
    slots.take()
    slots.release()
    slots.resize(0)
    assert told == [True]
