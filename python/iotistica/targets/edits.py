"""What operators do to a target state, as functions from one version to the next. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from iotistica.errors import Conflict, NotFound
from iotistica.targets.state import Content, Json, Served


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A target state as it stands."""

    content: Content
    """Where `is_own` is false, that of the tenant's default."""
    version: int
    """0 where there never was one."""
    etag: str
    needs_deployment: bool = False
    is_own: bool = True
    served: Served | None = None
    """None: agents get the tenant's default."""
    served_content: Content | None = None
    """What was last deployed, without what serving adds."""
    last_deployed_at: datetime | None = None
    deployed_by: str | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The next version."""

    action: str
    """What was done, for the history: `set`, `staged`, `deployed`, …"""
    content: Content
    deployed: Content | None = None
    """What agents get from now on; None leaves them what they have."""
    is_own: bool = True
    needs_deployment: bool = False


Edit: TypeAlias = Callable[[State], Draft | None]
"""None where nothing is to do. Raises `NotFound`, `Conflict`, `BadRequest`."""


def replaced(content: Content, *, deploy: bool, action: str = "") -> Edit:
    """A whole new state, which agents get at once or after a deployment."""

    def edit(_: State) -> Draft:
        if deploy:
            return Draft(action=action or "set", content=content, deployed=content)
        return Draft(action=action or "staged", content=content, needs_deployment=True)

    return edit


def partly_replaced(
    apps: Mapping[str, Json] | None, config: Mapping[str, Json] | None, *, deploy: bool
) -> Edit:
    """Other apps, another config, or both; what is None stays."""

    def edit(state: State) -> Draft | None:
        content = Content(
            state.content.apps if apps is None else apps,
            state.content.config if config is None else config,
        )
        return replaced(content, deploy=deploy)(state)

    return edit


def merged(patch: Content, *, deploy: bool) -> Edit:
    """The state with a JSON merge patch (RFC 7396) on apps and config."""

    def edit(state: State) -> Draft | None:
        content = Content(
            _merge(state.content.apps, patch.apps), _merge(state.content.config, patch.config)
        )
        return replaced(content, deploy=deploy, action="merged")(state)

    return edit


def _merge(target: Json, patch: Json) -> Json:
    if not isinstance(patch, Mapping):
        return patch
    made = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merge(made.get(key), value)
    return made


def with_app(key: str, app: Json) -> Edit:
    """Stage a new app."""

    def edit(state: State) -> Draft:
        if key in state.content.apps:
            raise Conflict(f"the agent has an app {key[:64]!r} already")
        return _staged(state, {**state.content.apps, key: app}, "app_added")

    return edit


def with_app_changed(key: str, patch: Mapping[str, Json]) -> Edit:
    """Stage new values of an app's members."""

    def edit(state: State) -> Draft:
        app = {**_app(state.content, key), **patch}
        return _staged(state, {**state.content.apps, key: app}, "app_changed")

    return edit


def without_app(key: str) -> Edit:
    """Stage the end of an app."""

    def edit(state: State) -> Draft:
        _app(state.content, key)
        rest = {name: app for name, app in state.content.apps.items() if name != key}
        return _staged(state, rest, "app_removed")

    return edit


def deployed(state: State) -> Draft | None:
    """Serve what is staged."""
    if not state.needs_deployment:
        return None
    return Draft(action="deployed", content=state.content, deployed=state.content)


def app_deployed(key: str) -> Edit:
    """Serve what is staged of one app, or that it is gone; the rest stays staged."""

    def edit(state: State) -> Draft | None:
        now = state.served_content or Content({}, {})
        apps = {name: app for name, app in now.apps.items() if name != key}
        if key in state.content.apps:
            apps[key] = state.content.apps[key]
        elif key not in now.apps:
            raise NotFound(f"the agent has no app {key[:64]!r}")
        served = Content(apps, now.config)
        if not state.needs_deployment or served == now:
            return None
        return Draft(
            action="app_deployed",
            content=state.content,
            deployed=served,
            needs_deployment=served != state.content,
        )

    return edit


def cancelled(state: State) -> Draft | None:
    """Forget what is staged."""
    if not state.needs_deployment:
        return None
    if state.served_content is None:
        return removed(state, action="cancelled")
    return Draft(action="cancelled", content=state.served_content)


def removed(state: State, *, action: str = "deleted") -> Draft | None:
    """Go back to the tenant's default."""
    if not state.is_own:
        return None
    return Draft(action=action, content=Content({}, {}), is_own=False)


def _staged(state: State, apps: Mapping[str, Json], action: str) -> Draft:
    content = Content(apps, state.content.config)
    return Draft(action=action, content=content, needs_deployment=True)


def _app(content: Content, key: str) -> Json:
    if key not in content.apps:
        raise NotFound(f"the agent has no app {key[:64]!r}")
    return content.apps[key]
