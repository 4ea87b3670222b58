"""Topic filters (MQTT 5.0 section 4.7): whether one is valid, and whether one covers another.

Pure. A subscription is allowed by a rule only where the rule covers all that it asks for: a match
of the filter as if it were a topic would let `a/#` pass under `a/+`.
"""

from __future__ import annotations

MOST_BYTES = 1024
"""Far below MQTT's 65,535; a broker compares every message with it."""

_SHARED = "$share/"


def fault(topic_filter: str) -> str | None:
    """The rule that a filter breaks, as the end of a sentence; None for a valid one."""
    if not topic_filter:
        return "a topic filter has at least one character"
    # Control characters first: NUL is forbidden, and a line break would end a line of an ACL file.
    if not topic_filter.isprintable() or topic_filter != topic_filter.strip():
        return "it must be printable, without a space at either end"
    if len(topic_filter.encode()) > MOST_BYTES:
        return f"it must not be longer than {MOST_BYTES} bytes"
    *inner, last = topic_filter.split("/")
    for level in inner:
        if "#" in level:
            return "# must be the last level, and alone in it"
    if "#" in last and last != "#":
        return "# must be the last level, and alone in it"
    if any("+" in level and level != "+" for level in (*inner, last)):
        return "+ must be alone in its level"
    return None


def is_name(topic: str) -> bool:
    """Whether it names one topic: it has no wildcard (section 4.7.1)."""
    return "#" not in topic and "+" not in topic


def covers(rule: str, wanted: str) -> bool:
    """Whether every topic that matches `wanted`, a filter or a name, matches `rule` too."""
    if rule == "+/#":
        rule = "#"  # the same topics: # stands for no level as well
    if wanted.startswith("$") and rule.startswith(("#", "+")):
        return False  # section 4.7.2
    ours, theirs = rule.split("/"), wanted.split("/")
    for index, level in enumerate(ours):
        if level == "#":
            return True
        if index == len(theirs) or theirs[index] == "#":
            return False
        if level not in ("+", theirs[index]):
            return False
    return len(ours) == len(theirs)


def unshared(topic_filter: str) -> str:
    """The filter within a shared subscription `$share/{group}/{filter}` (section 4.8.2).

    Any other filter as it is; empty, which nothing covers, where the subscription is malformed.
    """
    if not topic_filter.startswith(_SHARED):
        return topic_filter
    group, _, rest = topic_filter.removeprefix(_SHARED).partition("/")
    return rest if group and is_name(group) else ""
