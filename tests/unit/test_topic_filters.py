"""Topic filters: which are valid (MQTT 5.0 section 4.7), and which cover which."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iotistica.topic_filters import MOST_BYTES, covers, fault, is_name, unshared

LEVELS = ("", "a", "b", "$a")


def matches(topic_filter: str, topic: str) -> bool:
    """Section 4.7 word for word, by recursion: the oracle of these tests."""
    if topic.startswith("$") and topic_filter[0] in "#+":
        return False

    def rest(wanted: list[str], levels: list[str]) -> bool:
        if not wanted:
            return not levels
        if wanted == ["#"]:
            return True  # the parent level and any number of child levels
        if not levels or wanted[0] not in ("+", levels[0]):
            return False
        return rest(wanted[1:], levels[1:])

    return rest(topic_filter.split("/"), topic.split("/"))


def topics(most: int) -> list[str]:
    """All topics of few levels; longer ones than any filter has, so that # is seen."""
    made = ("/".join(levels) for n in range(1, most + 1) for levels in product(LEVELS, repeat=n))
    return [topic for topic in made if topic]


TOPICS = topics(5)


@st.composite
def filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.sampled_from([*LEVELS, "+"]), max_size=3))
    if not levels or draw(st.booleans()):
        levels.append("#")
    return "/".join(levels) or "#"


@given(filters(), filters())
@example("a/+", "a/#")
@example("+/#", "#")
@example("#", "$a/#")
@example("a/#", "a")
def test_a_rule_covers_a_filter_where_it_has_all_its_topics(rule: str, wanted: str) -> None:
    has_all = all(matches(rule, topic) for topic in TOPICS if matches(wanted, topic))
    # Every filter here has a topic, and one longer than the rule where it has any.
    assert covers(rule, wanted) == has_all


@given(filters(), st.sampled_from(TOPICS))
def test_a_rule_covers_a_topic_where_it_matches(rule: str, topic: str) -> None:
    assert covers(rule, topic) == matches(rule, topic)


@given(filters(), filters(), filters())
def test_covering_goes_on(one: str, two: str, three: str) -> None:
    if covers(one, two) and covers(two, three):
        assert covers(one, three)
    assert covers(one, one)


@pytest.mark.parametrize(
    ("rule", "wanted", "is_covered"),
    [
        ("i/T/a/A/#", "i/T/a/A/#", True),
        ("i/T/a/A/#", "i/T/a/A", True),
        ("i/T/a/A/#", "i/T/a/A/jobs/+/update", True),
        ("i/T/a/A/#", "i/T/a/+/jobs", False),
        ("i/T/a/A/#", "i/T/a/#", False),
        ("i/T/a/A/#", "#", False),
        ("i/T/a/A/#", "+/T/a/A/state", False),
        ("i/T/a/A/#", "i/T/a/AA/state", False),
        ("i/T/a/A/+", "i/T/a/A/#", False),
        ("i/T/a/A/+", "i/T/a/A/+", True),
        ("i/T/a/A/+", "i/T/a/A/state/x", False),
        ("i/T/a/A/+/#", "i/T/a/A/#", False),
        ("#", "$SYS/broker/uptime", False),
        ("+/broker/uptime", "$SYS/broker/uptime", False),
        ("$SYS/#", "$SYS/broker/+", True),
        ("i/T/a/A/#", "", False),
    ],
)
def test_what_a_rule_covers(rule: str, wanted: str, is_covered: bool) -> None:
    assert covers(rule, wanted) is is_covered


@pytest.mark.parametrize(
    ("topic_filter", "rule"),
    [
        ("", "at least one character"),
        ("a\0b", "printable"),
        ("a\nuser other", "printable"),
        ("a\x7f", "printable"),
        ("\ud800", "printable"),
        (" a", "space at either end"),
        ("a ", "space at either end"),
        ("a/#/b", "# must be the last level"),
        ("a/b#", "# must be the last level"),
        ("##", "# must be the last level"),
        ("a/b+", r"\+ must be alone"),
        ("++/a", r"\+ must be alone"),
        ("ü" * (MOST_BYTES // 2) + "x", "1024 bytes"),
    ],
)
def test_a_filter_that_is_not_valid_names_the_rule(topic_filter: str, rule: str) -> None:
    assert re.search(rule, fault(topic_filter) or "")


@pytest.mark.parametrize(
    "topic_filter", ["#", "+", "/", "a//b", "a/+/b/#", "+/+/#", "a b/c", "ü/°"]
)
def test_a_filter_that_is_valid(topic_filter: str) -> None:
    assert fault(topic_filter) is None


def test_the_filter_of_a_shared_subscription() -> None:
    assert unshared("$share/group/i/T/#") == "i/T/#"
    assert unshared("i/T/#") == "i/T/#"
    for malformed in ("$share/", "$share/group", "$share//i/T", "$share/+/i/T", "$share/#"):
        assert unshared(malformed) == ""
    assert unshared("$shared/g/a") == "$shared/g/a"


def test_names_have_no_wildcards() -> None:
    assert is_name("a/b")
    assert not is_name("a/+")
    assert not is_name("a/b#")
