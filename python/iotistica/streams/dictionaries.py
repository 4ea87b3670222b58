"""The current dictionaries of agents as the reference keeps them, and who was asked for one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from redis.asyncio import Redis

from iotistica import keys
from iotistica.dictionaries import Dictionary, Held
from iotistica.dictionaries.dictionary import PARTS
from iotistica.streams.client import execute, unavailable

_TTL_S = 30 * 86_400
_AT_ONCE = 256

# Several processes write what each has just committed; the last commit must stay.
_PUT = """
local serial = tonumber(ARGV[2])
if tonumber(redis.call('GET', KEYS[#KEYS]) or '-1') > serial then return 0 end
for i = 1, #KEYS - 1 do redis.call('SET', KEYS[i], ARGV[i + 2], 'EX', ARGV[1]) end
redis.call('SET', KEYS[#KEYS], ARGV[2], 'EX', ARGV[1])
return 1
"""


class Dictionaries:
    """A cache: PostgreSQL has them all. Every method raises `StoreUnavailable`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put(self, given: Sequence[tuple[str, Dictionary, int]]) -> None:
        """Keep dictionaries for a month, each unless one with a higher serial is there."""
        for first in range(0, len(given), _AT_ONCE):
            pipeline = self._redis.pipeline(transaction=False)
            for agent, dictionary, serial in given[first : first + _AT_ONCE]:
                parts = dictionary.parts()
                names = [*_names(agent), keys.dictionary_serial(agent)]
                values = (parts[suffix] for suffix in PARTS)
                pipeline.eval(_PUT, len(names), *names, _TTL_S, serial, *values)
            with unavailable("keep dictionaries"):
                await pipeline.execute()

    async def find(self, agents: Iterable[str]) -> dict[str, Held]:
        """The dictionary of each of these agents that has one here."""
        asked = list(agents)
        found: dict[str, Held] = {}
        for first in range(0, len(asked), _AT_ONCE):
            some = asked[first : first + _AT_ONCE]
            pipeline = self._redis.pipeline(transaction=False)
            for agent in some:
                pipeline.mget(_names(agent))
            with unavailable("read dictionaries"):
                replies = await pipeline.execute()
            for agent, values in zip(some, replies, strict=True):
                if held := Held.of(dict(zip(PARTS, values, strict=True))):
                    found[agent] = held
        return found

    async def forget(self, agents: Iterable[str]) -> None:
        """Remove the dictionaries of agents that are gone: who registers under such a name may be
        another's."""
        names = [name for agent in agents for name in _names(agent)]
        for first in range(0, len(names), _AT_ONCE):
            with unavailable("forget dictionaries"):
                await execute(self._redis, "DEL", *names[first : first + _AT_ONCE])

    async def may_ask(self, agent: str, *, every_s: float) -> bool:
        """Whether nobody has asked the agent for its dictionary for so long; counts as asking."""
        name, ttl_ms = keys.dictionary_asked(agent), max(int(every_s * 1000), 1)
        with unavailable("note who was asked for a dictionary"):
            return bool(await execute(self._redis, "SET", name, "1", "NX", "PX", ttl_ms))

    async def not_asked(self, agent: str) -> None:
        """Take that back: the question could not be sent."""
        with unavailable("note who was asked for a dictionary"):
            await execute(self._redis, "DEL", keys.dictionary_asked(agent))


def _names(agent: str) -> list[str]:
    whole = keys.dictionary(agent)
    return [f"{whole}:{suffix}" if suffix else whole for suffix in PARTS]
