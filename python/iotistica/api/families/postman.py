"""Delivers the outbox: what web processes put there goes to the broker, then leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from iotistica import keys, log, metrics
from iotistica._native import InvalidTopic, parse_topic
from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable
from iotistica.mqtt import Disconnected, Refused, Session
from iotistica.streams import DeadLetter, Entry, Outgoing, Streams, outgoing

_AT_ONCE = 256
_BLOCK_MS = 2000
_CLAIM_EVERY_S = 15.0
_CLAIM_IDLE_MS = 60_000
STAGE = "outbox"

_occasional = log.Occasional(log.get(__name__))


class Postman:
    """One consumer of the outbox; its name is that of the process, so that what a predecessor had
    under way is sent first."""

    def __init__(self, streams: Streams, name: str) -> None:
        self._streams = streams
        self._name = name
        self._claim_at = 0.0
        self.error: str | None = None
        """Why nothing is delivered now."""

    async def deliver(self, session: Session) -> None:
        """Publish what comes, until the session is lost. Raises `Disconnected`."""
        backoff = Backoff(first_s=0.1, most_s=5.0)
        again = True
        while True:
            try:
                entries = await self._next(again=again)
                await self._send(session, entries)
            except Disconnected:
                raise
            except StoreUnavailable as error:
                self.error = str(error)
                again = True
                _occasional.warning("messages for agents wait", error=self.error)
                await asyncio.sleep(backoff.next_s())
            else:
                self.error = None
                again = again and bool(entries)
                backoff.reset()

    async def _next(self, *, again: bool) -> list[Entry]:
        outbox = self._streams.outbox
        if again:
            return await outbox.read(self._name, count=_AT_ONCE, again=True)
        if time.monotonic() >= self._claim_at:
            self._claim_at = time.monotonic() + _CLAIM_EVERY_S
            metrics.OUTBOX_WAITING.set(await outbox.waiting())
            claimed = await outbox.claim(self._name, min_idle_ms=_CLAIM_IDLE_MS, count=_AT_ONCE)
            if claimed:
                return claimed
        return await outbox.read(self._name, count=_AT_ONCE, block_ms=_BLOCK_MS)

    async def _send(self, session: Session, entries: Sequence[Entry]) -> None:
        """In order; they leave the outbox after the PUBACKs."""
        sending = [asyncio.create_task(self._publish(session, fields)) for _, fields in entries]
        results = await asyncio.gather(*sending, return_exceptions=True)
        sent = [
            entry_id
            for (entry_id, _), result in zip(entries, results, strict=True)
            if not isinstance(result, BaseException)
        ]
        await self._streams.outbox.done(sent)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _publish(self, session: Session, fields: Sequence[bytes]) -> None:
        try:
            message = outgoing(fields)
        except ValueError as error:
            _occasional.warning("an entry of the outbox is dropped", error=str(error))
            return
        try:
            await session.publish(message.topic, message.payload, retain=message.retain)
        except Refused as error:
            metrics.OUTBOX_REFUSED.inc()
            await self._give_up(message, error)
        else:
            metrics.OUTBOX_SENT.inc()

    async def _give_up(self, message: Outgoing, error: Refused) -> None:
        try:
            parsed = parse_topic(message.topic)
            tenant, agent = parsed.tenant, parsed.agent
        except InvalidTopic:
            tenant, agent = keys.STRAY, ""
        letter = DeadLetter(
            data=message.payload,
            topic=message.topic,
            original_id="",
            error=str(error),
            reason="refused_by_broker",
            stage=STAGE,
            failed_at=datetime.now(UTC),
            agent=agent,
        )
        await self._streams.dead_letter(tenant, [letter])
