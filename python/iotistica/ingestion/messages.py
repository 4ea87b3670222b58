"""Stream entries taken apart: their messages and dead letters. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from iotistica import ledger
from iotistica._native import InvalidTopic, Reject, parse_topic
from iotistica.streams import DeadLetter, Entry
from iotistica.streams.letter import form_of


def is_ours(entry: Entry) -> bool:
    """Whether the entry alternates headers `{received_ms}-{sequence} {topic}` and payloads."""
    return bool(entry[1]) and b" " in entry[1][0]


def message(entry: Entry, index: int | None) -> Entry:
    """An entry with the one message; None, for an entry of the reference, takes it whole."""
    entry_id, fields = entry
    return entry if index is None else (entry_id, fields[2 * index : 2 * index + 2])


def single(entries: Iterable[Entry]) -> list[Entry]:
    """The same messages, one to an entry; entries of the reference cannot be divided."""
    return [
        message(entry, index)
        for entry in entries
        for index in (range(len(entry[1]) // 2) if is_ours(entry) else (None,))
    ]


def key(entry: Entry, index: int) -> bytes:
    """What tells a message from the others of its entry, however the entry is sliced."""
    return entry[1][2 * index] if is_ours(entry) else b"%d" % index


def rejected(entry: Entry, rejects: Sequence[Reject]) -> DeadLetter:
    """The dead letter of one message: the first rule that it broke, the details of all."""
    first = rejects[0]
    return DeadLetter(
        data=first.payload,
        topic=first.topic or "",
        original_id=entry[0],
        error="; ".join(dict.fromkeys(reject.detail for reject in rejects)),
        reason=first.reason,
        stage=first.stage,
        agent=first.agent or "",
        readings=sum(reject.readings for reject in rejects),
        failed_at=datetime.now(UTC),
        received_ms=_received_ms(entry, first.message),
        form=() if is_ours(entry) else form_of(entry[1])[1],
    )


def agents(entry: Entry) -> Counter[str]:
    """Messages by agent, as the ledger names it; none for an entry of the reference."""
    if not is_ours(entry):
        return Counter()
    return Counter(ledger.agent_of(_agent(header.partition(b" ")[2])) for header in entry[1][::2])


def refused(
    entry: Entry, error: BaseException, *, reason: str, attempts: int, readings: int
) -> DeadLetter:
    """The dead letter of a single message that PostgreSQL does not take."""
    topic, agent, payload, form = _original(entry)
    return DeadLetter(
        data=payload,
        topic=topic,
        original_id=entry[0],
        error=str(error),
        reason=reason,
        stage="commit",
        agent=agent,
        attempts=attempts,
        readings=readings,
        failed_at=datetime.now(UTC),
        received_ms=_received_ms(entry, 0),
        form=form,
    )


def given_up(message: Entry, *, agent: str, reason: str, error: str, now: datetime) -> DeadLetter:
    """The dead letter of a single message that waited in vain to be expanded."""
    topic, _, payload, _ = _original(message)
    return DeadLetter(
        data=payload,
        topic=topic,
        original_id=message[0],
        error=error,
        reason=reason,
        stage="expand",
        agent=agent,
        failed_at=now,
        received_ms=_received_ms(message, 0),
    )


def _original(entry: Entry) -> tuple[bytes, str, bytes, tuple[bytes, ...]]:
    """Topic, agent, payload and form of an entry with one message."""
    fields = entry[1]
    if is_ours(entry):
        topic = fields[0].partition(b" ")[2]
        return topic, _agent(topic), fields[1], ()
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    agent = named.get(b"deviceUuid", b"").decode("utf-8", "replace")
    return b"", agent, *form_of(fields)


def _received_ms(entry: Entry, index: int) -> int:
    """When the bridge received a message; 0 where its header does not say."""
    received = entry[1][2 * index].partition(b"-")[0] if is_ours(entry) else b""
    return int(received) if received.isdigit() and len(received) < 19 else 0


def _agent(topic: bytes) -> str:
    try:
        return parse_topic(topic.decode()).agent
    except (InvalidTopic, UnicodeDecodeError):
        return ""
