"""How many workers: every rule of the decision, and what no sequence of observations breaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica.ingestion.scaler import Observation, Rules, State, decide

RULES = Rules(
    least=1,
    most=8,
    lag_target_ms=5_000,
    lag_scale_up_ms=2_000,
    lag_critical_ms=10_000,
    stable_checks=3,
    cooldown_s=3,
    db_block_pct=80,
)
CALM = Observation(lag_ms=500)


def run(seen: list[Observation], rules: Rules = RULES, workers: int = 4) -> list[int]:
    """Workers after each observation, one a second."""
    state, found = State(workers=workers), []
    for second, one in enumerate(seen):
        state = decide(state, one, rules, float(second))
        found.append(state.workers)
    return found


@pytest.mark.parametrize(
    ("lag_ms", "workers"),
    [(0, 4), (1_999, 4), (2_001, 5), (9_999, 5), (10_001, 7), (60_000, 7)],
)
def test_lag_decides_by_how_many_to_grow(lag_ms: float, workers: int) -> None:
    assert run([Observation(lag_ms=lag_ms)]) == [workers]


def test_a_critical_lag_below_the_target_adds_as_many_as_targets_fit_into_it() -> None:
    rules = replace(RULES, lag_target_ms=20_000)
    assert run([Observation(lag_ms=15_000)], rules) == [5]


def test_after_a_change_nothing_changes_for_the_cooldown() -> None:
    assert run([Observation(lag_ms=3_000)] * 7) == [5, 5, 5, 6, 6, 6, 7]


def test_it_shrinks_only_after_so_many_calm_checks() -> None:
    assert run([CALM] * 3) == [4, 4, 3]
    assert run([CALM, CALM, Observation(lag_ms=1_500), CALM, CALM, CALM]) == [4, 4, 4, 4, 4, 3]


def test_it_does_not_shrink_while_commits_are_slow() -> None:
    assert run([replace(CALM, commit_p95_ms=5_001)] * 10) == [4] * 10


@pytest.mark.parametrize(
    "busy", [{"pool_pct": 80.0}, {"database_trouble": True}], ids=["pool", "trouble"]
)
def test_it_does_not_grow_where_the_database_is_the_limit(busy: dict[str, float]) -> None:
    assert run([Observation(lag_ms=60_000, **busy)] * 5) == [4] * 5  # type: ignore[arg-type]


def test_a_lag_between_calm_and_growth_changes_nothing() -> None:
    assert run([Observation(lag_ms=RULES.calm_ms + 1)] * 100) == [4] * 100


OBSERVATIONS = st.builds(
    Observation,
    lag_ms=st.floats(0, 1e6),
    commit_p95_ms=st.floats(0, 1e5),
    pool_pct=st.floats(0, 100),
    database_trouble=st.booleans(),
)
ANY_RULES = st.builds(
    Rules,
    least=st.integers(1, 4),
    most=st.integers(4, 20),
    lag_target_ms=st.floats(1, 20_000),
    lag_scale_up_ms=st.floats(1, 20_000),
    lag_critical_ms=st.floats(1, 20_000),
    stable_checks=st.integers(1, 10),
    cooldown_s=st.floats(0, 10),
    db_block_pct=st.floats(1, 100),
)


@given(st.lists(OBSERVATIONS, max_size=60), ANY_RULES)
def test_never_outside_the_bounds_nor_by_more_than_three_nor_within_the_cooldown(
    seen: list[Observation], rules: Rules
) -> None:
    state = State(workers=4)
    for second, one in enumerate(seen):
        after = decide(state, one, rules, float(second))
        assert rules.least <= after.workers <= rules.most
        assert -1 <= after.workers - state.workers <= 3
        if after.workers != state.workers:
            assert second - state.changed_at_s >= rules.cooldown_s
        if one.database_trouble:
            assert after.workers <= state.workers
        state = after


@given(ANY_RULES, st.floats(0, 1e6), st.integers(50, 200))
def test_a_steady_lag_never_makes_it_swing(rules: Rules, lag_ms: float, checks: int) -> None:
    numbers = run([Observation(lag_ms=lag_ms)] * checks, rules)
    assert numbers in (sorted(numbers), sorted(numbers, reverse=True))
