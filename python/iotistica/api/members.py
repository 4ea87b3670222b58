"""Which tenant an agent belongs to, remembered."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from iotistica import ledger

_KNOWN_S = 60.0
_UNKNOWN_S = 2.0
_MOST = 500_000
_NEVER_ASKED: tuple[str | None, float] = (None, float("-inf"))


class Members:
    """Cache of the tenants of agents. One that is gone is forgotten when somebody says so, at the
    latest within a minute; a new one is noticed within two seconds."""

    def __init__(
        self,
        load: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._clock = clock
        self._answers: dict[str, tuple[str | None, float]] = {}

    async def look_up(self, agents: Iterable[str]) -> dict[str, str]:
        """The tenant of each of these agents that exists. Raises `StoreUnavailable`."""
        now = self._clock()
        known: dict[str, str] = {}
        asked = []
        for agent in set(agents):
            tenant, expires_at = self._answers.get(agent, _NEVER_ASKED)
            if expires_at > now:
                if tenant is not None:
                    known[agent] = tenant
            elif ledger.agent_of(agent) != ledger.NOBODY:
                asked.append(agent)
        if asked:
            found = await self._load(asked)
            if len(self._answers) + len(asked) > _MOST:
                self._answers.clear()
            for agent in asked:
                tenant = found.get(agent)
                self._answers[agent] = (tenant, now + (_KNOWN_S if tenant else _UNKNOWN_S))
            known |= found
        return known

    def forget(self, agents: Iterable[str]) -> None:
        """Ask again for these."""
        for agent in agents:
            self._answers.pop(agent, None)
