"""Redis: telemetry streams, dead letters, dictionaries. The only package that imports redis."""

from iotistica.streams.client import Entry
from iotistica.streams.ledger import InFlight, Ledger
from iotistica.streams.letters import DeadLetter
from iotistica.streams.telemetry import Settlement, StreamDepth, Streams

__all__ = ["DeadLetter", "Entry", "InFlight", "Ledger", "Settlement", "StreamDepth", "Streams"]
