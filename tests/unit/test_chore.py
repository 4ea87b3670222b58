"""A chore goes on, whatever it meets."""

from __future__ import annotations

import asyncio

import pytest

from iotistica import metrics
from iotistica.api.chore import Chore
from iotistica.errors import StoreUnavailable


class Work:
    """Raises these errors, one a turn; `over` is set at the first turn without one."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.said: list[str | None] = []
        self.over = asyncio.Event()
        self.chore = Chore("tidy up", 0.001, self.turn)

    async def turn(self) -> None:
        self.said.append(self.chore.error)
        if self.errors:
            raise self.errors.pop(0)
        if len(self.said) > 1 and self.chore.error is None:
            self.over.set()


async def run(work: Work) -> None:
    task = asyncio.create_task(work.chore.repeat())
    async with asyncio.timeout(10):
        await work.over.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def defects() -> float:
    return metrics.CHORE_DEFECTS.labels("tidy up")._value.get()


async def test_a_defect_is_counted_said_and_tried_again() -> None:
    before = defects()
    work = Work(ValueError("no such thing"), KeyError("x"))
    await run(work)
    assert work.said[:4] == [
        None,
        "the chore 'tidy up' meets a defect: ValueError('no such thing')",
        "the chore 'tidy up' meets a defect: KeyError('x')",
        None,
    ]
    assert defects() - before == 2


async def test_a_server_that_is_away_is_no_defect() -> None:
    before = defects()
    work = Work(StoreUnavailable("PostgreSQL is away"))
    await run(work)
    assert set(work.said) == {None}
    assert defects() == before
