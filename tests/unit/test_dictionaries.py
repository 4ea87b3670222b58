"""Dictionaries: full messages, deltas, and what an agent's messages do to those that are kept."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica import _native
from iotistica.dictionaries import (
    Dictionary,
    Gap,
    Held,
    Wanted,
    extend,
    read_delta,
    read_dictionary,
)
from iotistica.dictionaries.dictionary import MAX_BYTES
from iotistica.dictionaries.shelf import Arrival, Shelf
from iotistica.errors import BadRequest

AGENT = "6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01"
TENANT = "73eddd385ce8"

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=6)
CODES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), max_size=3)
MAPS = st.dictionaries(st.sampled_from(["modbus", "opcua", "snmp"]), CODES, max_size=2)
ENUMS = st.dictionaries(st.sampled_from(["quality", "qualityCode", "unit"]), CODES, max_size=2)


@st.composite
def growth(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A full message and what an agent says about each thing that it adds."""
    version = draw(st.integers(0, 3))
    full = {"version": version, "fields": draw(NAMES), "enums": draw(ENUMS)}
    full |= {"metrics": draw(MAPS), "devices": draw(MAPS)}
    deltas, length = [], len(full["fields"])
    for new in draw(st.lists(NAMES, max_size=4)):
        version += draw(st.integers(1, 3))
        delta: dict[str, Any] = {"version": version, "format_version": 2, "enums": draw(ENUMS)}
        delta |= {"metrics": draw(MAPS), "devices": draw(MAPS), "deviceUuid": AGENT}
        form = draw(st.sampled_from(["names", "placed", "both"]))
        if form in ("names", "both"):
            delta["newFields"] = new
        if form in ("placed", "both"):
            delta["newFieldsWithDomains"] = [
                {"name": name, "domain": "key", "index": length + n} for n, name in enumerate(new)
            ]
        length += len(new)
        deltas.append(delta)
    return full, deltas


def whole(full: dict[str, Any], deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """What the agent would send as a whole after all of it; without the code under test."""
    result = {name: dict(full[name]) for name in ("enums", "metrics", "devices")}
    fields = list(full["fields"])
    for delta in deltas:
        placed = [field["name"] for field in delta.get("newFieldsWithDomains", ())]
        fields += delta.get("newFields", placed)
        for name, maps in result.items():
            for key, codes in delta[name].items():
                maps[key] = {**maps.get(key, {}), **codes}
    version = deltas[-1]["version"] if deltas else full["version"]
    return {"version": version, "fields": fields, **result}


@given(growth())
def test_a_base_and_its_deltas_are_what_the_agent_would_send_whole(
    grown: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    full, deltas = grown
    dictionary = read_dictionary(full)
    for delta in deltas:
        dictionary = extend(dictionary, read_delta(delta))
    expected = read_dictionary(whole(full, deltas))
    assert dictionary == expected
    assert dictionary.digest == expected.digest
    assert dictionary.parts() == expected.parts()


@given(growth())
def test_what_is_kept_comes_back(grown: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    dictionary = read_dictionary(whole(*grown))
    held = Held.of(dictionary.parts())
    assert held == dictionary.held()
    assert orjson.loads(held.json)["fields"] == {
        str(index): name for index, name in dictionary.fields.items()
    }
    assert held.fits(Wanted(AGENT, dictionary.version, dictionary.hash))
    assert held.fits(Wanted(AGENT, dictionary.version))
    assert not held.fits(Wanted(AGENT, dictionary.version + 1))
    assert not held.fits(Wanted(AGENT, dictionary.version, "0" * 64))


@given(growth())
def test_messages_that_come_again_change_nothing(
    grown: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    full, deltas = grown
    shelf = Shelf()
    shelf.put(read_dictionary(full), Arrival.FRESH)
    for delta in deltas:
        shelf.extend(read_delta(delta))
    current, learned = shelf.current, len(shelf.learned)
    for delta in deltas:
        shelf.extend(read_delta(delta))
    shelf.put(read_dictionary(full), Arrival.RETAINED)
    assert (shelf.current, len(shelf.learned)) == (current, learned)
    # As after a crash, when the broker sends all of it once more.
    shelf.put(read_dictionary(full), Arrival.FRESH)
    for delta in deltas:
        shelf.extend(read_delta(delta))
    assert shelf.current == current


def full(version: int = 1, *fields: Any, **parts: Any) -> Dictionary:
    return read_dictionary({"version": version, "fields": list(fields) or ["a", "b"], **parts})


def test_the_hash_is_that_of_the_sorted_names_as_javascript_sorts_them() -> None:
    # U+FB01 sorts after an emoji by UTF-16 code units, before it by code points.
    assert full(1, "b", "ﬁ", "😀", "a").hash == (
        hashlib.sha256('["a","b","😀","ﬁ"]'.encode()).hexdigest()
    )


def test_redis_gets_what_the_reference_writes() -> None:
    message = {
        "version": 4,
        "fields": ["timestamp", {"name": "metric", "index": 3}],
        "enums": {"quality": {"GOOD": 1}},
        "metrics": {"modbus": {"temperature": 0}},
        "devices": {"modbus": {"pump": 7}},
    }
    digest = hashlib.sha256(b'["metric","timestamp"]').hexdigest().encode()
    assert read_dictionary(message).parts() == {
        "": b'{"0":"timestamp","3":"metric"}',
        "version": b"4",
        "hash": digest,
        "enums": b'{"quality":{"GOOD":1}}',
        "metrics": b'{"modbus":{"temperature":0}}',
        "agents": b'{"modbus":{"pump":7}}',
    }


@pytest.mark.parametrize(
    "fields",
    [["a", "b"], {"0": "a", "1": "b"}, [{"name": "b", "index": 1}, {"name": "a", "index": 0}]],
)
def test_fields_come_in_three_forms(fields: Any) -> None:
    assert read_dictionary({"version": 1, "fields": fields}).fields == {0: "a", 1: "b"}
    assert read_dictionary({"version": 1, "keys": fields}).fields == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    "document",
    [
        "x",
        [],
        {},
        {"version": 1},
        {"version": True, "fields": []},
        {"version": -1, "fields": []},
        {"version": 2**60, "fields": []},
        {"version": 1, "fields": [1]},
        {"version": 1, "fields": {"x": "y"}},
        {"version": 1, "fields": {"70000": "y"}},
        {"version": 1, "fields": [{"index": 1}]},
        {"version": 1, "fields": [], "hash": "no word"},
        {"version": 1, "fields": [], "hash": "a" * 65},
        {"version": 1, "fields": [], "hash": 7},
        {"version": 1, "fields": ["a" * 1025]},
        {"version": 1, "fields": ["a" * 1000] * (MAX_BYTES // 1000)},
    ],
)
def test_what_is_no_dictionary_is_refused(document: Any) -> None:
    with pytest.raises(BadRequest, match="dictionary"):
        read_dictionary(document)


@pytest.mark.parametrize(
    "document",
    [
        {"newFields": ["a"]},
        {"version": 2, "newFields": "a"},
        {"version": 2, "newFields": [1]},
        {"version": 2, "newFieldsWithDomains": ["a"]},
        {"version": 2, "newFieldsWithDomains": [{"name": "a"}]},
        {"version": 2, "newFieldsWithDomains": [{"name": "a", "index": -1}]},
        {
            "version": 2,
            "newFieldsWithDomains": [{"name": "a", "index": 1}, {"name": "b", "index": 1}],
        },
    ],
)
def test_what_is_no_delta_is_refused(document: Any) -> None:
    with pytest.raises(BadRequest):
        read_delta(document)


def placed(version: int, **names: int) -> Any:
    fields = [{"name": name, "domain": "key", "index": index} for name, index in names.items()]
    return read_delta({"version": version, "newFieldsWithDomains": fields})


def test_a_delta_that_overlaps_adds_what_is_new() -> None:
    assert extend(full(), placed(2, b=1, c=2)).fields == {0: "a", 1: "b", 2: "c"}
    both = {"newFields": ["b", "c"], "newFieldsWithDomains": [{"name": "b", "index": 1}]}
    assert extend(full(), read_delta({"version": 2, **both})).fields == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize(
    "delta",
    [
        placed(3, d=3),  # c at 2 is missing
        placed(3, c=2, e=4),
        placed(3, x=1),  # b is there
        read_delta(
            {
                "version": 3,
                "newFields": ["c"],
                "newFieldsWithDomains": [{"name": "d", "index": 2}],
            }
        ),
    ],
)
def test_a_gap_is_noticed(delta: Any) -> None:
    with pytest.raises(Gap):
        extend(full(), delta)


def test_deltas_do_not_make_a_dictionary_of_any_size() -> None:
    def more(version: int, count: int) -> Any:
        names = [f"{version}-{n}".ljust(1000, "x") for n in range(count)]
        return read_delta({"version": version, "newFields": names})

    large = extend(full(), more(2, 1000))
    with pytest.raises(BadRequest, match="bytes of JSON"):
        extend(large, more(3, 100))


def test_a_delta_without_a_base_is_a_gap() -> None:
    with pytest.raises(Gap, match="no dictionary of the agent"):
        Shelf().extend(placed(2, a=0))


def test_an_agent_that_was_reset_counts_from_one_again_and_wins() -> None:
    shelf = Shelf(current=full(5, "a", "b", "c"))
    reset = full(1, "x")
    shelf.put(reset, Arrival.FRESH)
    assert (shelf.current, shelf.full) == (reset, reset.digest)
    shelf.extend(placed(2, y=1))
    assert shelf.current.fields == {0: "x", 1: "y"}


def test_an_agent_that_was_reset_to_what_it_had_once_wins_too() -> None:
    """Only a publication says so: what the broker retains says the same after every reconnect."""
    old = full(1)
    shelf = Shelf(current=full(5), known={old.digest, full(5).digest}, full=old.digest)
    shelf.put(old, Arrival.RETAINED)
    assert shelf.current == full(5)
    shelf.put(old, Arrival.FRESH)
    assert shelf.current == old
    assert shelf.learned == [old]


def test_retained_and_unknown_is_the_current_one() -> None:
    """The platform was away, or its database is new."""
    shelf = Shelf(current=full(5), full=b"another")
    shelf.put(full(1), Arrival.RETAINED)
    assert shelf.current == full(1)


def test_the_same_version_with_other_content_replaces_it() -> None:
    """The agent learned codes without a new version; their hash is the same."""
    before, after = full(2), full(2, enums={"unit": {"C": 1}})
    assert (before.hash, before.digest) != (after.hash, after.digest)
    shelf = Shelf(current=before, known={before.digest}, full=before.digest)
    shelf.put(after, Arrival.FRESH)
    assert (shelf.current, shelf.learned) == (after, [after])


def test_a_dictionary_from_the_dead_letters_stays_behind_a_newer_one() -> None:
    current = full(6, "x")
    shelf = Shelf(current=current, known={current.digest}, full=current.digest)
    shelf.put(full(5), Arrival.LATE)
    assert shelf.current == current
    assert shelf.learned == [full(5), current]
    assert shelf.full == current.digest
    shelf.put(full(7), Arrival.LATE)
    assert shelf.current == full(7)


@given(st.integers(0, 2**53), st.none() | st.text("0123456789abcdef", min_size=1, max_size=64))
def test_what_is_wanted_is_written_and_read(version: int, digest: str | None) -> None:
    wanted = Wanted(AGENT, version, digest)
    assert Wanted.parse(wanted.text()) == wanted


@given(growth())
def test_a_message_is_read_the_same_with_any_later_dictionary(
    grown: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    """Why older versions may serve: indices and codes only grow."""
    base, deltas = grown
    pairs = [[index, 1.5] for index in range(len(base["fields"]))]
    message = orjson.dumps({"v": base["version"], "p": pairs})
    dictionary = read_dictionary(base)
    for delta in deltas:
        dictionary = extend(dictionary, read_delta(delta))
    reports = []
    for one in (read_dictionary(base), dictionary):
        context = _native.Context(TENANT)
        context.put_dictionary(AGENT, base["version"], one.held().json)
        topic = _native.format_topic(TENANT, AGENT, "endpoints/x")
        reports.append(_native.explain(topic, message, context, now_ms=1_795_454_000_000))
    assert orjson.loads(reports[0]).get("expanded") == orjson.loads(reports[1]).get("expanded")
