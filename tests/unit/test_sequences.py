"""The numbers of an agent's messages: merging them, and judging the gaps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica import sequences
from iotistica.audit.gaps import judge
from iotistica.sequences import AGE_MS, MOST_RANGES, REORDERED, Numbering, Range, merge, run_text

NOW = 1_795_453_097_011
NUMBERS = st.integers(min_value=2, max_value=400)
RANGES = st.tuples(NUMBERS, st.integers(min_value=0, max_value=30)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)


def seen(*batches: list[Range], apart_ms: int = 0) -> Numbering:
    state = Numbering()
    for number, ranges in enumerate(batches):
        state = merge(state, ranges, NOW + number * apart_ms)
    return state


def runs(state: Numbering) -> tuple[str, str]:
    return run_text(state.previous), run_text(state.current)


@given(
    st.lists(RANGES, max_size=40).flatmap(lambda one: st.tuples(st.just(one), st.permutations(one)))
)
def test_any_order_gives_the_same_ranges(orders: tuple[list[Range], list[Range]]) -> None:
    given, other = (seen(*([one] for one in order)) for order in orders)
    assert (given.current, given.seen) == (other.current, other.seen)
    expected = {number for low, high in orders[0] for number in range(low, high + 1)}
    assert {n for low, high in given.current for n in range(low, high + 1)} == expected
    assert given.seen == len(expected)
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(given.current))


@given(st.lists(RANGES, max_size=40))
def test_one_batch_is_as_good_as_many(ranges: list[Range]) -> None:
    assert seen(ranges).current == seen(*([one] for one in ranges)).current


@given(st.lists(RANGES, max_size=20))
def test_text_and_back_is_the_same(ranges: list[Range]) -> None:
    state = seen([(1, 1000)], [(1, 3)], ranges)
    assert sequences.parse(sequences.text(state)) == state


def test_no_text_is_nothing_seen() -> None:
    assert sequences.parse("") == Numbering()


def test_text_of_another_form_is_named() -> None:
    with pytest.raises(ValueError, match="the numbers of an agent are '1-2'; that is not"):
        sequences.parse("1-2")


def test_numbering_from_one_again_begins_anew() -> None:
    state = seen([(1, 500)], [(1, 3)], [(4, 4), (6, 6)])
    assert state.restarts == 1
    assert runs(state) == ("1-500", "1-4,6")


def test_numbering_from_zero_again_begins_anew() -> None:
    state = seen([(0, 500)], [(0, 3)])
    assert (state.restarts, runs(state)) == (1, ("0-500", "0-3"))


def test_numbering_begins_anew_below_a_ledger_that_began_in_its_middle() -> None:
    state = seen([(4711, 5000)], [(1, 3)])
    assert (state.restarts, runs(state)) == (1, ("4711-5000", "1-3"))


def test_a_message_that_comes_twice_is_no_new_beginning() -> None:
    state = seen([(1, REORDERED)], [(1, 1)])
    assert (state.restarts, state.seen, runs(state)) == (0, REORDERED, ("", f"1-{REORDERED}"))


def test_a_first_message_that_comes_late_is_no_new_beginning() -> None:
    state = seen([(2, 40)], [(1, 1)])
    assert (state.restarts, runs(state)) == (0, ("", "1-40"))


def test_the_last_messages_of_a_run_may_come_after_the_first_of_the_next() -> None:
    assert runs(seen([(1, 499)], [(1, 10), (500, 503)], [(505, 505)])) == ("1-503,505", "1-10")


def test_a_new_beginning_that_was_none_hides_no_gap() -> None:
    # The broker gave the first message once more, long after.
    state = seen([(1, 5000)], [(1, 1)], [(5001, 5001)], [(5003, 5003)])
    assert runs(state) == ("1-5001,5003", "1")


def test_what_was_missing_in_older_runs_is_counted() -> None:
    state = seen([(1, 500), (503, 600)], [(1, 3)])
    assert (state.restarts, state.missed) == (1, 0)
    state = merge(state, [(700, 900)], NOW)
    assert runs(state) == ("1-500,503-600,700-900", "1-3")
    state = merge(merge(state, [(4, 300)], NOW), [(1, 2)], NOW)
    assert (state.restarts, state.missed) == (2, 2 + 99)


def test_old_gaps_are_forgotten_and_counted() -> None:
    state = seen(*([(3 * number, 3 * number)] for number in range(1, MOST_RANGES + 11)))
    assert len(state.current) == MOST_RANGES
    assert state.current[0] == (3, 33)
    assert state.forgotten == 20
    assert state.seen == MOST_RANGES + 10


def test_gaps_are_open_until_they_are_old() -> None:
    state = seen([(1, 3)], [(5, 5)], apart_ms=10)

    def found(now_ms: int) -> tuple[list[Range], list[Range]]:
        gaps = judge(Numbering(), state, now_ms=now_ms, may_come=False)
        return list(gaps.missing), list(gaps.open)

    assert found(NOW + AGE_MS - 1) == ([], [(4, 4)])
    assert found(NOW + 2 * AGE_MS) == ([(4, 4)], [])


def test_gaps_of_an_agent_that_never_pauses_are_named_as_they_get_old() -> None:
    state = Numbering()
    for second in range(60):
        if second != 20:
            state = merge(state, [(second + 1, second + 1)], NOW + second * 1000)
        gaps = judge(Numbering(), state, now_ms=NOW + second * 1000, may_come=False)
        if 20 < second <= 20 + AGE_MS / 1000:
            assert (gaps.missing, gaps.open) == ([], [(21, 21)])
        if second >= 20 + 3 * AGE_MS / 1000:
            assert (gaps.missing, gaps.open) == ([(21, 21)], [])


def test_gaps_are_open_while_old_messages_are_on_their_way() -> None:
    state = seen([(1, 3), (5, 9)])
    gaps = judge(Numbering(), state, now_ms=NOW + 100 * AGE_MS, may_come=True)
    assert (gaps.missing, gaps.open) == ([], [(4, 4)])
    assert not gaps.troubled


def test_an_agent_without_numbers_has_no_gaps() -> None:
    assert judge(Numbering(), Numbering(), now_ms=NOW, may_come=False) is None


def test_what_fell_into_a_loss_of_redis_is_unknown() -> None:
    past = merge(seen([(1, 10), (13, 20)]), [(21, 30), (33, 40)], NOW + AGE_MS)
    assert past.settled == 20
    live = merge(Numbering(), [(50, 60), (62, 70)], NOW + 3 * AGE_MS)
    gaps = judge(past, live, now_ms=NOW + 9 * AGE_MS, may_come=False)
    assert gaps.missing == [(11, 12), (61, 61)]
    assert gaps.unknown == [(31, 32), (41, 49)]
    assert (gaps.highest, gaps.seen) == (70, 56)


def test_what_a_spool_brings_after_a_loss_fills_its_gap() -> None:
    past = merge(seen([(1, 10), (13, 20)]), [(30, 40)], NOW + AGE_MS)
    live = seen([(21, 29), (45, 50)])
    gaps = judge(past, live, now_ms=NOW + 9 * AGE_MS, may_come=False)
    assert (gaps.missing, gaps.unknown) == ([(11, 12)], [(41, 44)])


def test_numbering_that_begins_anew_during_a_loss_stands_alone() -> None:
    past = merge(seen([(1, 10), (13, 20)]), [(30, 40)], NOW + AGE_MS)
    live = seen([(1, 5), (8, 8)])
    gaps = judge(past, live, now_ms=NOW + 9 * AGE_MS, may_come=False)
    assert (gaps.missing, gaps.unknown, gaps.highest) == ([(11, 12), (6, 7)], [(21, 29)], 8)


def test_a_second_loss_keeps_the_sum_of_the_first() -> None:
    first, second = seen([(1, 10), (13, 20)]), seen([(40, 50), (52, 60)])
    past = sequences.fold(first, second)
    assert (past.missed, past.seen, past.current) == (2, 38, ((40, 50), (52, 60)))
    assert sequences.fold(first, Numbering()) == first
    gaps = judge(past, Numbering(), now_ms=NOW + 9 * AGE_MS, may_come=False)
    assert gaps.missing_messages == 2


def test_a_number_zero_may_stand_before_a_gap() -> None:
    gaps = judge(Numbering(), seen([(0, 0), (2, 9)]), now_ms=NOW + 9 * AGE_MS, may_come=False)
    assert gaps.missing == [(1, 1)]


def test_times_are_no_numbers() -> None:
    state = seen(*([(1_795_453_097 + 60 * minute,) * 2] for minute in range(50)))
    gaps = judge(Numbering(), state, now_ms=NOW + 9 * AGE_MS, may_come=False)
    assert gaps.missing_messages == 49 * 59
    assert not gaps.is_count
    assert not gaps.troubled
