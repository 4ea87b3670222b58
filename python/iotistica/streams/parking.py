"""Messages that wait for a dictionary, beside the streams that they came from and go back to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from iotistica import keys
from iotistica.dictionaries import Wanted
from iotistica.streams.client import Argument, Entry, entries, execute, unavailable
from iotistica.streams.letter import DeadLetter
from iotistica.streams.scripts import script

_AT_ONCE = 256
_UNPARK = script("unpark", "count")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bay:
    """Messages of one agent that wait for the same dictionary, parked together."""

    wanted: Wanted
    fields: Sequence[bytes]
    """Headers and payloads."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.fields))

    def note(self) -> str:
        """What the index says of it."""
        return f"{len(self.fields) // 2} {self.size} {self.wanted.text()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """The same in the index."""

    id: str
    wanted: Wanted
    messages: int
    size: int

    @property
    def since_ms(self) -> int:
        """When they were parked, by the clock of Redis."""
        return int(self.id.partition("-")[0])


class Parking:
    """Parked messages of all tenants. Every method raises `StoreUnavailable`.

    They come here by `Streams.settle`, together with the end of the entries that held them, and
    leave in one step too, back into the stream or as dead letters.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def parked(self, tenant: str) -> list[Parked]:
        """All that is parked, the oldest first."""
        with unavailable("list parked messages"):
            index: Mapping[bytes, bytes] = await execute(
                self._redis, "HGETALL", keys.parked_index(tenant)
            )
        found = [_parked(parked_id.decode(), note.decode()) for parked_id, note in index.items()]
        return sorted(found, key=lambda one: (one.since_ms, int(one.id.partition("-")[2])))

    async def occupied(self, tenants: Sequence[str]) -> list[str]:
        """Those tenants that have anything parked."""
        found: list[str] = []
        for first in range(0, len(tenants), _AT_ONCE):
            some = tenants[first : first + _AT_ONCE]
            pipeline = self._redis.pipeline(transaction=False)
            for tenant in some:
                pipeline.exists(keys.parked_index(tenant))
            with unavailable("look for parked messages"):
                replies = await pipeline.execute()
            found += [tenant for tenant, there in zip(some, replies, strict=True) if there]
        return found

    async def entry(self, tenant: str, parked_id: str) -> Entry | None:
        """Parked messages; None where they have left."""
        stream = keys.parked_stream(tenant)
        with unavailable("read parked messages"):
            reply = await execute(self._redis, "XRANGE", stream, parked_id, parked_id)
        found = entries(reply)
        return found[0] if found else None

    async def release(self, tenant: str, ids: Sequence[str]) -> int:
        """Move messages back to the end of the live stream, in this order; how many of `ids` were
        still there."""
        moved = 0
        for first in range(0, len(ids), _AT_ONCE):
            moved += await self._unpark(tenant, ids[first : first + _AT_ONCE])
        return moved

    async def condemn(
        self,
        tenant: str,
        parked_id: str,
        letters: Sequence[DeadLetter],
        counts: Mapping[str, int],
    ) -> bool:
        """Put dead letters in the place of messages; False where they have left."""
        return bool(await self._unpark(tenant, [parked_id], letters, counts))

    async def _unpark(
        self,
        tenant: str,
        ids: Sequence[str],
        letters: Sequence[DeadLetter] = (),
        counts: Mapping[str, int] | None = None,
    ) -> int:
        names = (
            keys.parked_stream(tenant),
            keys.parked_index(tenant),
            keys.ingestion_stream(tenant),
            keys.dead_letter_stream(tenant),
            keys.ledger(tenant),
        )
        arguments = _arguments(tenant, ids, letters, counts or {})
        with unavailable("move parked messages"):
            return int(await execute(self._redis, "EVAL", _UNPARK, len(names), *names, *arguments))


def _arguments(
    tenant: str, ids: Sequence[str], letters: Sequence[DeadLetter], counts: Mapping[str, int]
) -> Iterator[Argument]:
    yield len(ids)
    yield from ids
    yield len(letters)
    for letter in letters:
        fields = letter.fields(tenant)
        yield len(fields)
        yield from fields
    for name, number in counts.items():
        yield from (name, number)


def _parked(parked_id: str, note: str) -> Parked:
    messages, size, wanted = note.split(" ", 2)
    return Parked(id=parked_id, wanted=Wanted.parse(wanted), messages=int(messages), size=int(size))
