"""`meta/dictionary` and its deltas: what key-compacted telemetry is read with (reference 2)."""

from __future__ import annotations

from collections.abc import Sequence

from iotistica import log
from iotistica.api.families.family import Incoming, Refusal
from iotistica.dictionaries import Gap
from iotistica.dictionaries.library import Library, News
from iotistica.dictionaries.shelf import Arrival
from iotistica.errors import StoreUnavailable

_DELTA = {"dictionary": False, "dictionary/delta": True}
"""By the rest of the topic."""

_occasional = log.Occasional(log.get(__name__))


class Dictionaries:
    """Keeps dictionaries, and asks agents for one where a delta does not continue what is known.

    Every control process hears all of them and in their order; who comes later finds that nothing
    changes. Retained messages reach no shared subscription.
    """

    filters = ("meta/#",)
    shared = False

    def __init__(self, library: Library) -> None:
        self._library = library

    async def take(self, messages: Sequence[Incoming]) -> Sequence[Refusal]:
        """Keep what came; other messages below `meta` are nobody's."""
        ours = [message for message in messages if message.rest in _DELTA]
        news = [_news(message) for message in ours]
        refusals, lacking = [], {}
        for message, problem in zip(ours, await self._library.keep(news), strict=True):
            if isinstance(problem, Gap):
                lacking[message.agent] = message
                _occasional.warning("a delta lacks its base", agent=message.agent, why=str(problem))
            elif problem is not None:
                refusals.append(Refusal(message, "invalid_dictionary", str(problem)))
        for message in lacking.values():
            await self._ask(message)
        return refusals

    async def _ask(self, message: Incoming) -> None:
        try:
            await self._library.ask(
                message.tenant, message.agent, expected=message.value["version"]
            )
        except StoreUnavailable as error:
            # Ingestion asks as soon as a message needs what is missing.
            _occasional.warning("an agent was not asked for its dictionary", error=str(error))


def _news(message: Incoming) -> News:
    return News(
        tenant=message.tenant,
        agent=message.agent,
        document=message.value,
        is_delta=_DELTA[message.rest],
        arrival=Arrival.RETAINED if message.retained else Arrival.FRESH,
    )
