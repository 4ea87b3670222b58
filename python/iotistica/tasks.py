"""The end of tasks that run until they are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_S = 0.2


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel them and wait until they have ended, whatever by.

    Again and again: before Python 3.12 `asyncio.wait_for`, which redis-py uses, may swallow a
    cancellation that comes as its future is done.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=_AGAIN_S)
        for task in done:
            if not task.cancelled():
                task.exception()
