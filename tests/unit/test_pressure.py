"""Pressure: slow commits make batches smaller, quick ones let them grow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iotistica.ingestion.pressure import Pressure


def test_halves_while_commits_are_slow_and_recovers_step_by_step() -> None:
    pressure = Pressure(high_ms=5_000)
    pressure.saw(5_001)
    pressure.saw(9_000)
    assert pressure.share == 0.25
    pressure.saw(3_000)  # neither slow nor quick
    assert pressure.share == 0.25
    for _ in range(20):
        pressure.saw(0)
    assert pressure.share == 1.0


@given(st.lists(st.floats(0, 1e6)))
def test_is_never_nothing_and_never_more_than_all(commits_ms: list[float]) -> None:
    pressure = Pressure(high_ms=5_000)
    for commit_ms in commits_ms:
        pressure.saw(commit_ms)
        assert 0 < pressure.share <= 1
