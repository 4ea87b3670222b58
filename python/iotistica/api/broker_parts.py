"""What the handlers of the broker's users are made of."""

from __future__ import annotations

from typing import Any

from iotistica.api.agent_parts import AgentParts
from iotistica.api.broker_access import BrokerAccess, Service
from iotistica.api.limiter import Limiter
from iotistica.api.link import session_options
from iotistica.api.routes.broker_callbacks import BrokerCallbacks
from iotistica.api.routes.mqtt_users import MqttUsers
from iotistica.settings import Settings
from iotistica.store.broker_users import BrokerUserStore
from iotistica.store.mqtt_users import MqttUserStore


def broker_handlers(parts: AgentParts, limiter: Limiter) -> list[Any]:
    """The part of the API that is about users of the broker."""
    settings = parts.settings
    access = BrokerAccess(
        BrokerUserStore(parts.pool),
        passwords=parts.broker_passwords,
        keys=parts.device_keys,
        service=_service(settings),
        cache_s=settings.mqtt_callback_cache_s,
    )
    users = MqttUsers(
        MqttUserStore(parts.pool),
        passwords=parts.broker_passwords,
        reconciler=parts.reconciler,
        most=settings.mqtt_users_per_tenant,
    )
    return [users, BrokerCallbacks(settings, access, limiter)]


def _service(settings: Settings) -> Service | None:
    if settings.mqtt_accounts != "callbacks" or settings.mqtt_url is None:
        return None
    options = session_options(settings, "callbacks")
    if not options.username or not options.password:
        return None
    return Service(options.username, options.password)
