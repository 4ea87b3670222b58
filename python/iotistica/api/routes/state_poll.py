"""`GET /api/v1/device/:uuid/state`: what an agent should be (reference section 5.3)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from iotistica import metrics
from iotistica.api.conditional import matches
from iotistica.api.express import Header
from iotistica.api.http import JSON_TYPE, Reply, Request
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.api.table import Meter
from iotistica.api.target_cache import Known, TargetCache, quoted
from iotistica.errors import TooMany
from iotistica.ops import new_request_id, request_id
from iotistica.settings import Settings

PATH = "/api/v1/device/:uuid/state"
INTERVAL_HEADER = "x-min-poll-interval"
"""Seconds that an agent should leave between two polls."""
_SHOW_S = 1.0
_MINUTE_S = 60.0
_BEFORE, _AFTER = len("/api/v1/device/"), -len("/state")
_MEMORY = metrics.TARGET_POLLS.labels("memory")
_QUERY = metrics.TARGET_POLLS.labels("query")


class Keys(Protocol):
    """Agents by their keys."""

    def remembered(self, key: str) -> Principal | None:
        """The agent of a key, where memory knows it. Called in any thread; never waits."""


class StatePoll:
    """Answers polls: the route, and its short cut from memory (`Express`)."""

    path = PATH

    def __init__(
        self,
        cache: TargetCache,
        settings: Settings,
        *,
        keys: Keys,
        seen: Callable[..., None],
    ) -> None:
        """`seen` is told the UUIDs of agents that took the short cut."""
        self._cache = cache
        self._keys = keys
        self._seen = seen
        self._interval = f"{settings.poll_min_interval_s:g}"
        self._most = settings.poll_max_per_minute
        self._step_s = _MINUTE_S / self._most
        self._early_s = settings.poll_min_interval_s - self._step_s
        self._meter = Meter(PATH)
        self._answered = 0
        self._early = 0
        self._shown = (0, 0)
        self._polled: set[str] = set()
        self._settling: set[str] = set()

    @route("GET", PATH, agents=True, limit="none", reply=dict[str, Any], errors=(304, 429))
    async def get(self, request: Request, caller: Principal, uuid: str) -> Reply:
        """What the agent should be; 304 where it says by `If-None-Match` that it knows.

        While an operator prepares a change, agents get what was last deployed. The answer is
        `{uuid: {apps, config, version, needs_deployment, last_deployed_at}}`.
        """
        agent = caller.id
        given = request.headers.get("if-none-match")
        known = self._cache.get(agent)
        if known is not None:
            self._admit(known)
            if given is not None and matches(given, known.etag):
                _MEMORY.inc()
                return self._unchanged(known.etag, known.size)
        _QUERY.inc()
        answer = await self._cache.load(caller.tenant, agent)
        etag = quoted(answer.etag)
        if given is not None and matches(given, etag):
            return self._unchanged(etag, len(answer.body))
        headers = {**JSON_TYPE, "etag": etag, INTERVAL_HEADER: self._interval}
        return Reply(200, answer.body, headers)

    async def run(self) -> None:
        """Keep right what is remembered and what is counted, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._cache.run())
            group.create_task(self._show_often())

    async def _show_often(self) -> None:
        while True:
            self._show()
            await asyncio.sleep(_SHOW_S)

    def answer(self, path: str, header: Header) -> Reply | None:
        """304 from memory, where everything is known and nothing is wrong."""
        given, key = header("if-none-match"), header("x-device-api-key") or _bearer(header)
        if given is None or key is None:
            return None
        caller = self._keys.remembered(key)
        if caller is None or path[_BEFORE:_AFTER] != caller.id:
            return None
        known = self._cache.get(caller.id)
        if known is None or not matches(given, known.etag) or not self._admits(known):
            return None
        self._polled.add(caller.id)
        self._answered += 1
        return self._unchanged(
            known.etag, known.size, request_id(header("x-request-id")) or new_request_id()
        )

    def _show(self) -> None:
        """Tell what the short cut did: there it would cost time, and in its thread not be safe."""
        # Told one round later: the other thread may still hold the set that it looked up before.
        self._seen(*self._settling)
        self._settling, self._polled = self._polled, set()
        answered, early = self._answered, self._early
        self._meter.add(304, answered - self._shown[0])
        _MEMORY.inc(answered - self._shown[0])
        metrics.TARGET_POLLS_EARLY.inc(early - self._shown[1])
        self._shown = answered, early

    def _unchanged(self, etag: str, size: int, identifier: str | None = None) -> Reply:
        headers = {"etag": etag, "x-content-length": str(size), INTERVAL_HEADER: self._interval}
        if identifier is not None:
            headers["x-request-id"] = identifier
        return Reply(304, b"", headers)

    def _admits(self, known: Known) -> bool:
        """Count a poll; whether it is within what an agent may."""
        now, due = time.monotonic(), known.due
        if due < now:
            if now < due + self._early_s:
                self._early += 1
            known.due = now + self._step_s
            return True
        if due > now + _MINUTE_S:
            return False
        self._early += 1
        known.due = due + self._step_s
        return True

    def _admit(self, known: Known) -> None:
        """Raise `TooMany` beyond what an agent may."""
        if not self._admits(known):
            raise TooMany(
                f"the agent polled more than {self._most} times within a minute; "
                f"once in {self._interval} s is enough",
                after_s=max(1, math.ceil(known.due - _MINUTE_S - time.monotonic())),
            )


def _bearer(header: Header) -> str | None:
    scheme, _, token = (header("authorization") or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
