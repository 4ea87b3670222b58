"""Tasks that are told to end."""

from __future__ import annotations

import asyncio

from iotistica.tasks import end


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end([task])
    assert task.cancelled()
    assert swallowed == 3


async def test_an_error_on_the_way_out_is_no_complaint() -> None:
    async def clumsy() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise RuntimeError("a defect")

    task = asyncio.create_task(clumsy())
    await asyncio.sleep(0)
    await end([task])
    assert isinstance(task.exception(), RuntimeError)
