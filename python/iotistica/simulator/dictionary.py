"""The key-compaction dictionary of an agent, and both compacted forms (reference 2)."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from iotistica.simulator.protocols import Protocol

QUALITY = {"GOOD": 1, "BAD": 2, "UNCERTAIN": 3, "NOT_CONNECTED": 4}
"""The agent's frozen enum."""
VERSION = 1

_TOP = ("sensor", "timestamp", "protocol", "msgId")
_SAMPLE = ("protocol", "deviceUuid", "deviceName", "timestamp")
_READING = ("metric", "value", "unit", "quality", "timestamp", "protocol")
_CONTAINERS = ("messages", "readings")
_SAMPLES = "messages[]."
_READINGS = "messages[].readings[]."


class Dictionary:
    """Field names and enumerations of one protocol.

    The tuple form names a field by its path (`messages[].readings[].metric`), the legacy form
    by its own name; one dictionary carries both, so an agent can send either.
    """

    def __init__(self, protocol: Protocol) -> None:
        extras = tuple(dict.fromkeys(key for m in protocol.metrics for key in m.extra))
        fields = {"": _TOP, _SAMPLES: _SAMPLE, _READINGS: (*_READING, *extras)}
        paths = [prefix + name for prefix, names in fields.items() for name in names]
        names = (*_CONTAINERS, *_SAMPLE, *_READING, *extras)
        self.fields: list[str] = list(dict.fromkeys((*paths, *names)))
        self.index = {name: position for position, name in enumerate(self.fields)}
        self._below = {
            prefix: {name: self.index[prefix + name] for name in names}
            for prefix, names in fields.items()
        }
        self.hash = hashlib.sha256(orjson.dumps(sorted(self.fields))).hexdigest()
        self._protocol = protocol
        units = dict.fromkeys(metric.unit for metric in protocol.metrics)
        self.enums: dict[str, dict[str, int]] = {
            "metric": {metric.name: code for code, metric in enumerate(protocol.metrics)},
            "deviceName": {name: code for code, name in enumerate(protocol.devices)},
            "unit": {unit: code for code, unit in enumerate(units, 1)},
            "quality": QUALITY,
        }

    def message(self) -> bytes:
        """The retained message `meta/dictionary`."""
        domains = [{"index": index, "name": name} for index, name in enumerate(self.fields)]
        name = self._protocol.name
        return orjson.dumps(
            {
                "version": VERSION,
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
                "enums": {"quality": QUALITY, "qualityCode": {}, "unit": self.enums["unit"]},
                "metrics": {name: self.enums["metric"]},
                "devices": {name: self.enums["deviceName"]},
                "metadata": {"totalMetricsPromoted": len(self.enums["metric"])},
            }
        )

    def compact(self, message: dict[str, Any]) -> dict[str, Any]:
        """Tuple form: `{v, p: [[index, value], ["a", key, [...]]], h}`."""
        return {"v": VERSION, "p": self._pairs(message, ""), "h": self.hash}

    def _pairs(self, fields: dict[str, Any], prefix: str) -> list[Any]:
        index, enums = self._below[prefix], self.enums
        pairs: list[Any] = []
        for key, value in fields.items():
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
        return {"v": VERSION, **self._columns(message), "h": self.hash}

    def _columns(self, fields: dict[str, Any]) -> dict[str, Any]:
        index = self.index
        return {
            "i": [index[key] for key in fields],
            "d": [
                [self._columns(item) for item in value] if isinstance(value, list) else value
                for value in fields.values()
            ],
        }
