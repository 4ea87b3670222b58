"""Token buckets, by a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica.quotas import Bucket, Quota, Quotas


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 500)), max_size=100))
def test_no_bucket_lets_more_through_than_its_rate_and_one_burst(
    steps: list[tuple[float, int]],
) -> None:
    clock = Clock()
    bucket, passed, largest, start = Bucket(100.0, clock=clock), 0, 0, clock.now
    for pause_s, amount in steps:
        clock.now += pause_s
        if bucket.has_tokens():
            bucket.take(amount)
            passed, largest = passed + amount, max(largest, amount)
    assert passed <= 100 * (clock.now - start) + 1000 + largest


def test_what_is_over_quota_is_not_paid() -> None:
    clock = Clock()
    quotas = Quotas(default=Quota(messages_per_s=10), clock=clock)
    assert quotas.allows("t", messages=1000, bytes=1)
    for _ in range(100):
        assert not quotas.allows("t", messages=1000, bytes=1)
    clock.now += 90.1  # the debt of 900 is paid off
    assert quotas.allows("t", messages=1, bytes=1)


def test_tenants_do_not_share_a_bucket() -> None:
    quotas = Quotas(default=Quota(bytes_per_s=10), clock=Clock())
    assert quotas.allows("a", bytes=1000)
    assert not quotas.allows("a", bytes=1)
    assert quotas.allows("b", bytes=1)


def test_a_tenants_own_quota_goes_before_the_default_and_may_change() -> None:
    clock = Clock()
    quotas = Quotas(default=Quota(messages_per_s=1, bytes_per_s=1e9), clock=clock)
    quotas.set({"a": Quota(messages_per_s=1000)})
    assert quotas.allows("a", messages=5000, bytes=1)
    assert quotas.allows("a", messages=1, bytes=1)
    quotas.set({})
    assert quotas.allows("a", messages=11, bytes=1)
    assert not quotas.allows("a", messages=1, bytes=1)


@pytest.mark.parametrize("amounts", [{"messages": 1}, {"readings": 10**9}, {"bytes": 10**9}])
def test_without_a_quota_everything_passes(amounts: dict[str, int]) -> None:
    quotas = Quotas(default=Quota(), clock=Clock())
    assert all(quotas.allows("t", **amounts) for _ in range(1000))


def test_the_processes_of_a_platform_share_its_quota() -> None:
    clock = Clock()
    quotas = Quotas(default=Quota(messages_per_s=10), share=2, clock=clock)
    assert quotas.allows("t", messages=51)
    assert not quotas.allows("t", messages=1)
    clock.now += 0.3
    assert quotas.allows("t", messages=1)


def test_a_tenants_quota_is_divided_by_those_who_read_its_stream() -> None:
    clock = Clock()
    quotas = Quotas(default=Quota(readings_per_s=10), clock=clock)
    quotas.divide("t", 4)
    quotas.divide("u", 0)
    assert quotas.allows("t", readings=26)
    assert not quotas.allows("t", readings=1)
    clock.now += 0.5
    assert quotas.allows("t", readings=1)
    assert quotas.allows("u", readings=99)
    assert quotas.within("u", "readings")
