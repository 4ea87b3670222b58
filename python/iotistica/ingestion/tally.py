"""What entries leave behind, entry by entry, until they are settled: dead letters, messages for the
backfill stream or that wait for a dictionary, and counts for the loss ledger. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from iotistica import ledger
from iotistica._native import Batch, Tally
from iotistica.dictionaries import Wanted
from iotistica.ingestion import messages
from iotistica.sequences import Range
from iotistica.streams import Bay, DeadLetter, Entry, Settlement

_MESSAGES = 400
"""In one entry, as the bridge does it."""


@dataclass(slots=True)
class Book:
    """What one entry leaves behind."""

    letters: dict[bytes, DeadLetter] = field(default_factory=dict)
    """By message."""
    backfill: list[bytes] = field(default_factory=list)
    """Headers and payloads of messages that go on in the backfill stream."""
    parked: dict[Wanted, list[bytes]] = field(default_factory=dict)
    """The same of messages that wait for a dictionary."""
    counts: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, list[Range]] = field(default_factory=dict)
    """Of the messages, by agent."""


def settlement(books: Mapping[bytes, Book]) -> Settlement:
    """All of what these entries leave behind."""
    counts: Counter[str] = Counter()
    backfill: list[bytes] = []
    parked: dict[Wanted, list[bytes]] = {}
    numbers: dict[str, list[Range]] = {}
    for book in books.values():
        counts.update(book.counts)
        backfill += book.backfill
        for wanted, fields in book.parked.items():
            parked.setdefault(wanted, []).extend(fields)
        for agent, ranges in book.numbers.items():
            numbers.setdefault(agent, []).extend(ranges)
    step = 2 * _MESSAGES
    return Settlement(
        ids=list(books),
        letters=[letter for book in books.values() for letter in book.letters.values()],
        backfill=[backfill[at : at + step] for at in range(0, len(backfill), step)],
        parked=[
            Bay(wanted=wanted, fields=fields[at : at + step])
            for wanted, fields in parked.items()
            for at in range(0, len(fields), step)
        ],
        counts=counts,
        sequences=numbers,
    )


def count(
    books: Mapping[bytes, Book],
    entries: Sequence[Entry],
    batch: Batch,
    inserted: Mapping[str, int] | None,
    *,
    again: bool,
    late: bool,
) -> None:
    """Count a committed batch. `inserted`: rows by agent, None where all of them were new.

    The store counts rows by agent, not by entry; what the entries of an agent have together is
    right, and it is all that the ledger holds.
    """
    left = None if inserted is None else Counter(inserted)
    conflict = ledger.REDELIVERED if again else ledger.DUPLICATE
    for tally in batch.tallies:
        entry = entries[tally.entry]
        stored = tally.rows if left is None else min(tally.rows, left[tally.agent])
        if left is not None:
            left[tally.agent] -= stored
        amounts = {
            ledger.SETTLED: tally.messages,
            ledger.READINGS: tally.readings,
            ledger.STORED: stored,
            ledger.DUPLICATE: tally.duplicates,
            ledger.COLLIDED: tally.collisions,
            ledger.DROPPED: tally.dropped,
        }
        amounts[conflict] = amounts.get(conflict, 0) + tally.rows - stored
        if late:
            amounts[ledger.LATE] = tally.readings
        if not messages.is_ours(entry):
            # Whoever wrote it does not keep our ledger.
            amounts[ledger.ACCEPTED] = tally.messages
        counts = books[entry[0]].counts
        for counter, amount in amounts.items():
            if amount:
                counts[ledger.field(tally.agent, counter)] += amount
        for reason, is_whole, number in tally.reasons:
            counter = ledger.REFUSED if is_whole else ledger.REJECTED
            counts[ledger.field(tally.agent, counter, reason)] += number
        _number(books[entry[0]], tally)


def refuse(book: Book, letter: DeadLetter, batch: Batch) -> None:
    """Count a message that PostgreSQL itself refuses, with all of its readings; it is all there is
    in the batch."""
    agent = ledger.agent_of(letter.agent)
    book.counts[ledger.field(agent, ledger.SETTLED)] += 1
    if letter.readings:
        book.counts[ledger.field(agent, ledger.READINGS)] += letter.readings
        book.counts[ledger.field(agent, ledger.REJECTED, letter.reason)] += letter.readings
    for tally in batch.tallies:
        _number(book, tally)


def _number(book: Book, tally: Tally) -> None:
    if tally.numbers:
        book.numbers.setdefault(tally.agent, []).extend(tally.numbers)


def spooled(entries: Iterable[Entry]) -> Counter[str]:
    """Counts of entries that wait on disk."""
    counts: Counter[str] = Counter()
    for entry in entries:
        for agent, number in messages.agents(entry).items():
            counts[ledger.field(agent, ledger.SPOOLED)] += number
    return counts
