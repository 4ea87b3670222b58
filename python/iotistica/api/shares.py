"""Names of shared subscriptions that nobody outside can guess.

Mosquitto's ACL file says who may read a topic; it lets anybody subscribe to anything. Who joins the
group of a shared subscription is given its share of the messages, which the broker then drops
because they may not be read. So an agent that knew the name of a group could take away the messages
of every tenant.
"""

from __future__ import annotations

from iotistica import keys
from iotistica.api.agent_digests import AgentDigests
from iotistica.settings import Settings

_PURPOSE = "mqtt-group"
_DIGITS = 24


def share(settings: Settings, topic_filter: str, group: str = keys.SHARED_GROUP) -> str:
    """The filter of a shared subscription; the same in all processes of a deployment.

    Raises `ConfigError` where there is no secret.
    """
    secret = AgentDigests(settings).of(_PURPOSE, group)[-_DIGITS:]
    return keys.shared_filter(topic_filter, f"{group}-{secret}")
