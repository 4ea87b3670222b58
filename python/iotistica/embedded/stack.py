"""Stack: PostgreSQL, Redis and MQTT broker of one data directory, private or attached."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import Any

from iotistica.credentials import User
from iotistica.embedded.broker import Broker, find_broker
from iotistica.embedded.carrier import find_postgres
from iotistica.embedded.directory import DataDirectory
from iotistica.embedded.keeper import Service
from iotistica.embedded.ports import free_ports
from iotistica.embedded.postgres import Postgres
from iotistica.embedded.process import stop_stale
from iotistica.embedded.redis import Redis, find_redis
from iotistica.settings import Settings

BRIDGE_USER = "iotistica-api"
BRIDGE_RULES = ("readwrite i/#", "read $SYS/#")


@dataclass(frozen=True, slots=True)
class Urls:
    """Where the three servers are, with credentials."""

    database: str
    redis: str
    mqtt: str


class Stack:
    """The servers: those whose URL is set are used as they are, the others are private."""

    def __init__(self, directory: DataDirectory, settings: Settings) -> None:
        """Find every program that is needed. Raises `ConfigError`, before anything runs."""
        ports = _ports(directory)
        self.postgres = _postgres(directory, settings, ports["postgres"])
        self.redis = _redis(directory, settings, ports["redis"])
        self.broker = _broker(directory, settings, ports["broker"])
        self.urls = Urls(
            database=self.postgres.url if self.postgres else settings.require("database_url"),
            redis=self.redis.url if self.redis else settings.require("redis_url"),
            mqtt=_bridge_url(self.broker, directory)
            if self.broker
            else settings.require("mqtt_url"),
        )

    @property
    def services(self) -> list[Service]:
        """The private servers."""
        return [server for server in (self.postgres, self.redis, self.broker) if server]

    def accounts(self) -> dict[str, str]:
        """Settings by which the API keeps the users of a private broker."""
        if self.broker is None:
            return {}
        return {
            "IOTISTICA_MQTT_ACCOUNTS": "files",
            "IOTISTICA_MQTT_PASSWORD_FILE": str(self.broker.credentials.password_file),
            "IOTISTICA_MQTT_ACL_FILE": str(self.broker.credentials.acl_file),
            "IOTISTICA_MQTT_PID_FILE": str(self.broker.child.command.pid_file),
        }

    def state(self) -> dict[str, Any]:
        """What others need to attach to the stack, and the next start to be the same."""
        servers = {"postgres": self.postgres, "redis": self.redis, "broker": self.broker}
        return {
            "database": self.urls.database,
            "redis": self.urls.redis,
            "mqtt": self.urls.mqtt,
            "broker": _credential_files(self.broker) if self.broker else None,
            "ports": {name: server.port for name, server in servers.items() if server},
        }


async def stop_left_behind(directory: DataDirectory) -> None:
    """End what a start that was killed has left, so that its ports are free again."""
    files = [*directory.path.glob("*.pid"), *directory.path.glob("*/*.pid")]
    # All of ours take SIGINT for a graceful stop.
    await asyncio.gather(*(stop_stale(file, signal.SIGINT) for file in files))


def _ports(directory: DataDirectory) -> dict[str, int]:
    """Those of the last start, where they are still free: clients may have noted them."""
    remembered = directory.state().get("ports")
    known = remembered if isinstance(remembered, dict) else {}
    wanted = {name: known.get(name) for name in ("postgres", "redis", "broker")}
    return free_ports({n: port if isinstance(port, int) else 0 for n, port in wanted.items()})


def _postgres(directory: DataDirectory, settings: Settings, port: int) -> Postgres | None:
    if settings.database_url is not None:
        return None
    postgres = Postgres(
        directory.path / "postgres",
        port=port,
        password=directory.secret("database"),
        installation=find_postgres(settings.postgres_bin),
    )
    postgres.check()
    return postgres


def _redis(directory: DataDirectory, settings: Settings, port: int) -> Redis | None:
    if settings.redis_url is not None:
        return None
    return Redis(
        directory.path / "redis",
        port=port,
        password=directory.secret("redis"),
        binary=find_redis(settings.redis_bin),
    )


def _broker(directory: DataDirectory, settings: Settings, port: int) -> Broker | None:
    if settings.mqtt_url is not None:
        return None
    broker = Broker(directory.path / "broker", port=port, program=find_broker(settings.broker))
    broker.credentials.add({BRIDGE_USER: User(directory.secret("mqtt"), BRIDGE_RULES)})
    return broker


def _bridge_url(broker: Broker, directory: DataDirectory) -> str:
    return broker.url_for(BRIDGE_USER, directory.secret("mqtt"))


def _credential_files(broker: Broker) -> dict[str, Any]:
    """Where agents may be added; the process must be told by SIGHUP."""
    return {
        "passwords": str(broker.credentials.password_file),
        "acl": str(broker.credentials.acl_file),
        "pid": broker.child.pid,
    }
