"""Stream entries taken apart: their messages and dead letters. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from iotistica import ledger
from iotistica._native import InvalidTopic, Reject, parse_topic
from iotistica.streams import DeadLetter, Entry

# Fields of the reference's entries that hold the payload, the best first (reference section 3).
_REFERENCE_PAYLOADS = (b"data", b"payload_b64", b"payload")


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
    topic, agent, payload = _original(entry)
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
    )


def _original(entry: Entry) -> tuple[bytes, str, bytes]:
    """Topic, agent and payload of an entry with one message."""
    fields = entry[1]
    if is_ours(entry):
        topic = fields[0].partition(b" ")[2]
        return topic, _agent(topic), fields[1]
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    present = (named[name] for name in _REFERENCE_PAYLOADS if name in named)
    return b"", named.get(b"deviceUuid", b"").decode("utf-8", "replace"), next(present, b"")


def _agent(topic: bytes) -> str:
    try:
        return parse_topic(topic.decode()).agent
    except (InvalidTopic, UnicodeDecodeError):
        return ""
