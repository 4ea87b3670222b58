"""Turns: shares within bounds, no starvation, no idle slot while somebody waits."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from iotistica.ingestion.scheduler import LaneKey, Scheduler, Turn
from iotistica.keys import Feed

COSTS = st.floats(1, 50_000)
TENANTS = st.dictionaries(st.sampled_from("abcdefgh"), COSTS, min_size=2)


def live(tenant: str) -> LaneKey:
    return tenant, Feed.LIVE


def backfill(tenant: str) -> LaneKey:
    return tenant, Feed.BACKFILL


def serve(scheduler: Scheduler, lane_costs: dict[LaneKey, float], turns: int) -> Counter[LaneKey]:
    """What each lane was given when all of them always have more."""
    given: Counter[LaneKey] = Counter()
    for lane in lane_costs:
        scheduler.add(lane)
    for _ in range(turns):
        turn = scheduler.take()
        assert turn is not None
        cost = lane_costs[turn.lane]
        scheduler.charge(turn, cost)
        given[turn.lane] += cost  # type: ignore[assignment]
        scheduler.add(turn.lane)
    while scheduler.take():
        pass  # all are idle again
    return given


@given(TENANTS)
def test_whatever_a_turn_costs_all_tenants_get_the_same(costs: dict[str, float]) -> None:
    lanes = {live(tenant): cost for tenant, cost in costs.items()}
    given = serve(Scheduler(backfill_share=0.1), lanes, 500)
    assert max(given.values()) - min(given[lane] for lane in lanes) <= 2 * max(costs.values())


@given(st.floats(0.01, 0.5), COSTS, COSTS)
def test_backfill_gets_its_share_while_live_lanes_wait_and_no_more(
    share: float, live_cost: float, late_cost: float
) -> None:
    lanes = {live("a"): live_cost, live("b"): live_cost, backfill("a"): late_cost}
    given = serve(Scheduler(backfill_share=share), lanes, 2000)
    total = sum(given.values())
    slack = 2 * (live_cost + late_cost)
    assert abs(given[backfill("a")] - share * total) <= slack


def test_backfill_without_a_share_waits_for_live_lanes_and_only_for_them() -> None:
    scheduler = Scheduler(backfill_share=0)
    given = serve(scheduler, {live("a"): 1.0, backfill("b"): 1.0}, 100)
    assert given == {live("a"): 100}
    for _ in range(3):
        scheduler.add(backfill("b"))
        assert scheduler.take() == Turn(backfill("b"), late=True)
        scheduler.charge(Turn(backfill("b"), late=True), 1.0)
    scheduler.add(backfill("b"))
    scheduler.add(live("a"))
    assert scheduler.take() == Turn(live("a"), late=False)


def test_what_backfill_took_from_an_idle_system_is_not_held_against_it() -> None:
    scheduler = Scheduler(backfill_share=0.1)
    serve(scheduler, {backfill("a"): 1000.0}, 1000)
    given = serve(scheduler, {live("b"): 1000.0, backfill("a"): 1000.0}, 100)
    assert 8 <= given[backfill("a")] / 1000 <= 12


def test_a_flood_in_an_idle_system_is_not_held_against_its_tenant() -> None:
    scheduler = Scheduler(backfill_share=0.1)
    serve(scheduler, {live("flood"): 50_000.0}, 1000)
    given = serve(scheduler, {live("flood"): 50_000.0, live("new"): 50_000.0}, 20)
    assert abs(given[live("flood")] - given[live("new")]) <= 100_000


def test_a_tenant_saves_up_nothing_while_it_is_away() -> None:
    scheduler = Scheduler(backfill_share=0.1)
    serve(scheduler, {live("a"): 10.0, live("b"): 10.0}, 1000)
    given = serve(scheduler, {live("c"): 10.0, live("a"): 10.0}, 100)
    assert given[live("c")] <= 10 * (100 / 2 + 2)


def test_who_comes_back_after_little_goes_before_a_flood() -> None:
    scheduler = Scheduler(backfill_share=0.1)
    scheduler.add(live("flood"))
    scheduler.add(live("quiet"))
    for _ in range(2):
        turn = scheduler.take()
        assert turn is not None
        scheduler.charge(turn, 50_000 if turn.lane == live("flood") else 5)
    scheduler.add(live("flood"))
    scheduler.add(live("quiet"))
    assert scheduler.take() == Turn(live("quiet"), late=False)


def test_a_cost_that_was_guessed_too_high_is_given_back() -> None:
    scheduler = Scheduler(backfill_share=0.1)
    for tenant in ("a", "b"):
        scheduler.add(live(tenant))
        turn = scheduler.take()
        assert turn is not None
        scheduler.charge(turn, 100)
    scheduler.add(live("a"))
    scheduler.add(live("b"))
    scheduler.charge(Turn(live("b"), late=False), -50)
    assert scheduler.take() == Turn(live("b"), late=False)
    assert scheduler.take() == Turn(live("a"), late=False)
    assert scheduler.take() is None


def test_small_lanes_overtake_and_the_others_keep_their_place() -> None:
    scheduler = Scheduler(backfill_share=0.1)
    for tenant in ("big", "huge"):
        scheduler.add(live(tenant))
    scheduler.add(live("small"), small=True)
    scheduler.add(backfill("small"), small=True)
    assert scheduler.take_small() == Turn(live("small"), late=False)
    assert scheduler.take_small() is None
    assert [scheduler.take() for _ in range(4)] == [
        Turn(live("big"), late=False),
        Turn(live("huge"), late=False),
        Turn(backfill("small"), late=True),
        None,
    ]


def test_over_quota_is_late_until_it_is_within_again() -> None:
    over = {"greedy"}
    scheduler = Scheduler(backfill_share=0, readings_allowed=lambda tenant: tenant not in over)
    lanes = {live("greedy"): 1.0, live("a"): 1.0}
    assert serve(scheduler, lanes, 50) == {live("a"): 50}
    over.clear()
    scheduler.restore()
    assert serve(scheduler, lanes, 50)[live("greedy")] >= 25


def test_over_quota_while_waiting_lets_the_others_pass() -> None:
    over: set[str] = set()
    scheduler = Scheduler(backfill_share=0.1, readings_allowed=lambda tenant: tenant not in over)
    scheduler.add(live("a"), small=True)
    scheduler.add(live("b"), small=True)
    over.add("a")
    assert scheduler.take_small() == Turn(live("b"), late=False)
    assert scheduler.take_small() is None
    assert scheduler.take() == Turn(live("a"), late=True)


def test_a_lane_waits_once_however_often_it_is_added() -> None:
    scheduler = Scheduler(backfill_share=0.1)
    for _ in range(3):
        scheduler.add(live("a"))
    assert len(scheduler) == 1
    assert live("a") in scheduler
    scheduler.take()
    assert scheduler.take() is None


LANES = st.tuples(st.sampled_from("abcd"), st.sampled_from(list(Feed)))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), LANES, st.booleans()),
        st.tuples(st.just("take"), st.booleans(), COSTS),
        st.tuples(st.just("quota"), st.sampled_from("abcd"), st.just(None)),
        st.tuples(st.just("restore"), st.just(None), st.just(None)),
    ),
    max_size=80,
)


@given(STEPS, st.floats(0, 0.5))
@settings(max_examples=300)
def test_every_lane_that_waits_gets_exactly_one_turn(
    steps: list[tuple[str, object, object]], share: float
) -> None:
    over: set[object] = set()
    scheduler = Scheduler(backfill_share=share, readings_allowed=lambda tenant: tenant not in over)
    waiting: set[object] = set()
    for what, first, second in steps:
        match what:
            case "add":
                scheduler.add(first, small=bool(second))  # type: ignore[arg-type]
                waiting.add(first)
            case "take":
                turn = scheduler.take_small() if first else scheduler.take()
                if turn is not None:
                    assert turn.late == (turn.lane[1] is Feed.BACKFILL or turn.lane[0] in over) or (
                        turn.late and turn.lane[0] not in over  # it has not been restored yet
                    )
                    waiting.remove(turn.lane)
                    scheduler.charge(turn, float(second))  # type: ignore[arg-type]
                elif not first:
                    assert not waiting
            case "quota":
                over ^= {first}
            case "restore":
                scheduler.restore()
        assert len(scheduler) == len(waiting)
    for _ in range(len(waiting)):
        turn = scheduler.take()
        assert turn is not None
        waiting.remove(turn.lane)
    assert scheduler.take() is None
    assert not waiting


def test_memory_does_not_grow_with_the_number_of_turns() -> None:
    scheduler = Scheduler(backfill_share=0.1)
    for _ in range(10_000):
        scheduler.add(live("a"), small=True)
        turn = scheduler.take()
        assert turn is not None
        scheduler.charge(turn, 1)
        scheduler.charge(turn, 1)
    assert len(scheduler._live._small) < 200
