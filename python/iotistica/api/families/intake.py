"""The messages of one MQTT session, handed to the lanes of their families."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping

from iotistica import keys, log, metrics, tasks
from iotistica._native import InvalidTopic
from iotistica.api.batch import Routes
from iotistica.api.families.family import Family, by_topic
from iotistica.api.families.lane import Desk, Lane
from iotistica.api.shares import share
from iotistica.mqtt import Session
from iotistica.settings import Settings

_occasional = log.Occasional(log.get(__name__))


class Intake:
    """Dies with its session: what it had not committed, the broker sends again on the next."""

    def __init__(
        self, session: Session, families: Mapping[str, Family], desk: Desk, routes: Routes
    ) -> None:
        self._session = session
        self._routes = routes
        self.lanes = {name: Lane(name, session, family, desk) for name, family in families.items()}
        self._work: list[asyncio.Task[None]] = []
        metrics.CONTROL_IN_FLIGHT.set_function(lambda: session.in_flight)

    async def subscribe(self, families: Mapping[str, Family], settings: Settings) -> None:
        """Share the families' topics with the other control processes, as far as they may be."""
        divided = [family for family in families.values() if family.shared]
        for rest in _widest(rest for family in divided for rest in family.filters):
            shared = share(settings, keys.family_filter(rest), keys.CONTROL_GROUP)
            await self._session.subscribe(shared)
        for family in families.values():
            for rest in () if family.shared else family.filters:
                # So that what was published just now is told from what is only retained.
                await self._session.subscribe(keys.family_filter(rest), retain_as_published=False)

    async def run(self) -> None:
        """Take messages until the session is lost. Raises `Disconnected`."""
        receiving = asyncio.create_task(self._receive())
        self._work = [receiving, *(asyncio.create_task(one.run()) for one in self.lanes.values())]
        done, _ = await asyncio.wait(self._work, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def finish(self, grace_s: float) -> None:
        """Commit what was received, for `grace_s` at the most."""
        await tasks.end(self._work[:1])  # what receives
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                for lane in self.lanes.values():
                    await lane.idle()
        await self.cancel()

    async def cancel(self) -> None:
        """Give up what is not finished; the broker still has it."""
        await tasks.end(self._work)

    async def _receive(self) -> None:
        while True:
            messages = await self._session.receive()
            received_ms = time.time_ns() // 1_000_000
            for message in messages:
                try:
                    route = self._routes.get(message.topic) or self._routes.parse(message.topic)
                except InvalidTopic:
                    lane = None
                else:
                    lane = by_topic(self.lanes, route.kind, route.rest)
                if lane is None:
                    # A subscription of an older version may live on in the session.
                    metrics.CONTROL_REJECTED.labels("no_family").inc()
                    _occasional.warning("no family takes this topic", topic=message.topic)
                    self._session.acknowledge([message])
                else:
                    lane.put(message, route, received_ms)


def _widest(filters: Iterable[str]) -> list[str]:
    """Filters without those that lie within another: a message would come once for each."""
    every = dict.fromkeys(filters)
    wide = [one.removesuffix("#") for one in every if one.endswith("/#")]
    return [one for one in every if not any(one.startswith(w) and one != f"{w}#" for w in wide)]
