"""The circuit breaker, by a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica.breaker import Breaker, State


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=5, probe_s=30, successes=3, clock=clock)


def opened(breaker: Breaker) -> Breaker:
    for _ in range(5):
        breaker.failed()
    return breaker


def test_five_failures_in_a_row_open_it(breaker: Breaker) -> None:
    for _ in range(4):
        breaker.failed()
    assert breaker.permits()
    breaker.failed()
    assert breaker.state is State.OPEN
    assert not breaker.permits()
    assert breaker.opened == 1


def test_a_success_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    for _ in range(20):
        for _ in range(4):
            breaker.failed()
        breaker.succeeded()
    assert breaker.is_closed


def test_after_thirty_seconds_one_caller_asks(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 29.9
    assert not breaker.permits()
    assert breaker.retry_after_s() == pytest.approx(0.1)
    clock.now += 0.1
    assert breaker.permits()
    assert breaker.state is State.HALF_OPEN
    assert not breaker.permits()


def test_three_successes_close_it(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 30
    for _ in range(3):
        assert not breaker.is_closed
        assert breaker.permits()
        breaker.succeeded()
    assert breaker.is_closed
    assert breaker.retry_after_s() == 0


def test_a_failed_probe_opens_it_again(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 30
    assert breaker.permits()
    breaker.succeeded()
    assert breaker.permits()
    breaker.failed()
    assert breaker.state is State.OPEN
    assert breaker.retry_after_s() == 30
    assert breaker.opened == 2


def test_a_probe_that_never_reports_does_not_block_it_forever(
    breaker: Breaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += 30
    assert breaker.permits()
    clock.now += 30
    assert breaker.permits()


def test_a_success_from_before_it_opened_does_not_close_it(breaker: Breaker) -> None:
    opened(breaker)
    for _ in range(10):
        breaker.succeeded()
    assert breaker.state is State.OPEN


@given(st.lists(st.sampled_from(["ask", "wait", "succeed", "fail"]), max_size=200))
def test_it_never_closes_without_three_successes_after_it_opened(events: list[str]) -> None:
    clock = Clock()
    breaker = Breaker(failures=2, probe_s=10, successes=3, clock=clock)
    since_open = 0
    for event in events:
        before = breaker.state
        match event:
            case "ask":
                breaker.permits()
            case "wait":
                clock.now += 10
            case "succeed":
                breaker.succeeded()
                since_open += before is State.HALF_OPEN
            case "fail":
                breaker.failed()
        if breaker.state is State.OPEN:
            since_open = 0
        if before is not State.CLOSED and breaker.is_closed:
            assert since_open >= 3
