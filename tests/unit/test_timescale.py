"""Which versions of TimescaleDB are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica.errors import ConfigError
from iotistica.store.timescale import Fitness, judge, parse

numbers = st.tuples(st.integers(0, 99), st.integers(0, 999), st.integers(0, 999))


@given(numbers)
def test_a_release_is_refused_exactly_below_2_18_1(version: tuple[int, int, int]) -> None:
    text = ".".join(map(str, version))
    verdict = judge(installed=text, available=text, postgres_major=16)
    assert (verdict.fitness is Fitness.REFUSED) == (version < (2, 18, 1))
    assert text in verdict.text


@given(numbers, st.sampled_from(["-dev", "-rc1", "-beta2"]))
def test_a_pre_release_is_older_than_its_release(
    version: tuple[int, int, int], suffix: str
) -> None:
    text = ".".join(map(str, version)) + suffix
    verdict = judge(installed=text, available=None, postgres_major=16)
    assert (verdict.fitness is Fitness.REFUSED) == (version <= (2, 18, 1))


@given(st.text(max_size=60))
def test_any_text_gets_a_verdict(text: str) -> None:
    verdict = judge(installed=text, available=text, postgres_major=15)
    if parse(text) is None:
        assert verdict.fitness is Fitness.OUTDATED
        assert "which says nothing" in verdict.text


@given(numbers, numbers)
def test_what_the_database_has_decides_and_not_what_the_server_has(
    installed: tuple[int, int, int], available: tuple[int, int, int]
) -> None:
    verdict = judge(
        installed=".".join(map(str, installed)),
        available=".".join(map(str, available)),
        postgres_major=16,
    )
    if installed < (2, 18, 1):
        assert verdict.fitness is Fitness.REFUSED
        assert "ALTER EXTENSION timescaledb UPDATE" in verdict.advice
        assert ("install TimescaleDB" in verdict.advice) == (available < (2, 18, 1))
    elif installed < available:
        assert verdict.fitness is Fitness.OUTDATED
        assert "ALTER EXTENSION timescaledb UPDATE" in verdict.advice
    else:
        assert verdict.fitness is Fitness.GOOD


def test_an_old_version_is_an_error_that_names_version_rule_and_cure() -> None:
    verdict = judge(installed="2.17.2", available="2.20.0", postgres_major=16)
    with pytest.raises(ConfigError) as refused:
        verdict.enforce()
    assert str(refused.value) == (
        "TimescaleDB 2.17.2 is too old: 2.18.1 or newer is required, older ones lose rows where "
        "compressed chunks get readings again; run `ALTER EXTENSION timescaledb UPDATE` as the "
        "first command of a new session"
    )


@pytest.mark.parametrize(
    ("version", "major", "fitness"),
    [
        ("2.28.3", 15, Fitness.NOTABLE),
        ("2.28.0", 16, Fitness.GOOD),
        ("2.27.1", 15, Fitness.GOOD),
        ("2.19", 15, Fitness.GOOD),
    ],
)
def test_the_last_series_for_postgresql_15_is_said(
    version: str, major: int, fitness: Fitness
) -> None:
    verdict = judge(installed=version, available=version, postgres_major=major)
    assert verdict.fitness is fitness
    assert ("last series for PostgreSQL 15" in verdict.text) == (fitness is Fitness.NOTABLE)
    verdict.enforce()


def test_no_extension_is_no_news() -> None:
    verdict = judge(installed=None, available=None, postgres_major=16)
    assert (verdict.fitness, verdict.text) == (Fitness.GOOD, "no TimescaleDB")
