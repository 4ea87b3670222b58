"""What a simulated agent tells about itself: state, metrics, logs (reference section 1.4)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

import orjson

from iotistica._native import format_topic
from iotistica.simulator.link import Link

EVERY_S = 10.0
_METRICS_TURNS = 6
_LOG_SHARE = 0.5
_MIB = 1 << 20
_LINES = (
    ("info", "cycle finished"),
    ("info", "configuration is unchanged"),
    ("debug", "read 64 registers"),
    ("warn", "reply took longer than 500 ms"),
    ("error", "connection refused; trying again"),
)


class Reports:
    """Reports of one agent: a full state first, then what changed, every ten seconds."""

    def __init__(self, tenant: str, uuid: str, index: int, seed: str) -> None:
        self._uuid = uuid
        self._index = index
        self._rng = random.Random(f"{seed}/{index}/reports")  # noqa: S311 - a simulation
        self._topics = {
            name: format_topic(tenant, uuid, name)
            for name in ("state", "metrics", "logs/gateway", "agent/startup")
        }
        self._began = time.monotonic()
        self._turn = 0
        self._cpu = self._rng.uniform(5, 40)

    async def publish(self, link: Link) -> None:
        """Report until cancelled. Raises `StoreUnavailable`."""
        await asyncio.sleep(self._rng.uniform(0, EVERY_S if self._turn else 1.0))
        while True:
            for topic, value in self.turn():
                await link.publish(topic, orjson.dumps(value))
            await asyncio.sleep(EVERY_S)

    def turn(self) -> Iterator[tuple[str, object]]:
        """Topic and JSON of each message of the next turn."""
        turn, self._turn = self._turn, self._turn + 1
        self._cpu = min(max(self._cpu + self._rng.uniform(-8, 8), 1), 99)
        if turn == 0:
            version = {"version": "1.4.2", "timestamp": time.time_ns() // 1_000_000}
            yield self._topics["agent/startup"], version
        state = {**(self._whole() if turn == 0 else {}), **self._changes()}
        yield self._topics["state"], {self._uuid: state, "msgId": self._message_id()}
        if turn % _METRICS_TURNS == 0:
            yield self._topics["metrics"], {**self._numbers(), "network": {"rx": 1, "tx": 1}}
        if self._rng.random() < _LOG_SHARE:
            level, message = self._rng.choice(_LINES)
            line = {"message": message, "level": level, "timestamp": time.time_ns() // 1_000_000}
            yield self._topics["logs/gateway"], line

    def _whole(self) -> dict[str, object]:
        address = f"10.{self._index >> 16 & 255}.{self._index >> 8 & 255}.{self._index & 255}"
        return {
            "apps": {"gateway": {"name": "gateway", "image": "iotistica/gateway:1.4.2"}},
            "config": {"endpoints": [{"name": "plc", "protocol": "modbus"}]},
            "version": 1,
            "agent_version": "1.4.2",
            "os_version": "Debian GNU/Linux 12",
            "architecture": "arm64",
            "local_ip": address,
            "mac_address": f"02:00:00:{self._index >> 16 & 255:02x}:"
            f"{self._index >> 8 & 255:02x}:{self._index & 255:02x}",
            "network_interfaces": [{"name": "eth0", "ip4": address, "default": True}],
            "devices": [{"uuid": self._uuid, "name": "plc", "protocol": "modbus"}],
            "endpoints_health": {"plc": {"status": "connected"}},
        }

    def _changes(self) -> dict[str, object]:
        uptime = round(time.monotonic() - self._began)
        return {**self._numbers(), "uptime": uptime, "is_online": True}

    def _numbers(self) -> dict[str, object]:
        return {
            "cpu_usage": round(self._cpu, 1),
            "cpu_temp": round(40 + self._cpu / 3, 1),
            "memory_usage": round((300 + self._cpu * 4) * _MIB),
            "memory_total": 1024 * _MIB,
            "storage_usage": 6_000 * _MIB,
            "storage_total": 32_000 * _MIB,
        }

    def _message_id(self) -> str:
        return f"{self._uuid}-{time.time_ns() // 1_000_000}-{self._rng.randbytes(4).hex()}"
