"""When dead letters need a person."""

from __future__ import annotations

import pytest

from iotistica.ingestion.letter_alarm import Kind, LetterAlarm


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alarm(clock: Clock) -> LetterAlarm:
    return LetterAlarm(bound=1000, share=0.5, clock=clock)


def changes(alarm: LetterAlarm) -> tuple[list[Kind], list[Kind]]:
    began, ended = alarm.check()
    return [one.kind for one in began], [one.kind for one in ended]


def test_more_dead_than_the_share_is_an_alarm_said_once(alarm: LetterAlarm) -> None:
    alarm.decided("t", messages=50, dead=50)
    alarm.decided("t", messages=50, dead=1)
    assert alarm.share("t") == 0.51
    assert changes(alarm) == ([Kind.SHARE], [])
    assert changes(alarm) == ([], [])
    assert alarm.sentences == [
        "tenant t: 51% of the last minute's messages became dead letters; above 50% the fault is "
        "likely to be on our side"
    ]


def test_exactly_the_share_is_no_alarm(alarm: LetterAlarm) -> None:
    alarm.decided("t", messages=100, dead=50)
    assert changes(alarm) == ([], [])


def test_few_messages_say_nothing(alarm: LetterAlarm) -> None:
    alarm.decided("t", messages=99, dead=99)
    assert alarm.share("t") == 0.0
    assert changes(alarm) == ([], [])
    alarm.decided("t", messages=1, dead=1)
    assert changes(alarm) == ([Kind.SHARE], [])


def test_only_the_last_minute_counts(alarm: LetterAlarm, clock: Clock) -> None:
    alarm.decided("t", messages=100, dead=100)
    clock.now += 59.9
    assert alarm.share("t") == 1.0
    assert changes(alarm) == ([Kind.SHARE], [])
    clock.now += 0.1
    assert changes(alarm) == ([], [Kind.SHARE])
    assert alarm.share("t") == 0.0
    assert alarm.sentences == []


def test_the_window_slides(alarm: LetterAlarm, clock: Clock) -> None:
    for dead in (10, 0, 0):
        alarm.decided("t", messages=100, dead=dead)
        clock.now += 25
    assert alarm.share("t") == 0.0  # the first slice is 75 s old
    alarm.decided("t", messages=100, dead=100)
    assert alarm.share("t") == pytest.approx(1 / 3)


def test_a_share_that_flutters_is_one_episode(alarm: LetterAlarm, clock: Clock) -> None:
    alarm.decided("t", messages=100, dead=51)
    assert changes(alarm) == ([Kind.SHARE], [])
    alarm.decided("t", messages=100, dead=48)  # 49.5 %
    assert changes(alarm) == ([], [])
    alarm.decided("t", messages=100, dead=0)
    assert changes(alarm) == ([], [Kind.SHARE])
    clock.now += 60
    alarm.decided("t", messages=100, dead=100)
    assert changes(alarm) == ([Kind.SHARE], [])


def test_one_tenant_does_not_hide_another(alarm: LetterAlarm) -> None:
    alarm.decided("good", messages=100_000, dead=0)
    alarm.decided("bad", messages=100, dead=100)
    assert [(one.tenant, one.kind) for one in alarm.check()[0]] == [("bad", Kind.SHARE)]


@pytest.mark.parametrize(
    ("letters", "kinds"), [(799, []), (800, [Kind.FILLING]), (1000, [Kind.FULL])]
)
def test_letters_fill_their_bound(alarm: LetterAlarm, letters: int, kinds: list[Kind]) -> None:
    alarm.measured("t", letters=letters)
    assert alarm.fill("t") == letters / 1000
    assert changes(alarm) == (kinds, [])


def test_filling_full_and_relieved_are_each_said_once(alarm: LetterAlarm) -> None:
    said = []
    for letters in (800, 850, 790, 1000, 990, 1500, 899, 750, 719):
        alarm.measured("t", letters=letters)
        said.append(changes(alarm))
    assert said == [
        ([Kind.FILLING], []),
        ([], []),
        ([], []),  # still near the mark
        ([Kind.FULL], [Kind.FILLING]),
        ([], []),
        ([], []),
        ([Kind.FILLING], [Kind.FULL]),
        ([], []),
        ([], [Kind.FILLING]),
    ]


def test_a_full_stream_names_figures_and_cure(alarm: LetterAlarm) -> None:
    alarm.measured("t", letters=1234)
    alarm.check()
    assert alarm.sentences == [
        "tenant t: 1,234 dead letters, the bound is 1,000; nothing is trimmed, so replay or purge "
        "them with iotistica dlq"
    ]
