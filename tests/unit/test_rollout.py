"""How many agents may have a job next, and when it is given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from iotistica.jobs.rollout import AbortRule, Counts, Pace, Rollout, decide

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVEN = Rollout(base_rate_per_minute=60)
GROWING = Rollout(
    base_rate_per_minute=10,
    increment_factor=2,
    increase_every_succeeded=100,
    maximum_per_minute=1000,
)


@pytest.mark.parametrize(
    ("succeeded", "rate"),
    [(0, 10), (99, 10), (100, 20), (299, 40), (600, 640), (700, 1000), (10**9, 1000)],
)
def test_the_rate_grows_with_successes_up_to_its_ceiling(succeeded: int, rate: float) -> None:
    assert GROWING.rate(succeeded) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("pace", "waiting", "release", "credit"),
    [
        (Pace(), 100, 1, 0.0),
        (Pace(), 0, 0, 1.0),
        (Pace(NOW, 0.0), 100, 0, 0.0),
        (Pace(NOW - timedelta(seconds=0.5), 0.25), 100, 0, 0.75),
        (Pace(NOW - timedelta(seconds=1)), 100, 1, 0.0),
        (Pace(NOW - timedelta(seconds=2.5), 0.5), 100, 3, 0.0),
        (Pace(NOW - timedelta(seconds=10)), 4, 4, 1.0),
        # A process that was away for a day does not make up for it.
        (Pace(NOW - timedelta(days=1)), 10_000, 60, 0.0),
        # A clock that went back.
        (Pace(NOW + timedelta(days=1), 0.5), 100, 0, 0.5),
    ],
)
def test_agents_are_let_in_by_the_rate(
    pace: Pace, waiting: int, release: int, credit: float
) -> None:
    decision = decide(EVEN, [], Counts(waiting=waiting), pace, NOW)
    assert (decision.release, decision.abort) == (release, None)
    assert decision.pace.at == NOW
    assert decision.pace.credit == pytest.approx(credit)


def test_a_low_rate_comes_to_whole_agents_in_time() -> None:
    slow, pace, released = Rollout(base_rate_per_minute=7), Pace(), 0
    for second in range(601):
        now = NOW + timedelta(seconds=second)
        decision = decide(slow, [], Counts(waiting=1000 - released), pace, now)
        pace, released = decision.pace, released + decision.release
    assert released == 71


def test_without_a_rollout_everybody_may_have_it() -> None:
    assert decide(None, [], Counts(waiting=7), Pace(), NOW).release == 7


@pytest.mark.parametrize(
    ("rule", "counts", "reason"),
    [
        (
            AbortRule(threshold_percent=20, min_executed=10),
            Counts(succeeded=8, failed=1, timed_out=1, queued=5),
            "2 of 10 agents that are done: failed, timed out or refused; the limit is 20 %",
        ),
        (AbortRule(threshold_percent=20, min_executed=10), Counts(failed=9), None),
        (AbortRule(threshold_percent=20), Counts(succeeded=9, rejected=2, canceled=9), None),
        (
            AbortRule(threshold_percent=33.5, failure_type="REJECTED"),
            Counts(succeeded=1, rejected=1),
            "1 of 2 agents that are done: REJECTED; the limit is 33.5 %",
        ),
        (
            AbortRule(threshold_percent=1, failure_type="FAILED"),
            Counts(succeeded=1, rejected=5, timed_out=9),
            None,
        ),
        (
            AbortRule(threshold_percent=50, failure_type="TIMED_OUT"),
            Counts(timed_out=1, failed=1),
            "1 of 2 agents that are done: TIMED_OUT; the limit is 50 %",
        ),
        (AbortRule(threshold_percent=1), Counts(waiting=5), None),
    ],
)
def test_a_job_is_given_up_where_too_many_fail(
    rule: AbortRule, counts: Counts, reason: str | None
) -> None:
    decision = decide(EVEN, [rule], counts, Pace(NOW - timedelta(seconds=1)), NOW)
    assert decision.abort == reason
    assert decision.release == (0 if reason else min(1, counts.waiting))


def test_any_rule_gives_it_up() -> None:
    rules = [
        AbortRule(threshold_percent=90),
        AbortRule(threshold_percent=10, failure_type="REJECTED"),
    ]
    decision = decide(EVEN, rules, Counts(succeeded=8, rejected=2), Pace(), NOW)
    assert decision.abort == "2 of 10 agents that are done: REJECTED; the limit is 10 %"
