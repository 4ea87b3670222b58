"""The parts of the API that show and test brokers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from iotistica.api.broker_trials import BrokerTrials
from iotistica.api.routes.broker_monitor import BrokerMonitor
from iotistica.api.routes.brokers import Brokers
from iotistica.api.routes.payloads import Payloads
from iotistica.dictionaries.library import Library
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.brokers import BrokerStore
from iotistica.store.pool import Pool
from iotistica.store.topic_rules import TopicRules
from iotistica.streams import Streams


def monitoring_handlers(settings: Settings, pool: Pool, streams: Streams) -> list[Any]:
    """Broker monitor, brokers, and the tool for payloads."""
    return [
        BrokerMonitor(streams, TopicRules(pool)),
        Brokers(BrokerStore(pool), BrokerTrials(settings)),
        Payloads(
            AgentStore(pool),
            Library.of(settings, pool, streams),
            ThreadPoolExecutor(1, "payload"),
        ),
    ]
