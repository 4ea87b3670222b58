"""The judgment of the loss ledger, on evidence made by hand and by a model of the pipeline."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from iotistica import sequences
from iotistica.audit.document import account_document, document
from iotistica.audit.report import (
    Account,
    Evidence,
    Reading,
    Report,
    in_doubt,
    judged,
    report,
)
from iotistica.audit.standing import Standing
from iotistica.audit.text import text
from iotistica.sequences import AGE_MS, Numbering
from iotistica.store.ledger import Before, Loss, Past
from iotistica.streams import InFlight

AGENT = "0a8b3b0e-5c1e-4f0e-9d55-0242ac120002"
OTHER = "1a8b3b0e-5c1e-4f0e-9d55-0242ac120002"
NOW = 1_795_453_097_011
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)

BALANCED = {
    "accepted": 10,
    "settled": 7,
    "spooled": 2,
    "refused:not_json": 1,
    "readings": 60,
    "stored": 50,
    "duplicate": 4,
    "collided": 1,
    "redelivered": 2,
    "dropped": 1,
    "rejected:too_old": 1,
    "rejected:no_value": 1,
    "late": 20,
}


def standing(agents: Mapping[str, Mapping[str, int]]) -> Standing:
    found = Standing()
    for agent, counts in agents.items():
        found.add((agent, counter, number) for counter, number in counts.items())
    return found


def evidence(counts: Mapping[str, int], waiting: int = 1, **more: Any) -> Evidence:
    in_flight = InFlight(messages={AGENT: waiting} if waiting else {})
    given: dict[str, Any] = {
        "tenant": "73eddd385ce8",
        "epoch": "e1",
        "now_ms": NOW,
        "reading": Reading(
            before=standing(more.pop("before", {AGENT: counts})),
            in_flight=more.pop("in_flight", in_flight),
            after=standing(more.pop("after", {AGENT: counts})),
        ),
        "past": Past(epoch="e1", began_at=NOON, snapshot_at=NOON),
    }
    return Evidence(**(given | more))


def account(counts: Mapping[str, int], waiting: int = 1, **more: Any) -> Account:
    return replace(judged(evidence(counts, waiting, **more), AGENT), counts=counts)


def whole(seen: Evidence, **more: Any) -> Report:
    return report(seen, **more)


def test_what_adds_up_balances() -> None:
    found = account(BALANCED)
    assert found.balanced is True
    assert found.problems == []
    assert whole(evidence(BALANCED)).is_clean


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"accepted": 13}, "3 messages came that nothing accounts for"),
        ({"accepted": 9}, "1 messages more are accounted for than came"),
        ({"readings": 1060}, "1,000 readings came that nothing accounts for"),
        ({"stored": 52}, "2 readings more are accounted for than came"),
    ],
)
def test_what_does_not_add_up_is_told_by_how_much(changed: dict[str, int], problem: str) -> None:
    found = account(BALANCED | changed)
    assert found.balanced is False
    assert found.problems == [problem]
    assert not whole(evidence(BALANCED | changed)).is_clean


def test_two_wrongs_make_no_right() -> None:
    both = {AGENT: BALANCED | {"accepted": 11}, OTHER: BALANCED | {"accepted": 8}}
    found = whole(evidence({}, before=both, after=both))
    assert found.total.balanced is True
    assert found.balanced is False
    assert found.troubled == 2


def test_a_message_in_flight_that_no_counter_knows_is_noticed() -> None:
    in_flight = InFlight(messages={AGENT: 1, OTHER: 2})
    found = judged(evidence(BALANCED, in_flight=in_flight), OTHER)
    assert found.problems == ["2 messages more are accounted for than came"]


def test_streams_that_are_too_long_leave_it_open() -> None:
    seen = evidence(BALANCED, in_flight=InFlight(entries=9999, is_counted=False))
    found = whole(seen)
    assert (found.balanced, found.is_clean, found.troubled) == (None, False, 0)
    assert account_document(found.accounts[0])["messages"]["in_flight"] is None
    assert "9,999 entries, too many to be counted" in text(found)


def test_the_epochs_that_ended_are_part_of_the_sum() -> None:
    before = Before(accepted=100, settled=90, spooled=4, stored=500)
    past = {"accepted": 100, "settled": 90, "spooled": 4, "stored": 500}
    found = whole(evidence(BALANCED, past=Past(epoch="e2", agents={AGENT: before}, total=past)))
    [one] = found.accounts
    assert (one.lost, one.carried, one.balanced) == (6, 4, True)
    assert one.problems == ["6 messages were in flight when Redis lost its data"]
    shown = account_document(found.total)["messages"]
    assert shown["accepted"] == (
        shown["settled"] + shown["spooled"] + 1 + shown["lost_at_most"] + shown["carried"]
    )
    assert (shown["accepted"], shown["spooled"]) == (110, 2)
    assert account_document(found.total)["readings"]["stored"] == 550


def test_carried_batches_may_be_settled_without_having_been_accepted() -> None:
    past = Past(epoch="e2", agents={AGENT: Before(accepted=4, spooled=4)})
    settled = BALANCED | {"settled": 11}
    assert account(settled, past=past).balanced is True
    assert account(BALANCED | {"settled": 12}, past=past).balanced is False


def test_losses_are_no_clean_bill() -> None:
    loss = Loss(
        id=1,
        epoch="e0",
        kind="emptied",
        detected_at=NOON,
        snapshot_at=NOON,
        accepted=100,
        settled=90,
        spooled=4,
        in_flight_at_most=6,
        unseen_estimate=12,
        acknowledged_at=None,
        acknowledged_by=None,
        acknowledgment=None,
    )
    found = whole(evidence(BALANCED, losses=[loss]))
    assert found.balanced is True
    assert not found.is_clean
    assert (
        "2026-11-25 12:00:00 UTC Redis lost its data: at most 6 messages that were in flight at "
        "2026-11-25 12:00:00 UTC, and of those that came since, about 12"
    ) in text(found)


def numbered(*batches: list[tuple[int, int]]) -> dict[str, str]:
    state = Numbering()
    for ranges in batches:
        state = sequences.merge(state, ranges, NOW - 10 * AGE_MS)
    return {AGENT: sequences.text(state)}


def test_gaps_are_named() -> None:
    found = account(
        BALANCED | {"settled": 10, "spooled": 0}, 0, numbers=numbered([(1, 16), (18, 22), (30, 40)])
    )
    named = "8 message numbers never seen: 17, 23–29"  # noqa: RUF001
    assert found.problems == [f"{named} (1 messages were refused)"]
    numbers = account_document(found)["numbers"]
    assert numbers["missing"] == [(17, 17), (23, 29)]
    assert (numbers["missing_messages"], numbers["seen"], numbers["highest"]) == (8, 32, 40)


def test_many_gaps_are_named_the_latest_first_of_all() -> None:
    ranges = [(10 * n, 10 * n + 8) for n in range(15)]
    found = account(BALANCED | {"settled": 10, "spooled": 0}, 0, numbers=numbered(ranges))
    assert found.problems[0].startswith("14 message numbers never seen: 4 gaps, and 49, 59, 69, ")


@pytest.mark.parametrize(
    "more",
    [
        {"in_flight": InFlight(messages={AGENT: 3}, oldest_ms={AGENT: NOW - AGE_MS - 1})},
        {"on_disk": {"api": 1}},
    ],
)
def test_gaps_are_open_while_old_messages_are_on_their_way(more: dict[str, Any]) -> None:
    counts = BALANCED | {"accepted": 12, "settled": 9, "spooled": 0}
    counts = counts | ({"accepted": 10} if "on_disk" in more else {})
    found = account(counts, **more, numbers=numbered([(1, 16), (18, 22)]))
    assert found.problems == []
    assert found.gaps.open == [(17, 17)]


def test_gaps_are_missing_while_only_young_messages_are_on_their_way() -> None:
    counts = BALANCED | {"settled": 9, "spooled": 0, "refused:not_json": 0}
    in_flight = InFlight(messages={AGENT: 1}, oldest_ms={AGENT: NOW - 20})
    found = account(counts, in_flight=in_flight, numbers=numbered([(1, 16), (18, 22)]))
    assert found.problems == ["1 message numbers never seen: 17"]


def test_rows_are_compared_where_it_is_quiet() -> None:
    counts = BALANCED | {"settled": 10, "spooled": 0}

    def problems(found: int | None, **more: Any) -> list[str]:
        given: dict[str, Any] = {"rows": {AGENT: found}, "young": frozenset({AGENT})}
        return account(counts, 0, **(given | more)).problems

    assert problems(50) == problems(52) == problems(None) == []
    assert problems(49) == ["1 rows missing in the table"]
    assert problems(53) == ["1 more rows than the ledger knows"]
    # Rows may be there that the ledger does not know: from before it, or not settled yet.
    assert problems(53, young=frozenset()) == []
    assert problems(53, after={AGENT: counts | {"accepted": 11}}) == []
    assert problems(49, young=frozenset()) == ["1 rows missing in the table"]


def test_those_with_problems_come_first_and_the_rest_is_counted() -> None:
    agents = {f"{n:08d}{AGENT[8:]}": BALANCED for n in range(30)}
    last = max(agents)
    agents[last] = BALANCED | {"accepted": 11}
    in_flight = InFlight(messages=dict.fromkeys(agents, 1))
    seen = evidence({}, before=agents, after=agents, in_flight=in_flight)
    found = whole(seen, most=3)
    found = replace(found, accounts=[replace(a, counts=agents[a.agent]) for a in found.accounts])
    shown = text(found)
    assert shown.splitlines()[0] == (
        "tenant 73eddd385ce8: does not balance; 30 agents, 1 with problems"
    )
    assert "  messages  301 accepted = 210 settled + 60 spooled + 30 in flight" in shown
    assert "  refused   30 messages: not_json 30" in shown
    assert "  rejected  60 readings: no_value 30, too_old 30" in shown
    agent_lines = [line for line in shown.splitlines() if AGENT[8:] in line]
    assert [line.split()[0] for line in agent_lines] == [last, *sorted(agents)[:2]]
    assert agent_lines[0].split() == [last, "11", "7", "3", "60", "50", "8", "2"]
    assert shown.endswith("  and 27 more\n")
    assert [one.agent for one in whole(seen, problems=True).accounts] == [last]
    assert len(whole(seen).accounts) == document(found)["agents_total"] == 30
    assert document(found)["agents_with_problems"] == 1


def test_a_later_reading_replaces_the_one_that_was_in_doubt() -> None:
    torn = evidence(BALANCED | {"accepted": 12})
    assert in_doubt(torn) == [AGENT]
    again = evidence(BALANCED).reading
    assert in_doubt(replace(torn, again={AGENT: again})) == []
    assert whole(replace(torn, again={AGENT: again})).balanced is True
    assert in_doubt(replace(torn, again={AGENT: torn.reading})) == [AGENT]


class Pipeline:
    """A model: streams, counters, and an audit that other things happen during."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.live: list[int] = []
        self.backfill: list[int] = []
        self.spool = 0
        self.next_id = 1
        self.kinds = (self.accept, self.shed, self.settle, self.move, self.put, self.take)
        # Some seeds have much of one kind, and little or nothing of others.
        self.weights = [self.dice.choice((0, 1, 5)) for _ in self.kinds]

    def happen(self, most: int = 6) -> None:
        if any(self.weights):
            kinds = self.dice.choices(self.kinds, self.weights, k=self.dice.randint(0, most))
            for kind in kinds:
                kind()

    def fill(self) -> None:
        for _ in range(60):
            self.dice.choice((self.accept, self.accept, *self.kinds))()

    def _add(self, stream: list[int]) -> None:
        stream.append(self.next_id)
        self.next_id += 1

    def accept(self) -> None:
        self._add(self.live)
        self.counts["accepted"] += 1

    def shed(self) -> None:
        self._add(self.backfill)
        self.counts["accepted"] += 1

    def _pop(self) -> bool:
        streams = [stream for stream in (self.live, self.backfill) if stream]
        if not streams:
            return False
        stream = self.dice.choice(streams)
        stream.remove(self.dice.choice(stream))
        return True

    def settle(self) -> None:
        if self._pop():
            self.counts["settled"] += 1
            self.counts["readings"] += 5
            self.counts["stored"] += 3
            self.counts["rejected:too_old"] += 2

    def move(self) -> None:
        if self.live:
            self.live.remove(self.dice.choice(self.live))
            self._add(self.backfill)

    def put(self) -> None:
        if self._pop():
            self.counts["spooled"] += 1
            self.spool += 1

    def take(self) -> None:
        if self.spool:
            self.spool -= 1
            self.counts["spooled"] -= 1
            self.counts["settled"] += 1

    def lose(self) -> None:
        self._pop()

    def audit(self, happen: Callable[[], None]) -> Account:
        happen()
        before = dict(self.counts)
        happen()
        live_end = self.live[-1] if self.live else 0
        happen()  # the two ends are not read at one moment
        backfill_end = self.backfill[-1] if self.backfill else 0
        found = self._scan(self.backfill, 0, backfill_end, happen)
        found += self._scan(self.live, 0, live_end, happen)
        added = self._scan(self.backfill, backfill_end, self.next_id + 1000, happen)
        happen()
        in_flight = InFlight(messages={AGENT: found}, added={AGENT: added})
        after = {AGENT: dict(self.counts)}
        return judged(evidence(before, in_flight=in_flight, after=after), AGENT)

    def _scan(self, stream: list[int], start: int, end: int, happen: Callable[[], None]) -> int:
        found = 0
        while page := [one for one in stream if start < one <= end][:2]:
            found, start = found + len(page), page[-1]
            happen()
        return found


@pytest.mark.parametrize("seed", range(300))
def test_whatever_happens_during_an_audit_a_sound_ledger_balances(seed: int) -> None:
    pipeline = Pipeline(seed)
    pipeline.fill()
    moving = pipeline.audit(pipeline.happen)
    assert moving.problems == []
    quiet = pipeline.audit(lambda: None)
    assert quiet.problems == []
    assert quiet.messages.came.least == quiet.messages.came.most
    assert quiet.messages.accounted.least == quiet.messages.accounted.most


@pytest.mark.parametrize("seed", range(50))
def test_once_it_is_quiet_a_single_lost_message_shows(seed: int) -> None:
    pipeline = Pipeline(seed)
    pipeline.fill()
    pipeline.accept()
    pipeline.lose()
    assert pipeline.audit(lambda: None).problems == ["1 messages came that nothing accounts for"]
