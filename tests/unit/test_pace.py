"""Pace: how many entries make a batch."""

from __future__ import annotations

from iotistica.ingestion.pace import Pace

FULL = 50_000


def test_begins_small() -> None:
    assert Pace(most_entries=200).entries_for(FULL) == 8
    assert Pace(most_entries=5).entries_for(FULL) == 5


def test_learns_that_entries_are_large() -> None:
    pace = Pace(most_entries=200)
    pace.learn(entries=8, readings=8 * 24_000)
    assert pace.entries_for(FULL) == 2
    assert pace.readings_in(2) == 48_000


def test_never_reads_less_than_one_entry() -> None:
    pace = Pace(most_entries=200)
    pace.learn(entries=1, readings=10_000_000)
    assert pace.entries_for(FULL) == 1


def test_never_reads_more_than_the_setting() -> None:
    pace = Pace(most_entries=200)
    pace.learn(entries=100, readings=0)
    assert pace.entries_for(FULL) == 200


def test_follows_a_change_within_a_few_batches() -> None:
    pace = Pace(most_entries=200)
    pace.learn(entries=200, readings=200)
    for _ in range(10):
        pace.learn(entries=10, readings=10 * 5_000)
    assert pace.entries_for(FULL) in (10, 11)


def test_a_small_batch_of_an_unknown_sender_is_smaller_than_a_full_one() -> None:
    pace = Pace(most_entries=200)
    assert 1 <= pace.entries_for(2_000) < pace.entries_for(FULL)
