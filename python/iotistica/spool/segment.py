"""One file of a spool: batches with a checksum each, and a trailer. Pure, but for reading.

    magic | batch … | trailer
    batch    length (4 bytes), CRC-32 of the body, body: MessagePack
    trailer  the same form; its body is the summary; then its length once more

The file is written as a whole, so it ends with a valid trailer or it was damaged later. A batch
that is whole in a damaged file is still good.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ormsgpack

if TYPE_CHECKING:  # the command line reads spools without what talks to Redis
    from iotistica.streams import Entry

MAGIC = b"IOTSPL01"
_HEAD = struct.Struct(">II")
_LENGTH = struct.Struct(">I")
_TRAILER_BIT = 1 << 31
"""In the length of the trailer; batches stay below."""
MAX_BATCH_BYTES = _TRAILER_BIT - 1


class Kind(enum.StrEnum):
    """Where the entries of a batch belong."""

    LIVE = "live"
    BACKFILL = "backfill"
    LETTERS = "letters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Stream entries of one tenant that go on together."""

    name: str
    tenant: str
    kind: Kind
    entries: Sequence[Entry]
    messages: int
    again: bool = False
    """Whether some rows may be in the table already."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """For the ledger, once Redis takes them."""

    def encode(self) -> bytes:
        """The body in a segment. Raises `ValueError` for one that is too large."""
        entries = [[entry_id, list(fields)] for entry_id, fields in self.entries]
        members = (self.name, self.tenant, self.kind.value, entries, self.messages, self.again)
        body = ormsgpack.packb([*members, dict(self.counts)])
        if len(body) > MAX_BATCH_BYTES:
            raise ValueError(f"batch has {len(body)} bytes; at most {MAX_BATCH_BYTES} are allowed")
        return body

    @classmethod
    def decode(cls, body: bytes) -> Batch:
        """Inverse of `encode`. Raises `ValueError`."""
        try:
            name, tenant, kind, entries, messages, again, counts = ormsgpack.unpackb(body)
            return cls(
                name=name,
                tenant=tenant,
                kind=Kind(kind),
                entries=[(entry_id, fields) for entry_id, fields in entries],
                messages=messages,
                again=again,
                counts=counts,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"batch is not of the expected form: {error}") from None


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with a file, and where."""

    offset: int
    reason: str

    def __str__(self) -> str:
        return f"byte {self.offset}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What the trailer says."""

    batches: int
    messages: Mapping[str, int]
    """By tenant."""


def encode(batches: Sequence[tuple[Batch, bytes]]) -> bytes:
    """The whole file, of batches and their bodies."""
    messages: Counter[str] = Counter()
    for batch, _ in batches:
        messages[batch.tenant] += batch.messages
    summary = ormsgpack.packb([len(batches), dict(messages)])
    parts = [MAGIC]
    for _, body in batches:
        parts += [_HEAD.pack(len(body), zlib.crc32(body)), body]
    trailer = _HEAD.pack(len(summary) | _TRAILER_BIT, zlib.crc32(summary))
    return b"".join([*parts, trailer, summary, _LENGTH.pack(len(summary))])


def read(path: Path) -> tuple[list[Batch], Damage | None]:
    """All whole batches, and the first damage. Raises `OSError`."""
    return decode(path.read_bytes())


def decode(data: bytes) -> tuple[list[Batch], Damage | None]:
    """The same of the bytes of a file."""
    batches: list[Batch] = []
    damage: Damage | None = None
    try:
        for offset, body, is_trailer in _bodies(data):
            if isinstance(body, Damage):
                damage = damage or body
            elif is_trailer:
                return batches, damage or _check(body, offset, len(batches))
            else:
                batches.append(Batch.decode(body))
    except ValueError as error:
        return batches, damage or Damage(0, str(error))
    return batches, damage or Damage(len(data), "the trailer is missing")


def _bodies(data: bytes) -> Iterator[tuple[int, bytes | Damage, bool]]:
    """Offset and body of each batch, and of the trailer."""
    if not data.startswith(MAGIC):
        yield 0, Damage(0, "the file does not begin as a segment"), False
        return
    offset = len(MAGIC)
    while offset + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, offset)
        is_trailer, length = bool(length & _TRAILER_BIT), length & ~_TRAILER_BIT
        body = data[offset + _HEAD.size : offset + _HEAD.size + length]
        if len(body) < length:
            # Either the file was cut, or the length itself is damaged: nothing more can be told.
            yield (
                offset,
                Damage(offset, f"{length} bytes are announced, {len(body)} are left"),
                False,
            )
            return
        if zlib.crc32(body) != checksum:
            yield offset, Damage(offset, "the checksum does not match"), False
        else:
            yield offset, body, is_trailer
            if is_trailer:
                return
        offset += _HEAD.size + length


def _check(trailer: bytes, offset: int, batches: int) -> Damage | None:
    announced = _summary(trailer).batches
    if announced != batches:
        return Damage(offset, f"the trailer announces {announced} batches, {batches} are there")
    return None


def _summary(body: bytes) -> Summary:
    batches, messages = ormsgpack.unpackb(body)
    return Summary(batches, messages)


def summary(path: Path) -> Summary | None:
    """The trailer alone; None where it is damaged. Raises `OSError`."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < len(MAGIC) + _HEAD.size + _LENGTH.size:
            return None
        file.seek(size - _LENGTH.size)
        (length,) = _LENGTH.unpack(file.read())
        start = size - _LENGTH.size - length - _HEAD.size
        if start < len(MAGIC):
            return None
        file.seek(start)
        announced, checksum = _HEAD.unpack(file.read(_HEAD.size))
        body = file.read(length)
    if announced != length | _TRAILER_BIT or zlib.crc32(body) != checksum:
        return None
    return _summary(body)


def describe(batch: Batch) -> dict[str, Any]:
    """A batch for people and `--json`."""
    return {
        "name": batch.name,
        "tenant": batch.tenant,
        "kind": batch.kind.value,
        "entries": len(batch.entries),
        "messages": batch.messages,
    }
