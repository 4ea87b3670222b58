"""Deltas: what agents append to a dictionary that they have sent before. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from iotistica.dictionaries.dictionary import Dictionary, hash_of, is_number, part, read_version
from iotistica.errors import BadRequest


class Gap(Exception):
    """Something came between a dictionary and a delta that is missing here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """The content of a `meta/dictionary/delta` message."""

    version: int
    names: Sequence[str]
    """New names in their order; where `placed` has none of them, after the last field."""
    placed: Mapping[int, str]
    """Those that tell their index."""
    enums: Mapping[str, Any]
    metrics: Mapping[str, Any]
    devices: Mapping[str, Any]


def read_delta(document: Any) -> Delta:
    """Raises `BadRequest`."""
    document, version = read_version(document)
    names = _list(document, "newFields")
    if not all(isinstance(name, str) for name in names):
        raise BadRequest("newFields must be a list of names")
    placed: dict[int, str] = {}
    for field in _list(document, "newFieldsWithDomains"):
        given: Mapping[str, Any] = field if isinstance(field, dict) else {}
        index: Any = given.get("index")
        name: Any = given.get("name")
        if not (is_number(index) and index >= 0 and isinstance(name, str)):
            raise BadRequest("each of newFieldsWithDomains must have a name and an index")
        if placed.setdefault(index, name) != name:
            raise BadRequest(f"newFieldsWithDomains has two names for index {index}")
    return Delta(
        version=version,
        names=names,
        placed=placed,
        enums=part(document, "enums"),
        metrics=part(document, "metrics"),
        devices={**part(document, "agents"), **part(document, "devices")},
    )


def extend(base: Dictionary, delta: Delta) -> Dictionary:
    """The dictionary that an agent has after it sent a delta.

    Raises `Gap` where the delta's indices do not continue those of `base`, `BadRequest` where the
    result would be too large.
    """
    added = _added(base, delta)
    fields = {**base.fields, **added}
    return replace(
        base,
        version=delta.version,
        fields=fields,
        hash=hash_of(fields) if added else base.hash,
        enums=_merged(base.enums, delta.enums),
        metrics=_merged(base.metrics, delta.metrics),
        devices=_merged(base.devices, delta.devices),
    ).check()


def _added(base: Dictionary, delta: Delta) -> dict[int, str]:
    named = dict(delta.placed)
    first = next((at for at, name in sorted(named.items()) if name in delta.names[:1]), base.length)
    for index, name in enumerate(delta.names, first):
        if named.setdefault(index, name) != name:
            raise Gap(f"newFields has {name[:64]!r} where newFieldsWithDomains has another name")
    for index, name in named.items():
        if index < base.length and base.fields.get(index) != name:
            raise Gap(f"index {index} is another field in dictionary version {base.version}")
    added = {index: named[index] for index in sorted(named) if index >= base.length}
    if list(added) != list(range(base.length, base.length + len(added))):
        raise Gap(
            f"new fields begin at index {min(added)}, dictionary version {base.version} "
            f"ends before {base.length}"
        )
    return added


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Each map with what is new in it; codes never change their meaning."""
    merged = dict(old)
    for name, given in new.items():
        known = merged.get(name)
        if isinstance(known, dict) and isinstance(given, dict):
            given = {**known, **given}
        merged[name] = given
    return merged


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    found = document.get(key) or []
    if not isinstance(found, list):
        raise BadRequest(f"{key} must be a list")
    return found
