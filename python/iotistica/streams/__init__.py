"""Redis: telemetry streams, dead letters, dictionaries. The only package that imports redis."""

from iotistica.streams.client import Entry
from iotistica.streams.letters import DeadLetter
from iotistica.streams.telemetry import Settlement, StreamDepth, Streams

__all__ = ["DeadLetter", "Entry", "Settlement", "StreamDepth", "Streams"]
