"""Whether the loss ledger adds up: its two equations, judged for each agent and in sum. Pure.

    accepted = settled + spooled + in flight + lost + carried
    readings = stored + duplicate + collided + redelivered + dropped + rejected

While data moves, no two counters can be read at one moment. So they are read twice, with the count
of what is in flight between: a counter that only grows was then between its two readings. Each side
of an equation becomes a span, and the equation holds where the spans meet. Where nothing moves,
they are points, and the answer is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iotistica import ledger, sequences
from iotistica.audit.gaps import Gaps, judge
from iotistica.ledger import Counts
from iotistica.sequences import AGE_MS, run_text

if TYPE_CHECKING:
    from iotistica.store.ledger import Loss, Past
    from iotistica.streams import InFlight

_NAMED = 10
_OUTCOMES = frozenset(ledger.OUTCOMES)


@dataclass(frozen=True, slots=True)
class Span:
    """A number that lies between two others."""

    least: int
    most: int

    def __add__(self, other: Span) -> Span:
        return Span(self.least + other.least, self.most + other.most)


@dataclass(frozen=True, slots=True)
class Equation:
    """What came, and what is accounted for."""

    came: Span
    accounted: Span

    def __add__(self, other: Equation) -> Equation:
        return Equation(self.came + other.came, self.accounted + other.accounted)

    @property
    def difference(self) -> int:
        """By how much more came, at least, than is accounted for; negative for less, 0 for even."""
        if self.came.least > self.accounted.most:
            return self.came.least - self.accounted.most
        return min(self.came.most - self.accounted.least, 0)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of an agent in the table, beside what the ledger says."""

    found: int | None
    """None where PostgreSQL gave up counting."""
    least: int
    most: int | None
    """None where rows may be there that the ledger does not know."""

    @property
    def difference(self) -> int:
        """Rows too many; negative for rows that are missing."""
        if self.found is None or self.found < self.least:
            return 0 if self.found is None else self.found - self.least
        return 0 if self.most is None else max(self.found - self.most, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was read of a tenant."""

    tenant: str
    epoch: str
    now_ms: int
    before: Mapping[str, Counts]
    in_flight: InFlight
    """Counted between `before` and `after`, as are the rows."""
    rows: Mapping[str, int | None] = field(default_factory=dict)
    after: Mapping[str, Counts]
    numbers: Mapping[str, str]
    past: Past
    young: frozenset[str] = frozenset()
    """Agents that were registered after the ledger began."""
    losses: Sequence[Loss] = ()
    on_disk: Mapping[str, int] = field(default_factory=dict)
    """Messages in the disk spools of this machine, by service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One agent, or the sum of all."""

    agent: str
    counts: Counts
    """Over all epochs."""
    in_flight: int | None
    """None where the streams are too long to count."""
    lost: int
    """Accepted messages that were lost with the data of Redis; at most."""
    carried: int
    """Messages that lay on disk when Redis lost its data: nothing counts when they are stored."""
    messages: Equation | None
    readings: Equation
    missing: int = 0
    """Messages whose numbers were never seen: they never came, or could not be decoded."""
    gaps: Gaps | None = None
    rows: Rows | None = None

    @property
    def balanced(self) -> bool | None:
        """Whether both equations hold; None where that cannot be told."""
        if self.readings.difference or (self.messages and self.messages.difference):
            return False
        return None if self.messages is None else True

    @property
    def problems(self) -> list[str]:
        """What is wrong, one clause each."""
        found = [
            *_difference("messages", self.messages.difference if self.messages else 0),
            *_difference("readings", self.readings.difference),
        ]
        if self.lost:
            found.append(f"{self.lost:,} messages were in flight when Redis lost its data")
        if self.missing:
            found.append(self._missing())
        if self.rows is not None and (rows := self.rows.difference):
            what = "more rows than the ledger knows" if rows > 0 else "rows missing in the table"
            found.append(f"{abs(rows):,} {what}")
        return found

    def _missing(self) -> str:
        text = f"{self.missing:,} message numbers never seen"
        if self.gaps is not None and self.gaps.missing:
            shown, more = self.gaps.missing[-_NAMED:], len(self.gaps.missing) - _NAMED
            named = run_text(shown).replace("-", "–").replace(",", ", ")  # noqa: RUF001
            text += f": {f'{more:,} gaps, and ' if more > 0 else ''}{named}"
        # What cannot be decoded has no number that could be read.
        refused = ledger.count(self.counts, ledger.REFUSED)
        return f"{text} ({refused:,} messages were refused)" if refused else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The audit of one tenant."""

    evidence: Evidence
    total: Account
    accounts: Sequence[Account]
    """Those with problems first."""

    @property
    def troubled(self) -> int:
        """Agents with problems."""
        return sum(1 for account in self.accounts if account.problems)

    @property
    def balanced(self) -> bool | None:
        """Whether the equations hold for every agent; None where that cannot be told."""
        return False if any(one.balanced is False for one in self.accounts) else self.total.balanced

    @property
    def is_clean(self) -> bool:
        """Whether all is accounted for, and nothing lost or missing."""
        lost = any(loss.in_flight_at_most or loss.unseen_estimate for loss in self.evidence.losses)
        return self.balanced is True and not self.troubled and not lost


def report(evidence: Evidence, accounts: Iterable[Account]) -> Report:
    """The report of accounts that were judged."""
    ordered = sorted(accounts, key=lambda one: (not one.problems, one.agent))
    return Report(evidence=evidence, total=total(ordered), accounts=ordered)


def judged(evidence: Evidence, agents: Iterable[str] | None = None) -> dict[str, Account]:
    """Every agent, or the given ones, by name."""
    if agents is None:
        agents = {
            *evidence.before,
            *evidence.after,
            *evidence.in_flight.messages,
            *evidence.in_flight.added,
            *evidence.numbers,
            *evidence.past.agents,
        }
    return {agent: _judged(evidence, agent) for agent in agents}


def _judged(evidence: Evidence, agent: str) -> Account:
    before, after = evidence.before.get(agent, {}), evidence.after.get(agent, {})
    record = evidence.past.agents.get(agent)
    past: Counts = record.counts if record else {}
    carried = past.get(ledger.SPOOLED, 0)
    came, settled = past.get(ledger.ACCEPTED, 0), past.get(ledger.SETTLED, 0)
    gaps = judge(
        sequences.parse(record.sequences if record else ""),
        sequences.parse(evidence.numbers.get(agent, "")),
        now_ms=evidence.now_ms,
        may_come=_may_come(evidence, agent, after),
    )
    return Account(
        agent=agent,
        counts=ledger.added(past, after) if past else after,
        in_flight=evidence.in_flight.messages.get(agent, 0)
        if evidence.in_flight.is_counted
        else None,
        lost=came - settled - carried,
        carried=carried,
        messages=_messages(evidence, agent, before, after, carried=carried),
        readings=Equation(
            Span(before.get(ledger.READINGS, 0), after.get(ledger.READINGS, 0)),
            Span(_outcomes(before), _outcomes(after)),
        ),
        missing=gaps.missing_messages if gaps and gaps.troubled else 0,
        gaps=gaps,
        rows=_rows(evidence, agent, before, after, past) if agent in evidence.rows else None,
    )


def _messages(
    evidence: Evidence, agent: str, before: Counts, after: Counts, *, carried: int
) -> Equation | None:
    """What came is what left the streams, and what is in them.

    What the count found was there when it began; what it missed had left by the second reading, or
    moved to the backfill stream, where it was found again. Carried messages may be settled in this
    epoch without having been accepted in it.
    """
    in_flight = evidence.in_flight
    if not in_flight.is_counted:
        return None
    found, added = in_flight.messages.get(agent, 0), in_flight.added.get(agent, 0)
    return Equation(
        Span(before.get(ledger.ACCEPTED, 0), after.get(ledger.ACCEPTED, 0)),
        Span(_left(before) + found - carried, _left(after) + found + added),
    )


def _left(counts: Counts) -> int:
    """Messages that left the streams."""
    return counts.get(ledger.SETTLED, 0) + counts.get(ledger.SPOOLED, 0)


def _outcomes(counts: Counts) -> int:
    return sum(number for name, number in counts.items() if name.partition(":")[0] in _OUTCOMES)


def _may_come(evidence: Evidence, agent: str, counts: Counts) -> bool:
    """Whether old messages of the agent are on their way, so that a gap may yet be filled."""
    in_flight = evidence.in_flight
    oldest_ms = in_flight.oldest_ms.get(agent, evidence.now_ms)
    return (
        not in_flight.is_counted
        or evidence.now_ms - oldest_ms > AGE_MS
        or counts.get(ledger.SPOOLED, 0) > 0
        or any(evidence.on_disk.values())
    )


def _rows(evidence: Evidence, agent: str, before: Counts, after: Counts, past: Counts) -> Rows:
    stored = past.get(ledger.STORED, 0)
    again = past.get(ledger.REDELIVERED, 0) + after.get(ledger.REDELIVERED, 0)
    # Rows stand in the table before the ledger has them: so it must be quiet, complete, and have
    # begun before the agent.
    is_quiet = before == after and evidence.in_flight.is_counted
    is_quiet = is_quiet and not evidence.in_flight.messages.get(agent)
    is_known = is_quiet and agent in evidence.young and not past and not evidence.losses
    return Rows(
        evidence.rows[agent],
        stored + before.get(ledger.STORED, 0),
        stored + after.get(ledger.STORED, 0) + again if is_known else None,
    )


def total(accounts: Sequence[Account]) -> Account:
    """The sum of all agents."""
    nothing = Equation(Span(0, 0), Span(0, 0))
    messages = [account.messages for account in accounts if account.messages is not None]
    in_flight = [account.in_flight for account in accounts if account.in_flight is not None]
    is_counted = len(messages) == len(accounts)
    return Account(
        agent=ledger.NOBODY,
        counts=ledger.added(*(account.counts for account in accounts)),
        in_flight=sum(in_flight) if is_counted else None,
        lost=sum(account.lost for account in accounts),
        carried=sum(account.carried for account in accounts),
        messages=sum(messages, nothing) if is_counted else None,
        readings=sum((account.readings for account in accounts), nothing),
        missing=sum(account.missing for account in accounts),
    )


def _difference(what: str, number: int) -> list[str]:
    if number > 0:
        return [f"{number:,} {what} came that nothing accounts for"]
    return [f"{-number:,} {what} more are accounted for than came"] if number else []
