"""Dead letters as records: what can never pass, with its reason and its original bytes. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from iotistica.streams.client import Entry

_ENTRY_FIELD = b"entry:"
# Fields of the reference's entries that hold the payload, the best first (reference section 3).
_PAYLOADS = (b"data", b"payload_b64", b"payload")
# Real ones have ten; what has many more is none, and a script could not write it.
_MAX_FORM = 64
_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message, or what is left of it, that can never pass; `data` is its original payload."""

    data: bytes
    topic: str | bytes
    original_id: str | bytes
    error: str
    reason: str
    stage: str
    failed_at: datetime
    """When it failed the last time."""
    agent: str = ""
    attempts: int = 0
    readings: int = 0
    replays: int = 0
    """Replays in vain."""
    received_ms: int = 0
    """When the bridge received the message: the time of readings without one. 0 if unknown."""
    form: tuple[bytes, ...] = ()
    """All fields of an entry in the reference's form, the payload left out of its own."""

    def fields(self, tenant: str) -> list[str | bytes | int]:
        """Flat field list of its stream entry."""
        names = [_ENTRY_FIELD + name for name in self.form[::2]]
        return [
            *("data", self.data, "topic", self.topic, "original_id", self.original_id),
            *("error", self.error, "reason", self.reason, "stage", self.stage),
            *("attempts", self.attempts, "failed_at", self.failed_at.isoformat()),
            *("tenant", tenant, "agent", self.agent, "readings", self.readings),
            *("replays", self.replays, "received_ms", self.received_ms),
            *(part for pair in zip(names, self.form[1::2], strict=True) for part in pair),
        ]

    @property
    def received(self) -> int:
        """Epoch milliseconds at which the message counts as received; the same at each replay."""
        if self.received_ms:
            return self.received_ms
        return _milliseconds(_text(self.original_id)) or _epoch_ms(self.failed_at)

    def entry(self) -> Entry:
        """A stream entry that carries the message as it came."""
        entry_id = _bytes(self.original_id) or b"0-0"
        if self.topic:
            return entry_id, [b"%d-0 %b" % (self.received, _bytes(self.topic)), self.data]
        form = self.form or (b"data", b"")
        payload = next((name for name in _PAYLOADS if name in form[::2]), None)
        pairs = zip(form[::2], form[1::2], strict=True)
        values = ((name, self.data if name == payload else value) for name, value in pairs)
        return entry_id, [part for pair in values for part in pair]


def form_of(fields: Sequence[bytes]) -> tuple[bytes, tuple[bytes, ...]]:
    """Payload of an entry in the reference's form, and what else it needs to be read again."""
    pairs = list(zip(fields[::2], fields[1::2], strict=False))
    found = next((name for name in _PAYLOADS if any(name == other for other, _ in pairs)), None)
    payload = next((value for name, value in pairs if name == found), b"")
    if len(fields) > _MAX_FORM:
        return payload, ()
    rest = ((name, b"" if name == found else value) for name, value in pairs)
    return payload, tuple(part for pair in rest for part in pair)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter where it lies."""

    id: str
    tenant: str
    size: int
    """Bytes of the payload, which a list leaves out."""
    dead: DeadLetter

    def described(self) -> dict[str, Any]:
        """What stands in it but the payload, for JSON; the names are those of the stream."""
        dead = self.dead
        return {
            "id": self.id,
            "tenant": self.tenant,
            "agent": dead.agent or None,
            "topic": _text(dead.topic) or None,
            "stage": dead.stage,
            "reason": dead.reason,
            "error": dead.error,
            "readings": dead.readings,
            "attempts": dead.attempts,
            "replays": dead.replays,
            "failed_at": dead.failed_at,
            "received_ms": dead.received,
            "original_id": _text(dead.original_id) or None,
            "bytes": self.size,
        }


def parse(tenant: str, entry: Entry) -> Letter:
    """The letter of a stream entry, ours or the reference's; what is missing is empty."""
    letter_id, fields = entry[0].decode(), entry[1]
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    data = named.get(b"data", b"")
    form = [
        (name.removeprefix(_ENTRY_FIELD), value)
        for name, value in named.items()
        if name.startswith(_ENTRY_FIELD)
    ]

    def text(name: bytes) -> str:
        return _text(named.get(name, b""))

    return Letter(
        id=letter_id,
        tenant=tenant,
        size=_number(text(b"bytes")) if b"bytes" in named else len(data),
        dead=DeadLetter(
            data=data,
            topic=named.get(b"topic", b""),
            original_id=text(b"original_id"),
            error=text(b"error"),
            reason=text(b"reason"),
            stage=text(b"stage"),
            failed_at=_moment(text(b"failed_at")) or _moment_of_id(letter_id),
            agent=text(b"agent"),
            attempts=_number(text(b"attempts")),
            readings=_number(text(b"readings")),
            replays=_number(text(b"replays")),
            received_ms=_number(text(b"received_ms")),
            form=tuple(part for pair in form for part in pair),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters are meant; what is not given does not matter."""

    ids: Collection[str] = field(default_factory=frozenset)
    reason: str | None = None
    stage: str | None = None
    agent: str | None = None
    since: datetime | None = None
    """First moment at which a letter may have been written."""
    until: datetime | None = None
    """Last one, included."""

    @property
    def is_empty(self) -> bool:
        """Whether every letter is meant."""
        return self == Filter()

    def matches(self, letter: Letter) -> bool:
        """Whether the letter is meant."""
        dead = letter.dead
        wanted = ((self.reason, dead.reason), (self.stage, dead.stage), (self.agent, dead.agent))
        written_ms = _milliseconds(letter.id)
        return (
            (not self.ids or letter.id in self.ids)
            and all(want is None or want == given for want, given in wanted)
            and (self.since is None or written_ms >= _epoch_ms(self.since))
            and (self.until is None or written_ms <= _epoch_ms(self.until))
        )

    @property
    def bounds(self) -> tuple[str, str]:
        """Lowest and highest id that can match, as XRANGE takes them."""
        first = "-" if self.since is None else str(max(_epoch_ms(self.since), 0))
        last = "+" if self.until is None else str(max(_epoch_ms(self.until), 0))
        return first, last


def is_id(text: str) -> bool:
    """Whether it is written as the id of a letter."""
    return _ID.fullmatch(text) is not None


def _milliseconds(entry_id: str) -> int:
    return _number(entry_id.partition("-")[0])


def _epoch_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _moment_of_id(letter_id: str) -> datetime:
    return min(_milliseconds(letter_id), _epoch_ms(_LAST)) * _MILLISECOND + _EPOCH


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def _text(given: str | bytes) -> str:
    return given if isinstance(given, str) else given.decode(errors="replace")


def _bytes(given: str | bytes) -> bytes:
    return given if isinstance(given, bytes) else given.encode()
