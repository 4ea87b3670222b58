"""Redis: telemetry streams, dead letters, dictionaries. The only package that imports redis."""

from iotistica.streams.client import Entry
from iotistica.streams.letters import DeadLetter
from iotistica.streams.telemetry import FIRST, Settlement, StreamDepth, Streams
from iotistica.streams.watch import GroupDepth, Survey, Watch, watching

__all__ = [
    "FIRST",
    "DeadLetter",
    "Entry",
    "GroupDepth",
    "Settlement",
    "StreamDepth",
    "Streams",
    "Survey",
    "Watch",
    "watching",
]
