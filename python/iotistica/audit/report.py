"""Whether the loss ledger adds up: its two equations, judged for each agent and in sum. Pure.

    accepted = settled + spooled + in flight + lost + carried
    readings = stored + duplicate + collided + redelivered + dropped + rejected

While data moves, no two counters can be read at one moment. So they are read twice, with the count
of what is in flight between: a counter that only grows was then between its two readings. Each side
of an equation becomes a span, and the equation holds where the spans meet. Where nothing moves,
they are points, and the answer is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from iotistica import ledger, sequences
from iotistica.audit.gaps import Gaps, judge
from iotistica.audit.standing import Standing
from iotistica.ledger import Counts
from iotistica.sequences import AGE_MS, run_text
from iotistica.store.ledger import Before, Loss, Past

if TYPE_CHECKING:
    from iotistica.streams import InFlight

_NAMED = 10
_NO_PAST = Before()


class Span(NamedTuple):
    """A number that lies between two others."""

    least: int
    most: int


class Equation(NamedTuple):
    """What came, and what is accounted for."""

    came: Span
    accounted: Span

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
class Reading:
    """The counters twice, and what was in flight between."""

    before: Standing
    in_flight: InFlight
    after: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was read of a tenant."""

    tenant: str
    epoch: str
    now_ms: int
    reading: Reading
    again: Mapping[str, Reading] = field(default_factory=dict)
    """Later readings, of the agents in doubt."""
    rows: Mapping[str, int | None] = field(default_factory=dict)
    """Counted between the two readings."""
    numbers: Mapping[str, str] = field(default_factory=dict)
    past: Past = field(default_factory=Past)
    young: frozenset[str] = frozenset()
    """Agents that were registered after the ledger began."""
    losses: Sequence[Loss] = ()
    on_disk: Mapping[str, int] = field(default_factory=dict)
    """Messages in the disk spools of this machine, by service."""

    @property
    def acknowledged(self) -> bool:
        """Whether somebody knows of every loss; one that is not recorded yet nobody can know."""
        known = all(loss.acknowledged_at is not None for loss in self.losses)
        return bool(self.losses) and known and self.past.epoch == self.epoch

    def reading_of(self, agent: str) -> Reading:
        """The last one."""
        return self.again.get(agent, self.reading)

    def agents(self) -> list[str]:
        """All that anything is known of, in order."""
        reading = self.reading
        in_flight = reading.in_flight.messages.keys() | reading.in_flight.added.keys()
        counted = {*reading.before, *reading.after}
        return sorted(counted | in_flight | self.numbers.keys() | self.past.agents.keys())


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One agent, or the sum of all."""

    agent: str
    in_flight: int | None
    """None where the streams are too long to count."""
    lost: int
    """Accepted messages that were in flight when Redis lost its data; at most."""
    carried: int
    """Messages that lay on disk when Redis lost its data: nothing counts when they are stored."""
    messages: Equation | None
    readings: Equation
    missing: int = 0
    """Messages whose numbers were never seen: they never came, or could not be decoded."""
    gaps: Gaps | None = None
    rows: Rows | None = None
    counts: Counts = field(default_factory=dict)
    """Over all epochs."""
    acknowledged: bool = False
    """Whether `lost` is known to somebody, and therefore no problem."""

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
        if self.lost and not self.acknowledged:
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
    balanced: bool | None
    """Whether the equations hold for every agent; None where that cannot be told."""
    total: Account
    accounts: Sequence[Account]
    """Those that were asked for; with problems first."""
    agents: int
    troubled: int
    """Agents with problems."""

    @property
    def is_clean(self) -> bool:
        """Whether all is accounted for, and nothing lost or missing that nobody knows of."""
        lost = any(
            loss.in_flight_at_most or loss.unseen_estimate
            for loss in self.evidence.losses
            if loss.acknowledged_at is None
        )
        return self.balanced is True and not self.troubled and not lost


def report(evidence: Evidence, *, most: int | None = None, problems: bool = False) -> Report:
    """Judge every agent, and keep the accounts of at most so many, or only those with problems.

    Their `counts` are still to be filled in.
    """
    troubled: list[Account] = []
    others: list[Account] = []
    total, unbalanced, agents = _Total(), False, evidence.agents()
    for agent in agents:
        account = judged(evidence, agent)
        total.add(account)
        unbalanced = unbalanced or account.balanced is False
        if account.problems:
            troubled.append(account)
        elif not problems and (most is None or len(others) < most):
            others.append(account)
    summed = total.account(evidence)
    return Report(
        evidence=evidence,
        balanced=False if unbalanced else summed.balanced,
        total=summed,
        accounts=[*troubled, *others][:most],
        agents=len(agents),
        troubled=len(troubled),
    )


def in_doubt(evidence: Evidence) -> list[str]:
    """Agents that do not balance by their last reading."""
    return [
        agent
        for agent in (evidence.again or evidence.agents())
        if any(one is not None and one.difference for one in _equations(evidence, agent))
    ]


def judged(evidence: Evidence, agent: str) -> Account:
    """The account of one agent, without its counters."""
    past = evidence.past.agents.get(agent, _NO_PAST)
    reading = evidence.reading_of(agent)
    messages, readings = _equations(evidence, agent)
    gaps = _gaps(evidence, agent, past, reading)
    return Account(
        agent=agent,
        in_flight=None if messages is None else reading.in_flight.messages.get(agent, 0),
        lost=past.lost,
        carried=past.spooled,
        messages=messages,
        readings=readings,
        missing=gaps.missing_messages if gaps and gaps.troubled else 0,
        gaps=gaps,
        rows=_rows(evidence, agent, past, reading) if agent in evidence.rows else None,
        acknowledged=evidence.acknowledged,
    )


def _equations(evidence: Evidence, agent: str) -> tuple[Equation | None, Equation]:
    """That of the messages, if they can be counted, and that of the readings, in this epoch.

    What the count of the streams found was there when it began; what it missed had left by the
    second reading, or moved to the backfill stream, where it was found again. Carried messages may
    be settled in this epoch without having been accepted in it.
    """
    reading = evidence.reading_of(agent)
    before, after = reading.before.of(agent), reading.after.of(agent)
    readings = Equation(
        Span(before.readings, after.readings), Span(before.outcomes, after.outcomes)
    )
    in_flight = reading.in_flight
    if not in_flight.is_counted:
        return None, readings
    found, added = in_flight.messages.get(agent, 0), in_flight.added.get(agent, 0)
    carried = evidence.past.agents.get(agent, _NO_PAST).spooled
    messages = Equation(
        Span(before.accepted, after.accepted),
        Span(before.left + found - carried, after.left + found + added),
    )
    return messages, readings


def _gaps(evidence: Evidence, agent: str, past: Before, reading: Reading) -> Gaps | None:
    numbers = evidence.numbers.get(agent, "")
    if not numbers and not past.sequences:
        return None
    in_flight = reading.in_flight
    # Whether old messages of the agent are on their way, so that a gap may yet be filled.
    may_come = (
        not in_flight.is_counted
        or evidence.now_ms - in_flight.oldest_ms.get(agent, evidence.now_ms) > AGE_MS
        or reading.after.of(agent).spooled > 0
        or any(evidence.on_disk.values())
    )
    return judge(
        sequences.parse(past.sequences),
        sequences.parse(numbers),
        now_ms=evidence.now_ms,
        may_come=may_come,
    )


def _rows(evidence: Evidence, agent: str, past: Before, reading: Reading) -> Rows:
    # Rows stand in the table before the ledger has them: it must be quiet, complete, and have begun
    # before the agent.
    before, after = evidence.reading.before.of(agent), evidence.reading.after.of(agent)
    in_flight = evidence.reading.in_flight
    is_quiet = before == after and in_flight.is_counted and not in_flight.messages.get(agent)
    is_known = is_quiet and agent in evidence.young and past == _NO_PAST and not evidence.losses
    again = past.redelivered + after.redelivered
    return Rows(
        evidence.rows[agent],
        past.stored + before.stored,
        past.stored + after.stored + again if is_known else None,
    )


class _Total:
    """The sum of accounts."""

    def __init__(self) -> None:
        self._sums = [0] * 8
        self._lost = self._carried = self._missing = 0

    def add(self, account: Account) -> None:
        numbers = [*account.readings.came, *account.readings.accounted]
        if account.messages is not None:
            numbers += [*account.messages.came, *account.messages.accounted]
        for place, number in enumerate(numbers):
            self._sums[place] += number
        self._lost += account.lost
        self._carried += account.carried
        self._missing += account.missing

    def account(self, evidence: Evidence) -> Account:
        sums, in_flight = self._sums, evidence.reading.in_flight
        messages = Equation(Span(*sums[4:6]), Span(*sums[6:8]))
        return Account(
            agent=ledger.NOBODY,
            in_flight=sum(in_flight.messages.values()) if in_flight.is_counted else None,
            lost=self._lost,
            carried=self._carried,
            messages=messages if in_flight.is_counted else None,
            readings=Equation(Span(*sums[0:2]), Span(*sums[2:4])),
            missing=self._missing,
            counts=ledger.added(evidence.past.total, evidence.reading.after.total),
            acknowledged=evidence.acknowledged,
        )


def _difference(what: str, number: int) -> list[str]:
    if number > 0:
        return [f"{number:,} {what} came that nothing accounts for"]
    return [f"{-number:,} {what} more are accounted for than came"] if number else []
