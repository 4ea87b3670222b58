"""Dead letters of the families, given once more to whatever refused them."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor
from functools import partial
from typing import Any, cast

from iotistica._native import InvalidTopic, Topic, parse_topic
from iotistica.api import duties, log_writer
from iotistica.api.batch import Batch
from iotistica.api.families import lane, postman, verdicts
from iotistica.api.families.family import Family, Incoming, Refusal, by_topic
from iotistica.api.members import Members
from iotistica.errors import StoreUnavailable
from iotistica.limits import limits_of
from iotistica.redrive import Fault
from iotistica.settings import Settings
from iotistica.store.logs import LogStore
from iotistica.store.members import tenants_of
from iotistica.store.pool import Pool, is_refusal, unavailable
from iotistica.store.trial import rehearsal
from iotistica.streams import Letter, Outgoing, Streams

_DAY_MS = 86_400_000


class Again:
    """Takes letters as the control process takes messages: the same families, the time of their
    first reception, so that an old state replaces no newer one.

    What is sent and published with it goes to Redis itself. A rehearsal is the same transaction,
    rolled back, and sends nothing.
    """

    def __init__(
        self, *, settings: Settings, pool: Pool, streams: Streams, executor: Executor
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._streams = streams
        self._executor = executor
        self._limits = limits_of(settings)
        self._members = Members(partial(tenants_of, pool))
        self._families = duties.families(self._means(pool, streams))

    def owns(self, letter: Letter) -> bool:
        """Whether the letter is not one of ingestion."""
        if letter.dead.stage in (postman.STAGE, log_writer.STAGE):
            return True
        topic = _topic_of(letter)
        return topic is not None and by_topic(self._families, topic.kind, topic.rest) is not None

    async def take(self, letter: Letter, *, dry_run: bool) -> Fault | None:
        """Why the letter did not pass. Raises `StoreUnavailable`."""
        if not dry_run:
            return await self._take(letter, self._pool, self._streams)
        with unavailable("rehearse a replay"):
            async with rehearsal(self._pool) as pool:
                return await self._take(letter, pool, cast(Streams, _Silence()))

    async def _take(self, letter: Letter, pool: Pool, streams: Streams) -> Fault | None:
        match letter.dead.stage:
            case postman.STAGE:
                return await self._send(letter, streams)
            case log_writer.STAGE:
                return await self._log(letter, pool)
            case _:
                refusal = await self._give(letter, pool, streams)
                if refusal is None:
                    return None
                return Fault(stage=lane.STAGE, reason=refusal.reason, detail=refusal.error)

    async def _give(self, letter: Letter, pool: Pool, streams: Streams) -> Refusal | None:
        topic = parse_topic(_text(letter.dead.topic))
        loop = asyncio.get_running_loop()
        limit = self._settings.max_message_bytes
        [value] = await loop.run_in_executor(
            self._executor, verdicts.decoded, [letter.dead.data], self._limits, limit
        )
        message = _incoming(letter, topic, value)
        members = await self._members.look_up([topic.agent])
        if members.get(topic.agent) != letter.tenant:
            return verdicts.unknown_agent(message)
        if (refusal := verdicts.unreadable(message)) is not None:
            return refusal
        families = duties.families(self._means(pool, streams))
        family = by_topic(families, topic.kind, topic.rest)
        if family is None:
            return Refusal(message, "no_family", f"no family takes {message.topic[:64]!r}")
        return await _answer(family, message)

    async def _send(self, letter: Letter, streams: Streams) -> Fault | None:
        """Back into the outbox, which gives another letter if the broker refuses it again."""
        try:
            message = Outgoing(_text(letter.dead.topic), letter.dead.data)
        except ValueError as error:
            return Fault(stage=postman.STAGE, reason="invalid_topic", detail=str(error))
        await streams.outbox.put([message])
        return None

    async def _log(self, letter: Letter, pool: Pool) -> Fault | None:
        oldest_ms = time.time_ns() // 1_000_000 - self._settings.log_retention_days * _DAY_MS
        loop = asyncio.get_running_loop()
        [lines] = await loop.run_in_executor(
            self._executor, log_writer.lines_in, [letter.dead.entry()], oldest_ms
        )
        agents = [] if isinstance(lines, str) else [one.agent for one in lines]
        members = await self._members.look_up(agents)
        lines = log_writer.checked(lines, letter.tenant, members)
        if not isinstance(lines, str):
            try:
                await LogStore(pool).add(lines)
            except Exception as error:
                if not is_refusal(error):
                    raise
                lines = f"PostgreSQL refuses the lines: {error}"
        if isinstance(lines, str):
            return Fault(stage=log_writer.STAGE, reason=log_writer.BAD_LOG, detail=lines)
        return None

    def _means(self, pool: Pool, streams: Streams) -> duties.Means:
        async def send(batch: Batch) -> None:
            await batch.write(streams)

        # Dictionaries are decided by `redrive.dictionaries`, before anything else.
        settings = self._settings.model_copy(update={"key_compaction": False})
        return duties.Means(settings=settings, pool=pool, streams=streams, send=send)


class _Silence:
    """In the place of streams: nothing is sent."""

    def __init__(self) -> None:
        self.channels = self.logs = self.outbox = self
        self.add = self.accept = self.put = self._nothing
        self.publish = self.publish_many = self._nothing

    async def _nothing(self, *_: Any, **__: Any) -> None:
        pass


async def _answer(family: Family, message: Incoming) -> Refusal | None:
    try:
        refusals = await family.take([message])
    except StoreUnavailable:
        raise
    except Exception as error:
        # As in a lane: a defect of ours costs the message that meets it.
        return verdicts.blamed(message, error)
    return refusals[0] if refusals else None


def _incoming(letter: Letter, topic: Topic, value: Any) -> Incoming:
    return Incoming(
        tenant=letter.tenant,
        agent=topic.agent,
        rest=topic.rest,
        topic=_text(letter.dead.topic),
        value=value,
        payload=letter.dead.data,
        received_ms=letter.dead.received,
    )


def _topic_of(letter: Letter) -> Topic | None:
    try:
        return parse_topic(_text(letter.dead.topic))
    except InvalidTopic:
        return None


def _text(topic: str | bytes) -> str:
    return topic if isinstance(topic, str) else topic.decode(errors="replace")
