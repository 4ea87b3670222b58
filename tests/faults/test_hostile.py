"""Hostile payloads against the decoder, in this process; the long run feeds a million."""

from __future__ import annotations

import pytest
from tests.faults.hostile import KINDS, Hostile
from tests.faults.ordeal import GOOD_AGENT, HOSTILE_AGENT, NOW_MS, Ordeal


@pytest.fixture(scope="module")
def ordeal() -> Ordeal:
    ordeal = Ordeal("short")
    for _ in range(40):
        ordeal.batch()
    return ordeal


def test_every_hostile_message_is_decided_and_its_neighbors_are_stored(ordeal: Ordeal) -> None:
    found = ordeal.findings
    assert found.undecided == 0
    assert found.hostile == found.rejected + found.stored + found.empty == 9600
    assert (found.good, found.good_suffered) == (2400, 0)


def test_neither_memory_nor_time_is_lost_on_them(ordeal: Ordeal) -> None:
    assert ordeal.findings.well, ordeal.findings


def test_the_kinds_break_every_rule_that_a_payload_can_break(ordeal: Ordeal) -> None:
    assert set(ordeal.findings.kinds) == set(KINDS)
    assert set(ordeal.findings.reasons) >= {
        *("inflate_corrupt", "inflate_too_large", "json", "messagepack", "utf8", "too_deep"),
        *("reading_form", "text_too_long", "text_nul", "value_not_finite"),
        *("time_invalid", "time_too_old", "time_in_future"),
    }


def test_the_same_seed_makes_the_same_payloads() -> None:
    first, again, other = (
        [Hostile(seed, HOSTILE_AGENT, now_us=NOW_MS * 1000).make() for _ in range(3)]
        for seed in ("a", "a", "b")
    )
    assert first == again != other


def test_a_neighbor_that_suffers_is_noticed() -> None:
    ordeal = Ordeal("suffering")
    ordeal._context.remove_agents([GOOD_AGENT])
    ordeal.batch(40)
    assert ordeal.findings.good_suffered == 10
    assert not ordeal.findings.well
