"""Which rule counts for a metric, and what goes."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from iotistica.retention import Rule, going, governing, quota_since
from iotistica.series.levels import Plan, plan

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/retention.json").read_text())
TODAY = date(2026, 3, 10)


def rule(pattern: str, keep_days: int = 7) -> Rule:
    return Rule(pattern=pattern, keep_days=keep_days)


@pytest.mark.parametrize(("pattern", "metric", "fits"), VECTORS["fits"])
def test_a_pattern_fits(pattern: str, metric: str, fits: bool) -> None:
    assert rule(pattern).fits(metric) is fits


@pytest.mark.parametrize("case", VECTORS["governs"])
def test_the_most_specific_rule_counts(case: dict[str, Any]) -> None:
    rules = [rule(*one) for one in case["rules"]]
    for some in (rules, rules[::-1]):
        found = governing(some, case["metric"])
        assert (found and found.pattern) == case["governs"]


def test_what_goes_is_counted_by_metric_the_most_first() -> None:
    stored = {
        (metric, TODAY - timedelta(days=age)): 10 * age
        for metric in ("a", "b", "c")
        for age in range(1, 5)
    }
    rules = [rule("a", 3), rule("b", 2), rule("*", 90)]
    found = going(rules, stored, TODAY)
    assert [(one.metric, one.readings, one.oldest, one.first_kept) for one in found] == [
        ("b", 70, date(2026, 3, 6), date(2026, 3, 8)),
        ("a", 40, date(2026, 3, 6), date(2026, 3, 7)),
    ]


@pytest.mark.parametrize(
    ("most", "since"),
    [
        (1000, None),
        (90, None),  # as many as there are
        (89, date(2026, 3, 3)),
        (80, date(2026, 3, 3)),
        (79, date(2026, 3, 4)),
        (20, date(2026, 3, 9)),
        (1, date(2026, 3, 9)),  # the newest two days stay
    ],
)
def test_the_oldest_days_go_until_the_quota_is_kept(most: int, since: date | None) -> None:
    days = {date(2026, 3, 2) + timedelta(days=n): 10 for n in range(9)}
    assert quota_since(days, most, TODAY) == since


@pytest.mark.parametrize(
    ("span", "cut", "chosen"),
    [
        (timedelta(hours=1), (), Plan("raw", timedelta(seconds=5))),
        (timedelta(hours=1), ("raw",), Plan("1m", timedelta(minutes=1))),
        (timedelta(hours=1), ("raw", "1m"), Plan("1h", timedelta(hours=1))),
        (timedelta(days=1), ("raw",), Plan("1m", timedelta(minutes=2))),
        (timedelta(days=1), ("raw", "1m"), Plan("1h", timedelta(hours=1))),
        (timedelta(days=1), ("raw", "1m", "1h"), Plan("daily", timedelta(days=1))),
        (timedelta(days=1), ("1h",), Plan("1m", timedelta(minutes=2))),
    ],
)
def test_what_is_removed_is_answered_from_a_coarser_level(
    span: timedelta, cut: tuple[str, ...], chosen: Plan
) -> None:
    assert plan(span, 1000, cut=cut) == chosen
