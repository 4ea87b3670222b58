"""Edits of one endpoint: what operators see, and what the agent is served meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from iotistica.errors import Conflict, NotFound
from iotistica.targets.edits import Draft, State
from iotistica.targets.endpoints import with_endpoint, with_endpoint_changed, without_endpoint
from iotistica.targets.state import Content, Served

A, B = {"name": "a", "uuid": "1"}, {"name": "b", "uuid": "2"}
C = {"name": "c", "uuid": "3"}


def content(*endpoints: Any) -> Content:
    return Content({}, {"endpoints": list(endpoints), "other": 1})


def state(wanted: Content, served: Content | None = None, *, is_own: bool = True) -> State:
    return State(
        content=wanted,
        version=1,
        etag="x",
        is_own=is_own,
        served=None if served is None else Served(1, "x", b""),
        served_content=served,
    )


def names(found: Content | None) -> list[Any]:
    assert found is not None
    return [one["name"] for one in found.config.get("endpoints", [])]


def made(edit: Any, before: State) -> Draft:
    draft = edit(before)
    assert isinstance(draft, Draft)
    return draft


def test_where_nothing_else_is_staged_the_whole_is_served() -> None:
    both = content(A, B)
    draft = made(with_endpoint(C, deploy=True), state(both, both))
    assert draft.deployed is draft.content
    assert not draft.needs_deployment
    assert names(draft.content) == ["a", "b", "c"]
    assert draft.content.config["other"] == 1


def test_one_change_of_several_is_served_alone() -> None:
    before = state(content(A, B), content(A))  # B is staged
    draft = made(with_endpoint_changed("a", {"x": 1}, deploy=True), before)
    assert (names(draft.content), names(draft.deployed)) == (["a", "b"], ["a"])
    assert draft.deployed is not None
    assert draft.deployed.config["endpoints"] == [{**A, "x": 1}]
    assert draft.needs_deployment
    draft = made(without_endpoint("b", deploy=True), before)
    assert (names(draft.content), names(draft.deployed)) == (["a"], ["a"])
    assert not draft.needs_deployment


def test_a_new_name_takes_the_place_of_one_that_ends() -> None:
    before = state(content(A), content(A, B))  # the end of B is staged
    draft = made(with_endpoint_changed("a", {"name": "b"}, deploy=True), before)
    assert draft.deployed is not None
    assert draft.deployed.config["endpoints"] == [{"name": "b", "uuid": "1"}]
    assert not draft.needs_deployment


def test_a_staged_endpoint_that_is_changed_and_served_is_served_whole() -> None:
    before = state(content(A, B), content(A))
    draft = made(with_endpoint_changed("b", {"x": 1}, deploy=True), before)
    assert draft.deployed == content(A, {**B, "x": 1}) == draft.content


@pytest.mark.parametrize(("is_own", "expected"), [(False, ["a", "c"]), (True, ["c"])])
def test_where_the_agent_has_the_default(is_own: bool, expected: list[str]) -> None:
    draft = made(with_endpoint(C, deploy=True), state(content(A), is_own=is_own))
    assert names(draft.content) == ["a", "c"]
    assert names(draft.deployed) == expected


def test_what_cannot_be_is_refused() -> None:
    before = state(content(A, B))
    for edit in (
        with_endpoint({**A, "uuid": "9"}, deploy=False),
        with_endpoint({**A, "name": "z"}, deploy=False),
        with_endpoint_changed("a", {"name": "b"}, deploy=False),
    ):
        with pytest.raises(Conflict, match="as in another endpoint"):
            edit(before)
    for edit in (
        without_endpoint("z", deploy=False),
        with_endpoint_changed("z", {}, deploy=False),
    ):
        with pytest.raises(NotFound):
            edit(before)
    with pytest.raises(Conflict, match="is not a list"):
        with_endpoint(A, deploy=False)(state(Content({}, {"endpoints": {}})))
