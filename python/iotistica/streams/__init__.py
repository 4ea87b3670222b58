"""Redis: telemetry streams, dead letters, dictionaries. The only package that imports redis."""

from iotistica.streams.client import Entry
from iotistica.streams.letter import DeadLetter, Filter, Letter
from iotistica.streams.letters import Letters
from iotistica.streams.telemetry import Settlement, StreamDepth, Streams

__all__ = [
    "DeadLetter",
    "Entry",
    "Filter",
    "Letter",
    "Letters",
    "Settlement",
    "StreamDepth",
    "Streams",
]
