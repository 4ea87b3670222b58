"""Redis: telemetry streams, dead letters, dictionaries. The only package that imports redis."""

from iotistica.streams.broker import BrokerFigures
from iotistica.streams.channels import Channels
from iotistica.streams.client import Entry
from iotistica.streams.dictionaries import Dictionaries
from iotistica.streams.ledger import InFlight, Ledger
from iotistica.streams.letter import DeadLetter, Filter, Letter
from iotistica.streams.letters import Letters
from iotistica.streams.logs import LogStreams
from iotistica.streams.outbox import Outbox, Outgoing, outgoing
from iotistica.streams.parking import Bay, Parked, Parking
from iotistica.streams.telemetry import FIRST, Settlement, StreamDepth, Streams
from iotistica.streams.topics import KnownTopic, Seen, Topics
from iotistica.streams.watch import GroupDepth, Survey, Watch, watching

__all__ = [
    "FIRST",
    "Bay",
    "BrokerFigures",
    "Channels",
    "DeadLetter",
    "Dictionaries",
    "Entry",
    "Filter",
    "GroupDepth",
    "InFlight",
    "KnownTopic",
    "Ledger",
    "Letter",
    "Letters",
    "LogStreams",
    "Outbox",
    "Outgoing",
    "Parked",
    "Parking",
    "Seen",
    "Settlement",
    "StreamDepth",
    "Streams",
    "Survey",
    "Topics",
    "Watch",
    "outgoing",
    "watching",
]
