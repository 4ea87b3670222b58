"""The key-compaction dictionary of an agent, and both compacted forms (reference 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from iotistica.simulator.protocols import Protocol

QUALITY = {"GOOD": 1, "BAD": 2, "UNCERTAIN": 3, "NOT_CONNECTED": 4}
"""The agent's frozen enum."""
VERSION = 1
"""Of what an agent knows when it begins."""

_TOP = ("sensor", "timestamp", "protocol", "msgId")
_SAMPLE = ("protocol", "deviceUuid", "deviceName", "timestamp")
_READING = ("metric", "value", "unit", "quality", "timestamp", "protocol")
_CONTAINERS = ("messages", "readings")
_SAMPLES = "messages[]."
_READINGS = "messages[].readings[]."
_BY_PROTOCOL = {"metric": "metrics", "deviceName": "devices"}


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What an agent finds worth a place in its dictionary at the same time."""

    fields: Sequence[str] = ()
    enums: Sequence[str] = ()


class Dictionary:
    """Field names and enumerations of one protocol.

    The tuple form names a field by its path (`messages[].readings[].metric`), the legacy form
    by its own name; one dictionary carries both, so an agent can send either. A `learning` one
    begins without what is special to the protocol: such fields are left out, and names written
    out, until they are learned.
    """

    def __init__(self, protocol: Protocol, *, learning: bool = False) -> None:
        self._protocol = protocol
        self._extras = tuple(dict.fromkeys(key for m in protocol.metrics for key in m.extra))
        below = {"": _TOP, _SAMPLES: _SAMPLE, _READINGS: _READING}
        paths = [prefix + name for prefix, names in below.items() for name in names]
        names = (*_CONTAINERS, *_SAMPLE, *_READING)
        units = dict.fromkeys(metric.unit for metric in protocol.metrics)
        self._codes: dict[str, dict[str, int]] = {
            "metric": {metric.name: code for code, metric in enumerate(protocol.metrics)},
            "deviceName": {name: code for code, name in enumerate(protocol.devices)},
            "unit": {unit: code for code, unit in enumerate(units, 1)},
        }
        self.version = VERSION
        self.enums: dict[str, dict[str, int]] = {"quality": QUALITY}
        self.fields: list[str] = []
        self._lessons = [
            _Lesson(fields=[*(_READINGS + name for name in self._extras), *self._extras]),
            _Lesson(enums=["metric"]),
            _Lesson(enums=["deviceName", "unit"]),
        ]
        self._take(_Lesson(fields=[*paths, *names]))
        while not learning and self._lessons:
            self._take(self._lessons.pop(0))

    def learn(self) -> bytes | None:
        """Take the next lesson; the message `meta/dictionary/delta` that tells it. None: no more.

        What is compacted from now on can only be read by who has the message.
        """
        if not self._lessons:
            return None
        lesson, length = self._lessons.pop(0), len(self.fields)
        self._take(lesson)
        self.version += 1
        new = self.fields[length:]
        fields = [
            {"name": name, "domain": "key", "index": index}
            for index, name in enumerate(new, length)
        ]
        return orjson.dumps(
            {
                "version": self.version,
                "newFields": new,
                "newFieldsWithDomains": fields,
                "format_version": 2,
                **self._maps(lesson.enums),
            }
        )

    def message(self) -> bytes:
        """The retained message `meta/dictionary`."""
        domains = [{"index": index, "name": name} for index, name in enumerate(self.fields)]
        return orjson.dumps(
            {
                "version": self.version,
                "fields": self.fields,
                "fieldsByDomain": {
                    "key": domains,
                    "metric": [],
                    "unit": [],
                    "quality": [],
                    "device": [],
                },
                "format_version": 2,
                "keys": domains,
                **self._maps(self.enums),
                "metadata": {"totalMetricsPromoted": len(self.enums.get("metric", ()))},
            }
        )

    def _take(self, lesson: _Lesson) -> None:
        self.fields = list(dict.fromkeys((*self.fields, *lesson.fields)))
        self.enums |= {name: self._codes[name] for name in lesson.enums}
        index = self.index = {name: position for position, name in enumerate(self.fields)}
        below = {"": _TOP, _SAMPLES: _SAMPLE, _READINGS: (*_READING, *self._extras)}
        self._below = {
            prefix: {name: index[prefix + name] for name in names if prefix + name in index}
            for prefix, names in below.items()
        }
        # Frames are written with their names.
        self._below[""]["messages"] = self._below[_SAMPLES]["readings"] = -1
        self.hash = hashlib.sha256(orjson.dumps(sorted(self.fields))).hexdigest()

    def _maps(self, enums: Any) -> dict[str, Any]:
        """Those of the enumerations that are named, where agents write them."""
        maps: dict[str, Any] = {"enums": {"quality": QUALITY, "qualityCode": {}, "unit": {}}}
        maps |= {"metrics": {}, "devices": {}}
        for name in enums:
            if (place := _BY_PROTOCOL.get(name)) is not None:
                maps[place] = {self._protocol.name: self._codes[name]}
            elif name in self._codes:
                maps["enums"][name] = self._codes[name]
        return maps

    def compact(self, message: dict[str, Any]) -> dict[str, Any]:
        """Tuple form: `{v, p: [[index, value], ["a", key, [...]]], h}`."""
        return {"v": self.version, "p": self._pairs(message, ""), "h": self.hash}

    def _pairs(self, fields: dict[str, Any], prefix: str) -> list[Any]:
        index, enums = self._below[prefix], self.enums
        pairs: list[Any] = []
        for key, value in fields.items():
            if key not in index:
                continue
            if type(value) is list:
                below = f"{prefix}{key}[]."
                pairs.append(["a", key, [self._pairs(item, below) for item in value]])
            elif key in enums and type(value) is str:
                pairs.append([index[key], enums[key].get(value, value)])
            else:
                pairs.append([index[key], value])
        return pairs

    def compact_legacy(self, message: dict[str, Any]) -> dict[str, Any]:
        """Legacy form: `{v, i: [index...], d: [value...], h}`, nested objects alike."""
        return {"v": self.version, **self._columns(message), "h": self.hash}

    def _columns(self, fields: dict[str, Any]) -> dict[str, Any]:
        index = self.index
        known = {key: value for key, value in fields.items() if key in index}
        return {
            "i": [index[key] for key in known],
            "d": [
                [self._columns(item) for item in value] if isinstance(value, list) else value
                for value in known.values()
            ],
        }
