"""A real Mosquitto with its dynamic-security plugin, in a directory of its own."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from iotistica import mqtt
from iotistica.embedded.broker import BUILTIN, find_broker
from iotistica.embedded.ports import LOOPBACK, answers, free_port
from iotistica.embedded.process import Child, Command

ADMIN = "dynsec-admin"
SERVICE = "iotistica-api"


def plugin() -> Path:
    """The plugin of this machine's Mosquitto; skips the test where there is none."""
    found = [
        path
        for place in ("/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")
        for path in Path(place).glob("**/mosquitto_dynamic_security.so")
    ]
    if not found or find_broker() == BUILTIN or shutil.which("mosquitto_ctrl") is None:
        pytest.skip("mosquitto >= 2 with its dynamic-security plugin is not installed")
    return found[0]


class DynsecBroker:
    """Started as docs/broker-accounts.md says, by the tool that comes with Mosquitto."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.file = directory / "dynamic-security.json"
        self.admin_url = self._url(ADMIN)
        self.service_url = self._url(SERVICE)
        config = directory / "mosquitto.conf"
        config.write_text(
            "per_listener_settings false\nallow_anonymous false\nset_tcp_nodelay true\n"
            f"plugin {plugin()}\nplugin_opt_config_file {self.file}\n"
            f"listener {self.port} {LOOPBACK}\nuser root\nlog_dest stderr\nlog_type all\n"
        )
        self.child = Child(
            Command(
                name="mosquitto",
                argv=[find_broker(), "-c", config],
                log=directory / "broker.log",
                pid_file=directory / "broker.pid",
                cwd=directory,
            )
        )

    async def start(self, *, anew: bool = True) -> None:
        """Start; `anew` without anything that it knew."""
        if anew:
            self.file.unlink(missing_ok=True)
            password = mqtt.parse_url(self.admin_url, client_id="").password or ""
            subprocess.run(
                ["mosquitto_ctrl", "dynsec", "init", self.file, ADMIN, password],
                check=False,
                capture_output=True,
            )
            assert self.file.exists()
        await self.child.start(self._ready)

    async def stop(self) -> None:
        """Stop."""
        await self.child.stop()

    def url(self, username: str, password: str) -> str:
        """To connect as somebody."""
        return f"mqtt://{username}:{password}@{LOOPBACK}:{self.port}"

    def _url(self, username: str) -> str:
        return self.url(username, secrets.token_urlsafe())

    async def _ready(self) -> bool:
        return await answers(self.port)
