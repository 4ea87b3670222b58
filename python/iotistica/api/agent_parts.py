"""What the handlers of agents are made of."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from iotistica import keys
from iotistica.allowance import UNLIMITED
from iotistica.api import auth_license
from iotistica.api.accounts.broker_passwords import BrokerPasswords
from iotistica.api.accounts.choice import accounts
from iotistica.api.accounts.reconciler import Reconciler
from iotistica.api.agent_brokers import AgentBrokers
from iotistica.api.agent_changes import AgentChanges
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.auth_license import License
from iotistica.api.device_keys import DeviceKeys
from iotistica.api.routes.agents import Agents
from iotistica.api.routes.device_keys import AgentKeys
from iotistica.api.routes.fleets import Fleets
from iotistica.api.routes.groups import Groups
from iotistica.api.routes.license import LicenseRoutes
from iotistica.api.routes.provisioning import ProvisioningKeys
from iotistica.api.routes.registration import AgentRegistration
from iotistica.api.routes.tags import Tags
from iotistica.settings import Settings
from iotistica.store.agent_keys import AgentKeyStore
from iotistica.store.broker_users import BrokerUserStore
from iotistica.store.fleets import FleetStore
from iotistica.store.groups import GroupStore
from iotistica.store.pool import Pool
from iotistica.store.provisioning import ProvisioningKeyStore
from iotistica.store.registrations import RegistrationStore
from iotistica.store.roster import Roster
from iotistica.store.tags import TagStore
from iotistica.streams import Streams
from iotistica.streams.notices import Notices


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentParts:
    """One of each in a process."""

    settings: Settings
    pool: Pool
    streams: Streams
    digests: AgentDigests
    device_keys: DeviceKeys
    broker_passwords: BrokerPasswords
    reconciler: Reconciler
    license: License | None

    @classmethod
    def of(cls, settings: Settings, pool: Pool, streams: Streams) -> AgentParts:
        """Opens nothing. Raises `ConfigError`."""
        digests = AgentDigests(settings)
        passwords = BrokerPasswords(digests)
        broker = accounts(settings, streams.channels)
        return cls(
            settings=settings,
            pool=pool,
            streams=streams,
            digests=digests,
            device_keys=DeviceKeys(AgentKeyStore(pool), digests, settings),
            broker_passwords=passwords,
            reconciler=Reconciler(BrokerUserStore(pool), broker, passwords),
            license=auth_license.read(settings),
        )

    async def run(self) -> None:
        """Keep what is remembered of keys right, until cancelled."""
        notices = Notices(self.settings.require("redis_url"), keys.AGENTS_CHANNEL)
        try:
            await self.device_keys.run(notices, asyncio.Event())
        finally:
            await notices.close()


def agent_handlers(parts: AgentParts) -> list[Any]:
    """Every part of the API that is about agents."""
    pool, settings = parts.pool, parts.settings
    allowance = UNLIMITED if parts.license is None else parts.license.allowance
    roster, tags = Roster(pool, allowance), TagStore(pool)
    changes = AgentChanges(parts.device_keys, parts.streams, parts.reconciler)
    return [
        AgentRegistration(
            RegistrationStore(pool, allowance),
            digests=parts.digests,
            keys=parts.device_keys,
            reconciler=parts.reconciler,
            brokers=AgentBrokers(pool),
            settings=settings,
        ),
        AgentKeys(
            AgentKeyStore(pool),
            keys=parts.device_keys,
            streams=parts.streams,
            changes=changes,
            settings=settings,
        ),
        ProvisioningKeys(ProvisioningKeyStore(pool), parts.digests),
        Fleets(FleetStore(pool)),
        Tags(tags, roster),
        Groups(
            GroupStore(pool),
            roster=roster,
            fleets=FleetStore(pool),
            tags=tags,
            changes=changes,
        ),
        Agents(roster, changes),
        LicenseRoutes(parts.license, pool),
    ]
