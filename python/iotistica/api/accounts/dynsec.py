"""Accounts of a Mosquitto with its dynamic-security plugin, which is told over MQTT.

An account is a client with a role of its own. The client's description holds the version of the
account, so one that the broker has already is neither written again nor disconnected; the plugin
writes its whole file for each command that changes anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from iotistica import mqtt
from iotistica.api.accounts import READ, SUBSCRIBE, WRITE, Account, Rule
from iotistica.api.accounts.control_topic import Answer, Command, Control, control
from iotistica.api.accounts.together import Together

SERVICE_RULES = (Rule("i/#", READ | WRITE | SUBSCRIBE), Rule("$SYS/#", READ | SUBSCRIBE))
"""Of iotistica itself."""

_EXISTS = ("Role already exists", "Client already exists")
_MISSING = ("Role not found", "Client not found")


class DynamicSecurity:
    """Tells the plugin as `admin`. `service` is the account that iotistica itself connects with,
    which is made, too."""

    def __init__(self, admin: mqtt.Options, service: Account) -> None:
        self._admin = admin
        self._service = service
        self._together = Together(self._put)

    async def prepare(self) -> bool:
        """What nobody is granted is denied to all, and iotistica is let in.

        A broker that does not know iotistica has lost its file.
        """
        async with self._together.alone, control(self._admin) as plugin:
            defaults, service = await plugin.ask(
                [{"command": "getDefaultACLAccess"}, _named("getClient", self._service.username)]
            )
            if any(one["allow"] for one in defaults["data"]["acls"]):
                # Stock: whatever is not granted may be received and unsubscribed.
                denied = [{"acltype": kind, "allow": False} for kind in _DEFAULTS]
                await plugin.change([{"command": "setDefaultACLAccess", "acls": denied}])
            if _is_current(service, self._service):
                return False
            await _write(plugin, [self._service])
            return True

    async def put(self, accounts: Sequence[Account]) -> None:
        """A session ends whose password or rules have changed."""
        await self._together.put(accounts)

    async def remove(self, usernames: Collection[str]) -> None:
        """Their sessions end at once."""
        async with self._together.alone, control(self._admin) as plugin:
            for make in (_delete_client, _delete_role):
                await plugin.change([make(username) for username in usernames], fine=_MISSING)

    async def _put(self, batch: Mapping[str, Account]) -> None:
        # Whoever calls himself as we do must not take our place.
        batch = {name: one for name, one in batch.items() if name not in self._reserved}
        async with control(self._admin) as plugin:
            known = await plugin.ask([_named("getClient", name) for name in batch])
            await _write(
                plugin,
                [
                    account
                    for account, answer in zip(batch.values(), known, strict=True)
                    if not _is_current(answer, account)
                ],
            )

    @property
    def _reserved(self) -> tuple[str | None, ...]:
        return (self._service.username, self._admin.username)


_DEFAULTS = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")


async def _write(plugin: Control, accounts: Sequence[Account]) -> None:
    """Roles first: a client without one may do nothing, and is never seen so."""
    for kind, make in (("Role", _role), ("Client", _client)):
        made = await plugin.change([make(f"create{kind}", one) for one in accounts], fine=_EXISTS)
        again = [
            make(f"modify{kind}", account)
            for account, answer in zip(accounts, made, strict=True)
            if "error" in answer
        ]
        await plugin.change(again)


def _is_current(answer: Answer, account: Account) -> bool:
    client = answer.get("data", {}).get("client", {})
    roles = [one["rolename"] for one in client.get("roles", ())]
    return client.get("textdescription") == account.version and roles == [_role_name(account)]


def _role(command: str, account: Account) -> dict[str, Any]:
    acls = [acl for rule in account.rules for acl in _acls(rule)]
    return {"command": command, "rolename": _role_name(account), "acls": acls}


def _client(command: str, account: Account) -> dict[str, Any]:
    return {
        **_named(command, account.username),
        "password": account.password,
        "textdescription": account.version,
        "roles": [{"rolename": _role_name(account), "priority": 1}],
    }


def _acls(rule: Rule) -> Iterator[dict[str, Any]]:
    """A rule as the plugin has it; who may subscribe may do so in a group, and unsubscribe."""
    kinds: list[tuple[str, str]] = []
    if rule.access & READ:
        kinds.append(("publishClientReceive", rule.filter))
    if rule.access & WRITE:
        kinds.append(("publishClientSend", rule.filter))
    if rule.access & SUBSCRIBE:
        for wanted in (rule.filter, f"$share/+/{rule.filter}"):
            kinds += [("subscribePattern", wanted), ("unsubscribePattern", wanted)]
    for kind, topic in kinds:
        yield {"acltype": kind, "topic": topic, "priority": 0, "allow": True}


def _role_name(account: Account) -> str:
    return _role_of(account.username)


def _role_of(username: str) -> str:
    return f"iotistica:{username}"


def _named(command: str, username: str) -> dict[str, Any]:
    return {"command": command, "username": username}


def _delete_client(username: str) -> Command:
    return _named("deleteClient", username)


def _delete_role(username: str) -> Command:
    return {"command": "deleteRole", "rolename": _role_of(username)}
