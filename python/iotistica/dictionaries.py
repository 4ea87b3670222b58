"""Key-compaction dictionaries between MQTT, Redis and the Rust side (reference section 2). Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from iotistica.errors import BadRequest

_ENUM_PARTS = ("enums", "metrics", "agents")


def version(message: bytes) -> int:
    """Version of a `meta/dictionary` message. Raises `BadRequest`."""
    return int(parse_message(message)["version"])


def parse_message(message: bytes) -> dict[str, bytes]:
    """Parts that Redis keeps of a `meta/dictionary` message, by suffix; "" is the names.

    Raises `BadRequest`.
    """
    try:
        document = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"dictionary message is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadRequest("dictionary message must be a JSON object")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise BadRequest("dictionary version must be a whole number of 0 or more")
    names = _names(document.get("fields"))
    parts: dict[str, Any] = {"": names, "enums": document.get("enums") or {}}
    parts["metrics"] = document.get("metrics") or {}
    # Agents send the device map as `devices`; the reference's cloud reads it as `agents`.
    parts["agents"] = {**_maps(document, "devices"), **_maps(document, "agents")}
    encoded = {suffix: orjson.dumps(part) for suffix, part in parts.items()}
    encoded["version"] = str(version).encode()
    encoded["hash"] = _hash(document, names).encode()
    return encoded


def _names(fields: Any) -> dict[str, str]:
    """`fields` is a list of names by position, or of `{name, index}`, or already a map."""
    if isinstance(fields, dict):
        pairs = list(fields.items())
    elif isinstance(fields, list):
        pairs = [
            (field.get("index", position), field.get("name")) if isinstance(field, dict)
            else (position, field)
            for position, field in enumerate(fields)
        ]  # fmt: skip
    else:
        raise BadRequest("dictionary fields must be a list of names")
    for index, name in pairs:
        if not str(index).isdecimal() or not isinstance(name, str):
            raise BadRequest("each dictionary field must be a name with an index of 0 or more")
    return {str(index): name for index, name in pairs}


def _maps(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    maps = document.get(key)
    return maps if isinstance(maps, dict) else {}


def _hash(document: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """SHA-256 of the JSON of the sorted names, as JavaScript sorts: by UTF-16 code units."""
    given = document.get("hash")
    if isinstance(given, str):
        return given
    ordered = sorted(names.values(), key=lambda name: name.encode("utf-16-be", "surrogatepass"))
    return hashlib.sha256(orjson.dumps(ordered)).hexdigest()


def for_context(parts: Mapping[str, bytes | None]) -> tuple[int, bytes] | None:
    """Version and JSON for the native `Context.put_dictionary`; None where it is not whole."""
    names, version = parts.get(""), parts.get("version")
    if names is None or version is None or not version.isdigit():
        return None
    members = [b'"fields":' + names]
    if digest := parts.get("hash"):
        members.append(b'"hash":' + orjson.dumps(digest.decode("ascii", "replace")))
    members += [
        b'"%s":%s' % (part.encode(), parts[part]) for part in _ENUM_PARTS if parts.get(part)
    ]
    return int(version), b"{" + b",".join(members) + b"}"
