"""Where a fleet publishes, and how its agents come to exist there."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from iotistica import mqtt
from iotistica._native import encode_agent, encode_tenant
from iotistica.credentials import Credentials, User
from iotistica.embedded.directory import STATE, default_directory
from iotistica.errors import ConfigError, StoreUnavailable
from iotistica.settings import Settings
from iotistica.simulator.agent import Connect
from iotistica.simulator.link import Link

_RELOAD_TIMEOUT_S = 15.0
_CONNECTS_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFiles:
    """The files of a local broker, whose users we may add."""

    passwords: Path
    acl: Path
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running platform."""

    tenant: str
    database_url: str
    redis_url: str
    mqtt_url: str
    broker: BrokerFiles | None = None
    """None where all agents publish as the user of `mqtt_url`."""
    directory: Path | None = None
    """Data directory, if it is a stack's."""


def find(data_dir: Path | None, settings: Settings, tenant: str | None) -> Target:
    """A data directory's stack, else the servers of the environment, else the default stack.

    Raises `ConfigError`.
    """
    urls = (settings.database_url, settings.redis_url, settings.mqtt_url)
    if data_dir is not None or not any(urls):
        return from_directory(data_dir or default_directory())
    if tenant is None:
        raise ConfigError("--tenant is not given, and without --data-dir nothing names the tenant")
    return Target(
        tenant=tenant,
        database_url=settings.require("database_url"),
        redis_url=settings.require("redis_url"),
        mqtt_url=settings.require("mqtt_url"),
    )


def from_directory(directory: Path) -> Target:
    """The stack that runs in a data directory. Raises `ConfigError`."""
    path = directory / STATE
    try:
        state: dict[str, Any] = orjson.loads(path.read_bytes())
        broker = state.get("broker")
        return Target(
            tenant=state["tenant"],
            database_url=state["database"],
            redis_url=state["redis"],
            mqtt_url=state["mqtt"],
            broker=BrokerFiles(
                passwords=Path(broker["passwords"]), acl=Path(broker["acl"]), pid=broker["pid"]
            )
            if broker
            else None,
            directory=directory,
        )
    except FileNotFoundError:
        raise ConfigError(f"no stack runs in {directory}; start `iotistica up` first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error!r}") from None


@contextmanager
def exclusive(directory: Path | None, seed: str) -> Iterator[None]:
    """Hold the fleet of one seed: two with the same agents would disconnect each other."""
    if directory is None:
        yield
        return
    with (directory / f"fleet-{quote(seed, safe='')}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"the fleet of seed {seed} is already running on {directory}; give another --seed"
            ) from None
        yield


async def connector(target: Target, agents: Sequence[str]) -> Connect:
    """Give the agents their broker users, and return what opens their sessions.

    Raises `StoreUnavailable`, `ConfigError`.
    """
    options = {agent: _options(target, agent) for agent in agents}
    if target.broker is not None:
        passwords = {agent: secrets.token_urlsafe(18) for agent in agents}
        _add_users(target, target.broker, passwords)
        options = {agent: _options(target, agent, passwords[agent]) for agent in agents}
        # A broker that has just been told of new users may need a moment to know them.
        await _connect_once(options[agents[-1]], within_s=_RELOAD_TIMEOUT_S)
    else:
        await _connect_once(options[agents[-1]], within_s=0.0)
    gate = asyncio.Semaphore(_CONNECTS_AT_ONCE)

    @asynccontextmanager
    async def connect(agent: str) -> AsyncIterator[Link]:
        async with gate:
            session = mqtt.connect(options[agent])
            link = await session.__aenter__()
        try:
            yield link
        finally:
            await session.__aexit__(None, None, None)

    return connect


def _options(target: Target, agent: str, password: str | None = None) -> mqtt.Options:
    options = mqtt.parse_url(target.mqtt_url, client_id=f"agent_{agent}", clean_start=True)
    if password is None:
        return options
    return mqtt.parse_url(
        f"{'mqtts' if options.tls else 'mqtt'}://agent_{agent}:{quote(password, safe='')}"
        f"@{options.host}:{options.port}",
        client_id=options.client_id,
        clean_start=True,
    )


def _add_users(target: Target, broker: BrokerFiles, passwords: Mapping[str, str]) -> None:
    tenant = encode_tenant(target.tenant)
    Credentials(broker.passwords, broker.acl).add(
        {
            f"agent_{agent}": User(password, (f"readwrite i/{tenant}/a/{encode_agent(agent)}/#",))
            for agent, password in passwords.items()
        }
    )
    try:
        os.kill(broker.pid, signal.SIGHUP)
    except ProcessLookupError:
        raise StoreUnavailable(f"the broker (process {broker.pid}) is not running") from None


async def _connect_once(options: mqtt.Options, *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            async with mqtt.connect(options):
                return
        # A broker that refuses may close so fast that its reason is never read.
        except (mqtt.Refused, mqtt.Disconnected):
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(0.05)
