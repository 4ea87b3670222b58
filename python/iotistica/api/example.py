"""An example that a JSON Schema allows, for the document. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FORMATS = {
    "uuid": "7b0c7c4e-0b0e-4d4f-9a53-8d0d54a7a2f1",
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "byte": "aW90",
}
_DEPTH = 12


def example(schema: Mapping[str, Any], components: Mapping[str, Any], depth: int = _DEPTH) -> Any:
    """A value that fits; a schema says its own by `examples` where a pattern is asked for."""
    if "$ref" in schema:
        return example(components[schema["$ref"].rpartition("/")[2]], components, depth - 1)
    for known in ("examples", "enum"):
        if known in schema:
            return schema[known][0]
    if "default" in schema:
        return schema["default"]
    if "anyOf" in schema:
        # What may be null is shown as it is when it is there.
        first, *others = schema["anyOf"]
        return example(others[-1] if first.get("type") == "null" else first, components, depth)
    match schema.get("type"):
        case "object":
            return _object(schema, components, depth)
        case "array":
            return _array(schema, components, depth)
        case "string":
            return _text(schema)
        case "integer" | "number":
            return _number(schema)
        case kind:
            return True if kind == "boolean" else None


def _text(schema: Mapping[str, Any]) -> str:
    text = _FORMATS.get(schema.get("format", ""), "text")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]


def _number(schema: Mapping[str, Any]) -> Any:
    if "minimum" in schema:
        return schema["minimum"]
    if "exclusiveMinimum" in schema:
        return schema["exclusiveMinimum"] + 1
    return min(1, schema.get("maximum", 1))


def _object(schema: Mapping[str, Any], components: Mapping[str, Any], depth: int) -> Any:
    if depth <= 0:
        return {}
    found = {
        name: example(one, components, depth - 1)
        for name, one in schema.get("properties", {}).items()
    }
    more = schema.get("additionalProperties")
    if not found and isinstance(more, dict) and more:
        found = {"name": example(more, components, depth - 1)}
    return found


def _array(schema: Mapping[str, Any], components: Mapping[str, Any], depth: int) -> Any:
    if "prefixItems" in schema:
        return [example(one, components, depth - 1) for one in schema["prefixItems"]]
    items = schema.get("items")
    # What contains its like ends here: an item needs two levels, itself and its reference.
    if depth <= 2 or not isinstance(items, dict):
        return []
    return [example(items, components, depth - 1)] * max(schema.get("minItems", 1), 1)
