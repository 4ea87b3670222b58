"""A letter's payload, explained as far as it can be decoded now."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import orjson

from iotistica import ledger
from iotistica._native import Context, explain, parse_topic
from iotistica.dictionaries.library import Library
from iotistica.limits import limits_of
from iotistica.settings import Settings
from iotistica.streams import Letter

_NOBODY = "00000000-0000-0000-0000-000000000000"


async def explained(letter: Letter, library: Library, settings: Settings) -> dict[str, Any]:
    """What each stage makes of the payload, with the dictionaries of its agent; the agent counts as
    known. Raises `StoreUnavailable`.
    """
    topic = letter.described()["topic"]
    tenant, agent = letter.tenant, _NOBODY
    with suppress(ValueError):
        parsed = parse_topic(topic or "")
        tenant, agent = parsed.tenant, parsed.agent
    context = Context(tenant, limits_of(settings), key_compaction=settings.key_compaction)
    if ledger.agent_of(agent) != ledger.NOBODY:
        # Of the letter's tenant: the topic may be one of another.
        for held in await library.all(letter.tenant, agent):
            context.put_dictionary(agent, held.version, held.json)
    now_ms = time.time_ns() // 1_000_000
    return dict(orjson.loads(explain(topic, letter.dead.data, context, now_ms=now_ms)))
