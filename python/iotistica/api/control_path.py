"""The control path: what operators want agents to be, and how agents learn of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iotistica.api.routes.agent_commands import AgentCommands
from iotistica.api.routes.endpoints import Endpoints
from iotistica.api.routes.reported_state import ReportedStates
from iotistica.api.routes.state_poll import Keys, StatePoll
from iotistica.api.routes.target_apps import TargetApps
from iotistica.api.routes.target_fleet import TargetFleet
from iotistica.api.routes.target_state import TargetStates
from iotistica.api.target_cache import TargetCache
from iotistica.api.target_desk import TargetDesk
from iotistica.settings import Settings
from iotistica.store.groups import GroupStore
from iotistica.store.pool import Pool
from iotistica.store.reported import ReportedStore
from iotistica.store.reports import ReportStore
from iotistica.store.roster import Roster
from iotistica.store.series import SeriesStore
from iotistica.store.target_feed import TargetFeed
from iotistica.store.targets import TargetStore
from iotistica.streams import Streams
from iotistica.targets.processing import Signer
from iotistica.targets.shape import Limits


def handlers(
    settings: Settings,
    pool: Pool,
    streams: Streams,
    *,
    device_keys: Keys,
    seen: Callable[[str], None],
) -> list[Any]:
    """Every part of it. Opens nothing. `seen` is told of every agent that polls."""
    secret = settings.update_command_secret
    signer = Signer(None if secret is None else secret.get_secret_value().encode())
    limits = Limits(
        bytes=settings.target_max_bytes,
        depth=settings.target_max_depth,
        apps=settings.target_max_apps,
    )
    feed = TargetFeed(pool)
    cache = TargetCache(feed, most=settings.target_cache_agents, redis_url=settings.redis_url)
    store = TargetStore(pool, signer, versions=settings.target_history_versions)
    desk = TargetDesk(store, cache, streams)
    return [
        StatePoll(cache, settings, keys=device_keys, seen=seen),
        TargetStates(store, desk, limits),
        TargetApps(desk, limits),
        Endpoints(
            store,
            desk,
            reports=ReportStore(pool),
            series=SeriesStore(pool),
            limits=limits,
        ),
        TargetFleet(
            store,
            feed,
            desk,
            roster=Roster(pool),
            groups=GroupStore(pool),
            limits=limits,
            signer=signer,
        ),
        ReportedStates(ReportedStore(pool)),
        AgentCommands(pool, store, streams.outbox, signer),
    ]
