"""Edits of one endpoint (a device behind the agent) of a target state. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import uuid4

from iotistica.errors import BadRequest, Conflict, NotFound
from iotistica.targets.edits import Draft, Edit, State
from iotistica.targets.processing import without_password
from iotistica.targets.state import EMPTY, Content, Json


def endpoints_of(content: Content) -> list[Json]:
    """Its endpoints in their order. Raises `Conflict` where somebody wrote no list."""
    found = content.config.get("endpoints")
    if found is None:
        return []
    if not isinstance(found, list):
        raise Conflict("config.endpoints of the target state is not a list; replace the state")
    return found


def named(endpoints: Sequence[Json], name: str) -> dict[str, Json] | None:
    """The endpoint of this name."""
    for one in endpoints:
        if isinstance(one, dict) and one.get("name") == name:
            return one
    return None


def with_endpoint(endpoint: Mapping[str, Json], *, deploy: bool) -> Edit:
    """A new endpoint, after the others; it gets a uuid where it has none."""
    made = without_password({"uuid": str(uuid4()), **endpoint})

    def edit(state: State) -> Draft:
        endpoints = endpoints_of(state.content)
        _refuse_twin(endpoints, made)
        return _draft(state, "endpoint_added", made["name"], made, deploy=deploy)

    return edit


def with_endpoint_changed(name: str, patch: Mapping[str, Json], *, deploy: bool) -> Edit:
    """Other values of an endpoint's members, at its place; its uuid stays, or is given now."""

    def edit(state: State) -> Draft:
        endpoints = endpoints_of(state.content)
        before = _known(endpoints, name)
        uuid = before.get("uuid") or patch.get("uuid") or str(uuid4())
        if patch.get("uuid", uuid) != uuid:
            given = str(patch["uuid"])[:64]
            raise BadRequest(f"field uuid is {given!r}; that of an endpoint never changes")
        after = without_password({**before, **patch, "uuid": uuid})
        _refuse_twin([one for one in endpoints if one is not before], after)
        return _draft(state, "endpoint_changed", name, after, deploy=deploy)

    return edit


def without_endpoint(name: str, *, deploy: bool) -> Edit:
    """The end of an endpoint."""

    def edit(state: State) -> Draft:
        _known(endpoints_of(state.content), name)
        return _draft(state, "endpoint_removed", name, None, deploy=deploy)

    return edit


def _draft(state: State, action: str, name: str, after: Json, *, deploy: bool) -> Draft:
    content = _put(state.content, name, after)
    if not deploy:
        return Draft(action=action, content=content, needs_deployment=True)
    now = state.served_content
    if now is None:
        now = EMPTY if state.is_own else state.content
    if now == state.content:
        return Draft(action=action, content=content, deployed=content)
    # Something else is staged, and stays so.
    served = _put(now, name, after)
    return Draft(
        action=action, content=content, deployed=served, needs_deployment=served != content
    )


def _put(content: Content, name: str, after: Json) -> Content:
    """The content with another endpoint, or none, in the place of the one of this name.

    What is served may still have one of its new name, whose end is staged: it goes, too.
    """
    names = {name} if after is None else {name, after["name"]}
    endpoints: list[Json] = []
    is_put = after is None
    for one in endpoints_of(content):
        if not isinstance(one, dict) or one.get("name") not in names:
            endpoints.append(one)
        elif not is_put:
            endpoints.append(after)
            is_put = True
    if not is_put:
        endpoints.append(after)
    return Content(content.apps, {**content.config, "endpoints": endpoints})


def _known(endpoints: Sequence[Json], name: str) -> dict[str, Json]:
    found = named(endpoints, name)
    if found is None:
        raise NotFound(f"the agent has no endpoint {name[:64]!r}")
    return found


def _refuse_twin(others: Sequence[Json], endpoint: Mapping[str, Json]) -> None:
    """Raise `Conflict` where another endpoint has its name or its uuid."""
    for field in ("name", "uuid"):
        value = endpoint[field]
        if any(isinstance(one, dict) and one.get(field) == value for one in others):
            raise Conflict(f"field {field} is {str(value)[:64]!r}, as in another endpoint")
