"""The client, and the parts of the API that it has words for."""

from __future__ import annotations

from iotistica.client.accounts import MqttUsers, Users
from iotistica.client.agents import Agents
from iotistica.client.findings import Alerts, Events, Incidents, Readings
from iotistica.client.orders import Jobs, Targets
from iotistica.client.retention import Retention
from iotistica.client.transport import Login, Transport


class Client:
    """`async with Client(url, token=…)`, `api_key=…` or `login=Login(name, password)`.

    What it has no word for, `client.transport.call` does, with the same types and errors.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        api_key: str | None = None,
        login: Login | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
    ) -> None:
        """Raises `ValueError` for more than one credential."""
        self.transport = Transport(
            url, token=token, api_key=api_key, login=login, timeout_s=timeout_s, retries=retries
        )
        self.agents = Agents(self.transport)
        self.events = Events(self.transport)
        self.targets = Targets(self.transport)
        self.jobs = Jobs(self.transport)
        self.readings = Readings(self.transport)
        self.alerts = Alerts(self.transport)
        self.incidents = Incidents(self.transport)
        self.retention = Retention(self.transport)
        self.users = Users(self.transport)
        self.mqtt_users = MqttUsers(self.transport)

    async def __aenter__(self) -> Client:
        """Open the session. Raises `Denied`, `StoreUnavailable`."""
        await self.transport.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.transport.close()
