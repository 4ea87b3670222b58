"""What differs between two JSON values, and between what an agent should be and is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from iotistica.targets.state import Content, Json

_IDS = ("uuid", "appId", "serviceId", "id", "name", "serviceName")
"""Members that tell the items of a list apart."""


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """One place that differs."""

    path: str
    """JSON Pointer (RFC 6901); items that have an id or a name are addressed by it."""
    op: Literal["added", "removed", "changed"]
    before: Json = None
    after: Json = None


class Deviation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing about an agent that is not as it should be."""

    kind: Literal["app", "service", "config"]
    id: str
    """Of the app, `app/service`, or the member of the config."""
    state: Literal["missing", "extra", "different"]
    differences: list[Difference] = []


def differences(before: Json, after: Json, path: str = "") -> Iterator[Difference]:
    """Every place where two values differ, in the order of the first."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _of_members(before, after, path)
    elif (pair := _by_id(before, after)) is not None:
        yield from _of_members(*pair, path)
    elif not _same(before, after):
        yield Difference(path, "changed", before, after)


def _of_members(
    before: Mapping[str, Json], after: Mapping[str, Json], path: str
) -> Iterator[Difference]:
    for key, value in before.items():
        place = f"{path}/{_escaped(key)}"
        if key in after:
            yield from differences(value, after[key], place)
        else:
            yield Difference(place, "removed", before=value)
    for key, value in after.items():
        if key not in before:
            yield Difference(f"{path}/{_escaped(key)}", "added", after=value)


def _by_id(before: Json, after: Json) -> tuple[dict[str, Json], dict[str, Json]] | None:
    """Both lists as objects, where one member tells all their items apart."""
    if not isinstance(before, list) or not isinstance(after, list) or not (before or after):
        return None
    for name in _IDS:
        pair = _keyed(before, name), _keyed(after, name)
        if pair[0] is not None and pair[1] is not None:
            return pair[0], pair[1]
    return None


def _keyed(items: Sequence[Json], name: str) -> dict[str, Json] | None:
    found = {
        str(item[name]): item
        for item in items
        if isinstance(item, Mapping) and isinstance(item.get(name), str | int)
    }
    return found if len(found) == len(items) else None


def _same(one: Json, other: Json) -> bool:
    """As JSON has it: 1 is 1.0, and neither is true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def deviations(target: Content, reported: Content) -> list[Deviation]:
    """How an agent differs from its target. What it says beyond what was asked does not count,
    except for apps, services and endpoints that it should not have."""
    return [*_apps(target.apps, reported.apps), *_config(target.config, reported.config)]


def _apps(target: Mapping[str, Json], reported: Mapping[str, Json]) -> Iterator[Deviation]:
    for key, app in target.items():
        if key not in reported:
            yield Deviation("app", key, "missing")
            continue
        wanted, found = _parts(app), _parts(reported[key])
        yield from _services(key, wanted[1], found[1])
        if found_differences := list(_unmet(wanted[0], found[0])):
            yield Deviation("app", key, "different", found_differences)
    yield from (Deviation("app", key, "extra") for key in reported if key not in target)


def _parts(app: Json) -> tuple[Json, dict[str, Json]]:
    """An app without its services, and those by name or id."""
    if not isinstance(app, Mapping):
        return app, {}
    services = app.get("services")
    rest = {name: value for name, value in app.items() if name != "services"}
    if isinstance(services, Mapping):
        return rest, dict(services)
    if not isinstance(services, list):
        return rest, {}
    for name in ("serviceId", "serviceName", "name"):
        if (found := _keyed(services, name)) is not None:
            return rest, found
    return rest, {str(index): service for index, service in enumerate(services)}


def _services(
    app: str, target: Mapping[str, Json], reported: Mapping[str, Json]
) -> Iterator[Deviation]:
    for key, service in target.items():
        if key not in reported:
            yield Deviation("service", f"{app}/{key}", "missing")
        elif found := list(_unmet(service, reported[key])):
            yield Deviation("service", f"{app}/{key}", "different", found)
    for key in reported:
        if key not in target:
            yield Deviation("service", f"{app}/{key}", "extra")


def _config(target: Mapping[str, Json], reported: Mapping[str, Json]) -> Iterator[Deviation]:
    for key, value in target.items():
        if key not in reported:
            yield Deviation("config", key, "missing")
        elif found := list(_unmet(value, reported[key])):
            yield Deviation("config", key, "different", found)


def _unmet(target: Json, reported: Json) -> Iterator[Difference]:
    """Differences without what was added inside an object."""
    for one in differences(target, reported):
        if one.op != "added" or _is_item(target, one.path):
            yield one


def _is_item(target: Json, path: str) -> bool:
    """Whether what stands at the path was added to a list."""
    parent = target
    for step in path.split("/")[1:-1]:
        if isinstance(parent, list):
            keyed = next((k for name in _IDS if (k := _keyed(parent, name)) is not None), {})
            parent = keyed.get(step.replace("~1", "/").replace("~0", "~"))
        elif isinstance(parent, Mapping):
            parent = parent.get(step.replace("~1", "/").replace("~0", "~"))
    return isinstance(parent, list)
