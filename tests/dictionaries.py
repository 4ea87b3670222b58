"""Dictionaries given to the platform without a broker."""

from __future__ import annotations

from typing import Any

from iotistica.dictionaries.library import Library, News
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.streams import Streams

NAMES = ["timestamp", "deviceName", "metric", "value"]


def library(pool: Pool, streams: Streams, **changes: Any) -> Library:
    """One of a process of its own."""
    return Library.of(Settings(**changes), pool, streams)


async def learn(
    pool: Pool,
    streams: Streams,
    tenant: str,
    agent: str,
    *,
    version: int = 1,
    fields: Any = None,
    **parts: Any,
) -> None:
    """Take a full dictionary of an agent."""
    document = {"version": version, "fields": NAMES if fields is None else fields, **parts}
    news = News(tenant=tenant, agent=agent, document=document, is_delta=False)
    assert await library(pool, streams).keep([news]) == [None]
