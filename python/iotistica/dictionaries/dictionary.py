"""A dictionary: as agents send it, as Redis holds it, as the Rust side reads it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from iotistica._native import Context
from iotistica.errors import BadRequest

PARTS = ("", "version", "hash", "enums", "metrics", "agents")
"""Suffixes of the keys that the reference keeps for each agent; "" is the names."""
MAX_BYTES = 1024 * 1024
"""Of a dictionary's JSON: many deltas may make a large one of small messages."""
MAX_HASH = 64
_MAX_FIELDS = 65_536
_MAX_VERSION = 2**53
_NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The dictionary that a message was written with; without a hash, the last one of a version."""

    agent: str
    version: int
    hash: str | None = None

    def text(self) -> str:
        """One word for each part."""
        return f"{self.agent} {self.version} {self.hash or '-'}"

    @classmethod
    def parse(cls, text: str) -> Wanted:
        """Inverse of `text`. Raises `ValueError`."""
        agent, version, digest = text.split(" ", 2)
        return cls(agent, int(version), None if digest == "-" else digest)


@dataclass(frozen=True, slots=True)
class Held:
    """A dictionary as `Context.put_dictionary` takes it."""

    version: int
    hash: str | None
    json: bytes

    def fits(self, wanted: Wanted) -> bool:
        """Whether it is the one that is wanted."""
        return self.version == wanted.version and (
            wanted.hash is None or self.hash is None or self.hash == wanted.hash
        )

    @classmethod
    def of(cls, parts: Mapping[str, bytes | None]) -> Held | None:
        """What the values of its keys in Redis hold; None where it is not whole."""
        names, version, digest = parts.get(""), parts.get("version"), parts.get("hash")
        if names is None or version is None or not version.isdigit() or len(version) > 18:
            return None
        text = digest.decode("ascii", "replace") if digest else None
        members = [b'"fields":' + names]
        if text is not None:
            members.append(b'"hash":' + orjson.dumps(text))
        members += [
            b'"%s":%s' % (part.encode(), value)
            for part in ("enums", "metrics", "agents")
            if (value := parts.get(part))
        ]
        return cls(int(version), text, b"{" + b",".join(members) + b"}")


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """Names of fields by their index, and what the numbers in some fields stand for."""

    version: int
    hash: str
    """SHA-256 of the JSON of the sorted names, or what the agent says."""
    fields: Mapping[int, str]
    enums: Mapping[str, Any]
    """By field: `quality`, `qualityCode`, `unit`."""
    metrics: Mapping[str, Any]
    """By protocol."""
    devices: Mapping[str, Any]
    """By protocol."""

    @property
    def length(self) -> int:
        """The index that the next new field gets."""
        return max(self.fields, default=-1) + 1

    @cached_property
    def digest(self) -> bytes:
        """Tells it from every other dictionary, also from one of the same version."""
        content = [self.version, self.hash, self.fields, self.enums, self.metrics, self.devices]
        options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
        return hashlib.sha256(orjson.dumps(content, option=options)).digest()

    def parts(self) -> dict[str, bytes]:
        """What Redis holds, by suffix.

        Agents send the device map as `devices`; the reference's cloud reads it as `agents`.
        """
        names = {str(index): self.fields[index] for index in sorted(self.fields)}
        return {
            "": orjson.dumps(names),
            "version": b"%d" % self.version,
            "hash": self.hash.encode(),
            "enums": orjson.dumps(self.enums),
            "metrics": orjson.dumps(self.metrics),
            "agents": orjson.dumps(self.devices),
        }

    def held(self) -> Held:
        """The form that is used."""
        held = Held.of(self.parts())
        assert held is not None
        return held

    def check(self) -> Dictionary:
        """Itself. Raises `BadRequest` for one that is too large, or that could not be used."""
        held = self.held()
        if (size := len(held.json)) > MAX_BYTES:
            raise BadRequest(f"dictionary has {size} bytes of JSON; at most {MAX_BYTES} are kept")
        try:
            Context("").put_dictionary(_NOBODY, self.version, held.json)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return self


def read_dictionary(document: Any) -> Dictionary:
    """The content of a `meta/dictionary` message. Raises `BadRequest`."""
    document, version = read_version(document)
    given = document.get("fields", document.get("keys"))
    if given is None:
        given = part(document, "fieldsByDomain").get("key")
    fields = _names(given)
    return Dictionary(
        version=version,
        hash=_given_hash(document) or hash_of(fields),
        fields=fields,
        enums=part(document, "enums"),
        metrics=part(document, "metrics"),
        devices={**part(document, "agents"), **part(document, "devices")},
    ).check()


def read_version(document: Any) -> tuple[Mapping[str, Any], int]:
    """The object that a message must be, and its version. Raises `BadRequest`."""
    if not isinstance(document, dict):
        raise BadRequest("dictionary message must be a JSON object")
    version: Any = document.get("version")
    if not is_number(version) or not 0 <= version <= _MAX_VERSION:
        raise BadRequest("dictionary version must be a whole number of 0 or more")
    return document, version


def is_number(value: Any) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def part(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object within a message; empty where it is missing or something else."""
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def hash_of(fields: Mapping[int, str]) -> str:
    """SHA-256 of the JSON of the sorted names, as JavaScript sorts: by UTF-16 code units."""
    ordered = sorted(fields.values(), key=lambda name: name.encode("utf-16-be", "surrogatepass"))
    return hashlib.sha256(orjson.dumps(ordered)).hexdigest()


def _given_hash(document: Mapping[str, Any]) -> str | None:
    given: Any = document.get("hash")
    if given is None:
        return None
    is_word = isinstance(given, str) and given.isascii() and given.isalnum()
    if not (is_word and len(given) <= MAX_HASH):
        raise BadRequest(f"dictionary hash must be a word of at most {MAX_HASH} characters")
    return str(given)


def _names(given: Any) -> dict[int, str]:
    """A list of names by position or of `{name, index}`, or a map of them."""
    if isinstance(given, dict):
        pairs = [(int(index) if index.isdecimal() else -1, name) for index, name in given.items()]
    elif isinstance(given, list):
        pairs = [
            (field.get("index", position), field.get("name"))
            if isinstance(field, dict)
            else (position, field)
            for position, field in enumerate(given)
        ]
    else:
        raise BadRequest("dictionary fields must be a list of names")
    for index, name in pairs:
        if not (is_number(index) and 0 <= index < _MAX_FIELDS and isinstance(name, str)):
            raise BadRequest(
                "each dictionary field must be a name with an index of 0 or more, "
                f"below {_MAX_FIELDS}"
            )
    return dict(pairs)
