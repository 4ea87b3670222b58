"""Looks after messages that wait for a dictionary: sends them on, asks for it, or gives them up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from iotistica import ledger, log, metrics
from iotistica.dictionaries import Wanted
from iotistica.dictionaries.library import Library
from iotistica.encoder import Encoder
from iotistica.errors import StoreUnavailable
from iotistica.ingestion import messages
from iotistica.ingestion.letter_alarm import LetterAlarm
from iotistica.settings import Settings
from iotistica.streams import DeadLetter, Entry, Parked, Streams

PERIOD_S = 0.5
_ROUND_S = 10.0
"""How often all tenants are looked at; those of which anything is known to be parked, each time."""
_ASK_AFTER_MS = 2000
"""As a rule the dictionary is on its way, a moment behind the first message that needs it."""
_ASK_AGAIN_S = 30.0
_AT_ONCE = 200
_REASON = "dictionary_missing"

_LOG = log.get(__name__)
_occasional = log.Occasional(_LOG)


@dataclass(slots=True)
class _Lot:
    """What is parked of one tenant, as far as this process knows."""

    messages: int = 0
    size: int = 0
    used_at: float = field(default_factory=time.monotonic)


class Attendant:
    """Of one process; several may look after the same messages."""

    def __init__(self, settings: Settings, streams: Streams, alarm: LetterAlarm) -> None:
        self._patience_ms = settings.parked_max_s * 1000
        self._most_messages = settings.parked_max_messages
        self._most_bytes = settings.parked_max_bytes
        self._streams = streams
        self._alarm = alarm
        self._lots: dict[str, _Lot] = {}
        self._asked: dict[str, float] = {}
        self._next_round = 0.0
        self._well_since_ms: int | None = None

    def admits(self, tenant: str, *, size: int) -> bool:
        """Whether there is room for one more message; counts it.

        Other processes park too, and what they did shows at the next look: a bound in the large.
        """
        lot = self._lots.setdefault(tenant, _Lot())
        if (
            not self._patience_ms
            or lot.messages >= self._most_messages
            or lot.size + size > self._most_bytes
        ):
            return False
        lot.messages += 1
        lot.size += size
        lot.used_at = time.monotonic()
        return True

    async def attend(self, encoders: Mapping[str, Encoder], library: Library) -> None:
        """Look once. Raises `StoreUnavailable`."""
        if time.monotonic() >= self._next_round:
            for tenant in await self._streams.parking.occupied(list(encoders)):
                self._lots.setdefault(tenant, _Lot())
            self._next_round = time.monotonic() + _ROUND_S
        for tenant in list(self._lots):
            if (encoder := encoders.get(tenant)) is not None:
                await self._look(tenant, encoder, library)

    async def _look(self, tenant: str, encoder: Encoder, library: Library) -> None:
        parked = await self._streams.parking.parked(tenant)
        lot = self._lots[tenant]
        lot.messages = sum(one.messages for one in parked)
        lot.size = sum(one.size for one in parked)
        metrics.PARKED_NOW.labels(tenant).set(lot.messages)
        if not parked:
            if time.monotonic() - lot.used_at > _ROUND_S:  # else it may be on its way here
                del self._lots[tenant]
            return
        try:
            known = await encoder.learn({one.wanted for one in parked})
        except StoreUnavailable:
            self._well_since_ms = None
            raise
        now_ms = await self._streams.ledger.now_ms()
        if self._well_since_ms is None:
            self._well_since_ms = now_ms
        await self._release(tenant, [one for one in parked if one.wanted in known])
        # While PostgreSQL is away, dictionaries wait at the broker: that time does not count.
        since_ms = self._well_since_ms
        ages = {
            one: now_ms - max(one.since_ms, since_ms) for one in parked if one.wanted not in known
        }
        asked = {one.wanted: None for one, age_ms in ages.items() if age_ms >= _ASK_AFTER_MS}
        try:
            await self._ask(tenant, list(asked), library)
        except StoreUnavailable as error:  # such as a full outbox, which must hold up nothing here
            _occasional.warning("agents were not asked for dictionaries", error=str(error))
        expired = [one for one, age_ms in ages.items() if age_ms >= self._patience_ms]
        for one in expired[:_AT_ONCE]:
            await self._give_up(tenant, one)

    async def _release(self, tenant: str, parked: Sequence[Parked]) -> None:
        if parked and await self._streams.parking.release(tenant, [one.id for one in parked]):
            metrics.UNPARKED.labels("released").inc(sum(one.messages for one in parked))

    async def _ask(self, tenant: str, wanted: Sequence[Wanted], library: Library) -> None:
        now = time.monotonic()
        for one in wanted[:_AT_ONCE]:
            if now - self._asked.get(one.agent, float("-inf")) < _ASK_AGAIN_S:
                continue
            if await library.ask(tenant, one.agent, expected=one.version):
                _LOG.info("asked an agent for its dictionary", agent=one.agent, wanted=one.version)
            self._asked[one.agent] = now
        if len(self._asked) > 100_000:
            self._asked.clear()

    async def _give_up(self, tenant: str, parked: Parked) -> None:
        parking = self._streams.parking
        entry = await parking.entry(tenant, parked.id)
        if entry is None:
            return
        letters = [self._letter(message, parked.wanted) for message in messages.single([entry])]
        if not await parking.condemn(tenant, parked.id, letters, _counts(letters)):
            return  # another process was quicker
        metrics.UNPARKED.labels("expired").inc(len(letters))
        metrics.DEAD_LETTERS.labels("expand").inc(len(letters))
        self._alarm.decided(tenant, messages=len(letters), dead=len(letters))

    def _letter(self, message: Entry, wanted: Wanted) -> DeadLetter:
        which = f"version {wanted.version}" + (f" with hash {wanted.hash}" if wanted.hash else "")
        return messages.given_up(
            message,
            agent=wanted.agent,
            reason=_REASON,
            error=f"field v: dictionary {which} of the agent did not come within "
            f"{self._patience_ms / 1000:g} s",
            now=datetime.now(UTC),
        )


def _counts(letters: Sequence[DeadLetter]) -> dict[str, int]:
    """For the loss ledger: they were accepted long ago, and are done now."""
    counts: dict[str, int] = {}
    for letter in letters:
        agent = ledger.agent_of(letter.agent)
        for name in (
            ledger.field(agent, ledger.SETTLED),
            ledger.field(agent, ledger.REFUSED, letter.reason),
        ):
            counts[name] = counts.get(name, 0) + 1
    return counts
