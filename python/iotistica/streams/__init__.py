"""Redis: telemetry streams, dead letters, dictionaries. The only package that imports redis."""

from iotistica.streams.client import Entry
from iotistica.streams.ledger import InFlight, Ledger
from iotistica.streams.letter import DeadLetter, Filter, Letter
from iotistica.streams.letters import Letters
from iotistica.streams.telemetry import Settlement, StreamDepth, Streams

__all__ = [
    "DeadLetter",
    "Entry",
    "Filter",
    "InFlight",
    "Ledger",
    "Letter",
    "Letters",
    "Settlement",
    "StreamDepth",
    "Streams",
]
