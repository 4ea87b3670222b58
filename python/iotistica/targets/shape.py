"""What a target state may look like: its apps, its size, and what PostgreSQL can keep of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from iotistica.errors import BadRequest, TooLarge
from iotistica.targets.state import Content, Json

_WORD = 64
_MAX_ID = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one target state."""

    bytes: int
    """Of its JSON."""
    depth: int
    apps: int


def apps_by_id(apps: Json) -> dict[str, Json]:
    """Apps given as an array, where each has an `appId`, or as an object by id.

    Raises `BadRequest`.
    """
    if isinstance(apps, Mapping):
        return {_app_id(str(key), "apps"): _app(app, f"apps.{key}") for key, app in apps.items()}
    if not isinstance(apps, list):
        raise BadRequest("field apps must be an array of apps or an object of apps by id")
    found: dict[str, Json] = {}
    for index, app in enumerate(apps):
        place = f"apps[{index}]"
        key = app_id_of(_app(app, place), place)
        if key in found:
            raise BadRequest(f"field {place}.appId is {key[:_WORD]!r}, as in another app")
        found[key] = app
    return found


def app_id_of(app: Mapping[str, Json], place: str) -> str:
    """The `appId` that an app names. Raises `BadRequest`."""
    value = app.get("appId")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRequest(f"field {place}.appId must be a text or a whole number")
    return _app_id(str(value), f"{place}.appId")


def _app(app: Json, place: str) -> dict[str, Json]:
    if not isinstance(app, dict):
        raise BadRequest(f"field {place[:_WORD]} must be an object")
    return app


def _app_id(key: str, place: str) -> str:
    if not 0 < len(key) <= _MAX_ID:
        raise BadRequest(
            f"field {place} has an id of {len(key)} characters; 1 to {_MAX_ID} are allowed"
        )
    return key


def check(content: Content, limits: Limits) -> None:
    """Raise `TooLarge` or `BadRequest` for what is over a limit or no database can keep."""
    if len(content.apps) > limits.apps:
        raise TooLarge(f"{len(content.apps)} apps; {limits.apps} are allowed (TARGET_MAX_APPS)")
    _walk({"apps": content.apps, "config": content.config}, limits.depth)
    size = len(msgspec.json.encode([content.apps, content.config]))
    if size > limits.bytes:
        raise TooLarge(f"the target state has {size} bytes; {limits.bytes} are allowed")


def _walk(root: Any, depth: int) -> None:
    """Level by level, so that no nesting is too deep to refuse."""
    level, reached = [root], 0
    while level:
        reached += 1
        if reached > depth:
            raise TooLarge(f"the target state is nested deeper than {depth} levels")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                for key in value:
                    _check_text(key)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str):
                _check_text(value)
            elif type(value) is int and not -(2**63) <= value < 2**63:
                raise BadRequest(f"the number {str(value)[:_WORD]} does not fit in 64 bits")
        level = below


def _check_text(text: str) -> None:
    if "\0" in text:
        raise BadRequest(f"the text {text[:_WORD]!r} has a NUL character, which cannot be stored")
