"""What became of replayed letters: rows, reasons, and what the loss ledger counts. Pure."""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from iotistica import ledger
from iotistica._native import Batch, Reject, Tally
from iotistica.streams import DeadLetter, Letter

_COMMIT = "commit"
_REFUSED = "refused_by_database"


class Result(enum.StrEnum):
    """What became, or would become, of a letter."""

    PASSED = "passed"
    """All of it is in the table."""
    STILL_BAD = "still_bad"
    """Some of it can never pass as things stand."""
    FAILED = "failed"
    """It could not be decided; the letter stays as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a message, or some of its readings, did not pass."""

    stage: str
    reason: str
    detail: str
    readings: int = 0
    """0 where the message could not be decoded that far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What became, or would become, of one letter."""

    id: str
    tenant: str
    agent: str = ""
    result: Result = Result.PASSED
    inserted: int = 0
    duplicate: int = 0
    """Readings that are there already, or stand twice in the message."""
    faults: tuple[Fault, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """For the loss ledger."""

    @property
    def rejected(self) -> int:
        """Readings that are still bad."""
        return sum(fault.readings for fault in self.faults)

    @property
    def error(self) -> str:
        """All that is wrong, each thing once."""
        return "; ".join(dict.fromkeys(fault.detail for fault in self.faults))

    def described(self) -> dict[str, Any]:
        """For JSON."""
        first = self.faults[0] if self.faults else None
        return {
            "id": self.id,
            "tenant": self.tenant,
            "agent": self.agent or None,
            "result": self.result.value,
            "inserted": self.inserted,
            "duplicate": self.duplicate,
            "rejected": self.rejected,
            "stage": first and first.stage,
            "reason": first and first.reason,
            "error": self.error or None,
        }


@dataclass(slots=True)
class Totals:
    """Sums over letters."""

    letters: int = 0
    passed: int = 0
    still_bad: int = 0
    failed: int = 0
    inserted: int = 0
    duplicate: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Letters that did not pass, by the first reason of each."""

    def add(self, proofs: Iterable[Proof]) -> None:
        """Count letters."""
        for proof in proofs:
            self.letters += 1
            self.passed += proof.result is Result.PASSED
            self.still_bad += proof.result is Result.STILL_BAD
            self.failed += proof.result is Result.FAILED
            self.inserted += proof.inserted
            self.duplicate += proof.duplicate
            self.rejected += proof.rejected
            if proof.faults:
                self.reasons[proof.faults[0].reason] += 1

    def described(self) -> dict[str, Any]:
        """For JSON."""
        names = ("letters", "passed", "still_bad", "failed", "inserted", "duplicate", "rejected")
        return {name: getattr(self, name) for name in names} | {"reasons": dict(self.reasons)}


def encoded(letters: Sequence[Letter], batch: Batch, inserted: int) -> list[Proof]:
    """Proofs of letters whose rows are committed.

    `inserted`: all rows of the batch or none of them, unless there is one letter.
    """
    tallies_of: dict[int, list[Tally]] = defaultdict(list)
    faults_of: dict[int, list[Fault]] = defaultdict(list)
    for tally in batch.tallies:
        tallies_of[tally.entry].append(tally)
    for reject in batch.rejects:
        faults_of[reject.entry].append(_fault(reject))
    proofs = []
    for index, letter in enumerate(letters):
        tallies, faults = tallies_of[index], tuple(faults_of[index])
        rows = sum(tally.rows for tally in tallies)
        stored = min(rows, inserted)
        inserted -= stored
        proofs.append(
            Proof(
                id=letter.id,
                tenant=letter.tenant,
                agent=_agent(letter, tallies),
                result=Result.STILL_BAD if faults else Result.PASSED,
                inserted=stored,
                duplicate=rows - stored + sum(one.duplicates + one.collisions for one in tallies),
                faults=faults,
                counts=_counts(tallies, stored),
            )
        )
    return proofs


def refused(letter: Letter, batch: Batch, error: BaseException) -> Proof:
    """Proof of a letter whose rows PostgreSQL itself refuses."""
    counts: Counter[str] = Counter()
    for tally in batch.tallies:
        counts[ledger.field(tally.agent, ledger.ACCEPTED)] += tally.messages
        counts[ledger.field(tally.agent, ledger.SETTLED)] += tally.messages
        counts[ledger.field(tally.agent, ledger.READINGS)] += tally.readings
        counts[ledger.field(tally.agent, ledger.REJECTED, _REFUSED)] += tally.readings
    fault = Fault(
        stage=_COMMIT,
        reason=_REFUSED,
        detail=str(error),
        readings=batch.readings,
    )
    return still_bad(letter, fault, agent=_agent(letter, batch.tallies), counts=+counts)


def still_bad(
    letter: Letter, fault: Fault, *, agent: str = "", counts: Mapping[str, int] | None = None
) -> Proof:
    """Proof of a letter that does not come as far as its readings."""
    refused = {ledger.field(ledger.NOBODY, ledger.REFUSED, fault.reason): 1}
    return Proof(
        id=letter.id,
        tenant=letter.tenant,
        agent=agent or letter.dead.agent,
        result=Result.STILL_BAD,
        faults=(fault,),
        counts=whole_message(ledger.NOBODY) | refused if counts is None else counts,
    )


def undecided(letter: Letter, why: str) -> Proof:
    """Proof of a letter that stays as it is."""
    return Proof(
        id=letter.id,
        tenant=letter.tenant,
        agent=letter.dead.agent,
        result=Result.FAILED,
        faults=(Fault(stage=_COMMIT, reason="undecided", detail=why),),
    )


def instead_of(letter: Letter, proof: Proof, *, now: datetime) -> DeadLetter | None:
    """The letter that takes the place of one that was replayed; None where none is needed."""
    if proof.result is Result.PASSED:
        return None
    dead, first = letter.dead, proof.faults[0]
    return replace(
        dead,
        error=proof.error,
        reason=first.reason,
        stage=first.stage,
        agent=proof.agent,
        readings=proof.rejected,
        replays=dead.replays + 1,
        # Readings without a time of their own get the same one at every replay.
        received_ms=dead.received,
        failed_at=now,
    )


def whole_message(agent: str) -> dict[str, int]:
    """Ledger counts of a message that is accepted and done in one step."""
    return {ledger.field(agent, counter): 1 for counter in (ledger.ACCEPTED, ledger.SETTLED)}


def _fault(reject: Reject) -> Fault:
    return Fault(
        stage=reject.stage, reason=reject.reason, detail=reject.detail, readings=reject.readings
    )


def _agent(letter: Letter, tallies: Sequence[Tally]) -> str:
    return next((tally.agent for tally in tallies if tally.agent), letter.dead.agent)


def _counts(tallies: Sequence[Tally], inserted: int) -> Counter[str]:
    """A replay is one more delivery of the message.

    Of an entry with readings of several agents only the sum of the inserted ones is known; it is
    given to them in order.
    """
    counts: Counter[str] = Counter()
    for tally in tallies:
        stored = min(tally.rows, inserted)
        inserted -= stored
        amounts = {
            ledger.ACCEPTED: tally.messages,
            ledger.SETTLED: tally.messages,
            ledger.READINGS: tally.readings,
            ledger.STORED: stored,
            ledger.REDELIVERED: tally.rows - stored,
            ledger.DUPLICATE: tally.duplicates,
            ledger.COLLIDED: tally.collisions,
            ledger.DROPPED: tally.dropped,
        }
        counts.update({ledger.field(tally.agent, name): some for name, some in amounts.items()})
        for reason, is_whole, number in tally.reasons:
            counter = ledger.REFUSED if is_whole else ledger.REJECTED
            counts[ledger.field(tally.agent, counter, reason)] += number
    return +counts
