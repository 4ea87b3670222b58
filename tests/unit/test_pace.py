"""Pace: how many entries make a batch."""

from __future__ import annotations

from iotistica.ingestion.pace import Pace


def test_begins_small() -> None:
    assert Pace(most_entries=200).count == 8
    assert Pace(most_entries=5).count == 5


def test_learns_that_entries_are_large() -> None:
    pace = Pace(most_entries=200)
    pace.learn(entries=8, readings=8 * 24_000)
    assert pace.count == 2


def test_never_reads_less_than_one_entry() -> None:
    pace = Pace(most_entries=200)
    pace.learn(entries=1, readings=10_000_000)
    assert pace.count == 1


def test_never_reads_more_than_the_setting() -> None:
    pace = Pace(most_entries=200)
    pace.learn(entries=100, readings=0)
    assert pace.count == 200


def test_follows_a_change_within_a_few_batches() -> None:
    pace = Pace(most_entries=200)
    pace.learn(entries=200, readings=200)
    for _ in range(10):
        pace.learn(entries=10, readings=10 * 5_000)
    assert pace.count in (10, 11)
