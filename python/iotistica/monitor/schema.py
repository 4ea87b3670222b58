"""Names and types of the fields of a decoded payload, as a JSON Schema. Pure and bounded."""

from __future__ import annotations

from typing import Any

import orjson

_MOST_VALUES = 1000
"""What is looked at of one payload."""
_MOST_ITEMS = 20
"""Of an array: the others are taken to be like them."""
_MOST_BYTES = 4096
"""Of the schema as JSON; what is deeper than fits is left out."""
_DEPTHS = (6, 4, 3, 2, 1, 0)
_NAME_CHARACTERS = 64


def infer(value: Any) -> dict[str, Any]:
    """`type`, and `properties` or `items`, in at most 4 KiB of JSON.

    Items of an array are merged: `type` is a list where they differ, and `required` names the
    fields that all of them had. `truncated` stands where something was left out.
    """
    for depth in _DEPTHS:
        schema = _Look().at(value, depth)
        if len(orjson.dumps(schema)) <= _MOST_BYTES:
            return schema
    return schema


class _Look:
    """One look at a value; ends after so many values within it."""

    def __init__(self) -> None:
        self._left = _MOST_VALUES

    def at(self, value: Any, depth: int) -> dict[str, Any]:
        self._left -= 1
        match value:
            case dict():
                return self._object(value, depth)
            case list():
                return self._array(value, depth)
            case _:
                return {"type": _name(value)}

    def _object(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        if value and (depth <= 0 or self._left <= 0):
            return {"type": "object", "truncated": True}
        properties: dict[str, Any] = {}
        for name, inner in value.items():
            if self._left <= 0:
                return {"type": "object", "properties": properties, "truncated": True}
            properties[name[:_NAME_CHARACTERS]] = self.at(inner, depth - 1)
        return {"type": "object", "properties": properties, "required": list(properties)}

    def _array(self, value: list[Any], depth: int) -> dict[str, Any]:
        if value and (depth <= 0 or self._left <= 0):
            return {"type": "array", "truncated": True}
        items: dict[str, Any] | None = None
        for item in value[:_MOST_ITEMS]:
            if self._left <= 0:
                break
            schema = self.at(item, depth - 1)
            items = schema if items is None else _merged(items, schema)
        return {"type": "array"} if items is None else {"type": "array", "items": items}


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A schema that fits what either fits."""
    if one == other:
        return one
    types = list(dict.fromkeys([*_types(one), *_types(other)]))
    if "integer" in types and "number" in types:
        types.remove("integer")
    merged: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
    objects = [inner for inner in (one, other) if "properties" in inner]
    if objects:
        merged["properties"] = _properties(*(inner["properties"] for inner in objects))
        merged["required"] = [
            name
            for name in objects[0].get("required", [])
            if all(name in inner.get("required", []) for inner in objects)
        ]
    if items := [inner["items"] for inner in (one, other) if "items" in inner]:
        merged["items"] = items[0] if len(items) == 1 else _merged(*items)
    if one.get("truncated") or other.get("truncated"):
        merged["truncated"] = True
    return merged


def _properties(one: dict[str, Any], other: dict[str, Any] | None = None) -> dict[str, Any]:
    merged = dict(one)
    for name, schema in (other or {}).items():
        merged[name] = _merged(merged[name], schema) if name in merged else schema
    return merged


def _types(schema: dict[str, Any]) -> list[str]:
    kind = schema["type"]
    return kind if isinstance(kind, list) else [kind]


def _name(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case _:
            return "string"
