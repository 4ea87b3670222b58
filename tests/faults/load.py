"""The counted load: a simulated fleet, and one more agent that sends what it is given.

Both survive a broker that goes away, and count only what the broker has acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from iotistica._native import format_topic
from iotistica.errors import StoreUnavailable
from iotistica.settings import Settings
from iotistica.simulator.agent import Connect
from iotistica.simulator.fleet import Fleet
from iotistica.simulator.ledger import AgentLedger, Spans
from iotistica.simulator.plan import Plan
from iotistica.simulator.target import Target, connector
from iotistica.store.agents import AgentStore
from iotistica.store.pool import open_pool

_POLL_S = 0.02
_RECONNECT_S = 0.2
_OUTSTANDING = 32


@dataclass(frozen=True, slots=True)
class Crew:
    """The agents of a rig, known to broker and database, and how to connect as one of them."""

    plan: Plan
    tenant: str
    connect: Connect
    sender: str
    """UUID of the agent beside the fleet."""


async def muster(plan: Plan, target: Target) -> Crew:
    """Make the agents of a plan exist, and one more. Raises `StoreUnavailable`."""
    agents = [plan.agent(target.tenant, index) for index in range(plan.agents + 1)]
    pool = await open_pool(
        Settings(database_url=target.database_url, database_pool_size=1), application_name="rig"
    )
    try:
        await AgentStore(pool).add_agents(target.tenant, [(agent, "rig") for agent in agents])
    finally:
        await pool.close()
    return Crew(plan, target.tenant, await connector(target, agents), agents[-1])


Marks = tuple[tuple[int, int], ...]
"""For each agent: good and malformed messages that were acknowledged until a moment."""


class Load:
    """The fleet of one episode, from `start` to `finish`."""

    def __init__(self, crew: Crew) -> None:
        self._fleet = Fleet(crew.plan, crew.tenant)
        self._connect = crew.connect
        self._task: asyncio.Task[list[AgentLedger]] | None = None

    def start(self) -> None:
        """Begin to publish."""
        self._task = asyncio.create_task(self._fleet.run(self._connect))

    @property
    def acknowledged(self) -> int:
        """Messages that the broker has acknowledged."""
        return self._fleet.progress().published

    async def more(self, messages: int, within_s: float = 30.0) -> None:
        """Return when so many more are acknowledged. Raises `TimeoutError`."""
        goal = self.acknowledged + messages
        async with asyncio.timeout(within_s):
            while self.acknowledged < goal and self._task is not None and not self._task.done():
                await asyncio.sleep(_POLL_S)

    def marks(self) -> Marks:
        """How far each agent is now."""
        ledgers = [agent.ledger for agent in self._fleet.agents]
        return tuple((len(ledger.sent), len(ledger.malformed)) for ledger in ledgers)

    async def finish(self) -> list[AgentLedger]:
        """Make no more messages, wait for the last acknowledgements; the accounts.

        Raises `StoreUnavailable`.
        """
        if self._task is None:
            raise RuntimeError("the load was never started")
        self._fleet.stop()
        return await self._task

    async def abandon(self) -> None:
        """End at once."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def since(ledgers: list[AgentLedger], marks: Marks) -> list[AgentLedger]:
    """The same accounts without the messages before the marks, which may be stored or not."""
    return [
        AgentLedger(
            ledger.agent,
            ledger.index,
            ledger.began_us,
            sent=Spans(islice(ledger.sent, sent, None)),
            doubtful=Spans(
                [
                    *ledger.doubtful,
                    *islice(ledger.sent, sent),
                    *(message.span for message in ledger.malformed[:malformed]),
                ]
            ),
            malformed=ledger.malformed[malformed:],
        )
        for ledger, (sent, malformed) in zip(ledgers, marks, strict=True)
    ]


class Sender:
    """Publishes payloads of any kind under the topic of the agent beside the fleet."""

    def __init__(self, crew: Crew, rest: str = "endpoints/modbus") -> None:
        self._crew = crew
        self._topic = format_topic(crew.tenant, crew.sender, rest)
        self.acknowledged: list[bytes] = []

    async def send(self, payloads: Iterable[bytes], *, rate: float) -> None:
        """Publish each until it is acknowledged, at most `rate` a second."""
        waiting = iter(payloads)
        chunk: list[bytes] = []
        began, made = time.monotonic(), 0
        while True:
            try:
                async with self._crew.connect(self._crew.sender) as link:
                    while chunk or (chunk := list(islice(waiting, _OUTSTANDING))):
                        async with asyncio.TaskGroup() as group:
                            for payload in chunk:
                                group.create_task(link.publish(self._topic, payload))
                        self.acknowledged += chunk
                        made, chunk = made + len(chunk), []
                        await asyncio.sleep(began + made / rate - time.monotonic())
                return
            except* StoreUnavailable:
                await asyncio.sleep(_RECONNECT_S)
