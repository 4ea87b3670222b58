"""Who calls: users by tokens, services and agents by keys."""

from __future__ import annotations

from typing import Protocol

from iotistica.api import auth_keys, service_keys
from iotistica.api.auth import Tokens, bearer
from iotistica.api.http import Request
from iotistica.api.principal import Principal
from iotistica.api.remembered import Remembered
from iotistica.api.route import Route
from iotistica.api.service_keys import ServiceKeys
from iotistica.api.standings import Standings
from iotistica.errors import Denied

AGENT_HEADER, SERVICE_HEADER = "x-device-api-key", "x-api-key"
FORMER_HEADER = "x-device-api-key-previous"
"""Agents send it for a while after a rotation; it counts where the other key is not known."""


class AgentKeys(Protocol):
    """Knows agents by their keys."""

    async def identify(self, key: str) -> Principal | None:
        """The agent that has this key. Raises `StoreUnavailable`."""


class Callers:
    """Finds the caller behind whichever credentials a request carries.

    One credential is looked at: the key of an agent or a service in its own header, else whatever
    stands in `Authorization`, which its form tells apart.
    """

    def __init__(
        self,
        *,
        tokens: Tokens,
        provider: auth_keys.ProviderTokens | None,
        standings: Standings,
        services: ServiceKeys,
        tenants: Remembered[str, str],
        agents: AgentKeys | None = None,
    ) -> None:
        self._tokens = tokens
        self._provider = provider
        self._standings = standings
        self._services = services
        self._tenants = tenants
        self._agents = agents

    async def identify(self, request: Request, _route: Route) -> Principal:
        """The caller. Raises `Denied`, `StoreUnavailable`."""
        if request.headers.get(AGENT_HEADER):
            return await self._agent(request)
        if key := request.headers.get(SERVICE_HEADER):
            return await self._services.identify(key)
        credential = bearer(request)
        if credential.startswith(service_keys.PREFIX):
            return await self._services.identify(credential)
        if _is_token(credential):
            return await self.user(credential)
        return await self._agent(request)

    async def user(self, token: str) -> Principal:
        """The user of a token, ours or the provider's. Raises `Denied`, `StoreUnavailable`."""
        kid = auth_keys.key_id(token)
        if kid is not None and self._provider is not None:
            found = await self._provider.verify(token, kid)
            if await self._tenants.get(found.tenant) is None:
                raise Denied("the token names no tenant of this platform")
            return found
        return await self._standings.principal(self._tokens.read(token))

    async def _agent(self, request: Request) -> Principal:
        if self._agents is not None:
            for key in device_keys(request):
                if (found := await self._agents.identify(key)) is not None:
                    return found
        raise Denied("the credentials are not valid")


def device_keys(request: Request) -> list[str]:
    """Keys of an agent that a request carries: the one that it holds to be good, the former one."""
    own = request.headers.get(AGENT_HEADER) or bearer(request)
    former = request.headers.get(FORMER_HEADER)
    return [own, former] if former else [own]


def _is_token(credential: str) -> bool:
    """Whether it has the three parts of a JSON Web Token (RFC 7519 section 7.2)."""
    return credential.count(".") == 2
