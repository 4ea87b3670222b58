"""Everything about who may call: built once for a process, shared by its routes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from iotistica import keys, log, tasks
from iotistica.api.auth import Tokens
from iotistica.api.auth_keys import ProviderTokens
from iotistica.api.callers import AgentKeys, Callers
from iotistica.api.digests import Digests
from iotistica.api.gate import Limits
from iotistica.api.limiter import Limiter
from iotistica.api.passwords import Passwords
from iotistica.api.remembered import Remembered
from iotistica.api.service_keys import ServiceKeys
from iotistica.api.standings import Standings, is_number
from iotistica.errors import StoreUnavailable
from iotistica.settings import Settings
from iotistica.store.api_keys import ApiKeyStore
from iotistica.store.pool import Pool
from iotistica.store.sessions import SessionStore
from iotistica.store.tenants import known_tenant
from iotistica.store.users import UserStore
from iotistica.streams.grants import Grants
from iotistica.streams.notices import Notices

_log = log.get(__name__)

_FLUSH_S = 30.0
_TENANT_S = 300.0
_LIMIT_TIMEOUT_S = 0.5


class Identity:
    """Users, sessions and keys of a process."""

    def __init__(
        self, settings: Settings, pool: Pool, tokens: Tokens, agents: AgentKeys | None = None
    ) -> None:
        """Opens nothing. Raises `ConfigError`."""
        self.tokens = tokens
        self.digests = Digests.of(settings, tokens.key)
        self.passwords = Passwords(settings)
        self.users = UserStore(pool)
        self.sessions = SessionStore(
            pool, lifetime_s=settings.refresh_token_s, grace_s=settings.refresh_grace_s
        )
        self.api_keys = ApiKeyStore(pool)
        self.services = ServiceKeys(
            self.api_keys, self.digests, lifetime_s=settings.api_key_cache_s
        )
        self.standings = Standings(self.users, lifetime_s=settings.user_cache_s)
        self.provider = ProviderTokens.of(settings)
        """None where no key set of an identity provider is configured."""
        self.callers = Callers(
            tokens=tokens,
            provider=self.provider,
            standings=self.standings,
            services=self.services,
            tenants=Remembered(partial(known_tenant, pool), lifetime_s=_TENANT_S),
            agents=agents,
        )
        self.limiter = Limiter(
            Grants(settings.require("redis_url"), timeout_s=_LIMIT_TIMEOUT_S),
            processes=settings.rate_limit_processes or settings.web_processes,
        )
        self.gate = Limits(self.limiter, settings) if settings.rate_limits else None
        self.hears = asyncio.Event()
        """Set while changes in other processes are heard of."""
        self._notices = Notices(settings.require("redis_url"), keys.IDENTITY_CHANNEL)
        self._later: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Listen for changes, and store the use of keys now and then."""
        listening = self._notices.receive(self._take, self._forget, self.hears)
        self._tasks = [asyncio.create_task(listening), asyncio.create_task(self._flush())]

    async def close(self) -> None:
        """End what was started."""
        await self.settle()
        await tasks.end(self._tasks)
        await self._notices.close()
        await self.limiter.close()
        self.passwords.close()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something happen that no answer waits for."""
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._done)

    async def settle(self) -> None:
        """Wait until all of that has happened."""
        if self._later:
            await asyncio.wait(self._later)

    async def user_changed(self, user: int) -> None:
        """Have every process look at this user anew. Call it after the commit."""
        await self._tell(f"user {user}")

    async def roles_changed(self, tenant: str) -> None:
        """The same for every user of a tenant."""
        await self._tell(f"tenant {tenant}")

    async def key_revoked(self, key: int) -> None:
        """Have every process forget a key."""
        await self._tell(f"key {key}")

    async def _tell(self, notice: str) -> None:
        self._take(notice)
        try:
            await self._notices.send(notice)
        except StoreUnavailable as error:
            # Elsewhere it is then forgotten a little later, when it expires.
            _log.warning("other processes were not told of a change", error=str(error))

    def _take(self, notice: str) -> None:
        match notice.split():
            case ["user", user] if is_number(user):
                self.standings.drop(int(user))
            case ["tenant", tenant]:
                self.standings.drop_tenant(tenant)
            case ["key", key] if is_number(key):
                self.services.drop(int(key))
            case _:
                _log.warning("an unknown notice", notice=notice[:64])

    def _done(self, task: asyncio.Task[None]) -> None:
        self._later.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("something was not recorded", error=str(error))

    def _forget(self) -> None:
        self.standings.clear()
        self.services.clear()

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            try:
                await self.services.flush()
            except StoreUnavailable as error:
                _log.warning("the use of API keys was not noted", error=str(error))
