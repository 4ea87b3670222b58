"""One client: what it asks, what it is sent, and when it has to go (reference section 9)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

import orjson

from iotistica import log, metrics, tasks
from iotistica.api.live import socket as codes
from iotistica.api.live.channels import CHANNELS, Channel, Stores
from iotistica.api.live.hub import Hub
from iotistica.api.live.sender import Sender
from iotistica.api.live.socket import Socket
from iotistica.api.live.subscription import MOST_SERVICES, Subscription, about
from iotistica.api.live.visit import Visit
from iotistica.errors import Denied, Forbidden, NotFound, StoreUnavailable
from iotistica.settings import Settings

_WINDOW_S = 60.0
_GOODBYE_S = 2.0
_AGAIN_S = 1.0
_MOST_SHOWN = 64
_SHELL = "shell"
_SHELL_COMMANDS = frozenset(
    f"{what}-session" for what in ("create", "attach", "detach", "terminate", "resize")
) | {"clear-all-sessions", "list-sessions", "shell-input"}

_log = log.get(__name__)
_occasional = log.Occasional(_log)


class Session:
    """Serves one socket until either side ends it."""

    def __init__(
        self, socket: Socket, visit: Visit, *, hub: Hub, stores: Stores, settings: Settings
    ) -> None:
        self._socket = socket
        self._visit = visit
        self._caller = visit.caller
        self._hub = hub
        self._stores = stores
        self._settings = settings
        self._sender = Sender(
            socket,
            settings,
            render=self._render,
            on_full=partial(self.end, codes.TRY_LATER, "the client reads too slowly", "slow"),
        )
        self._subscriptions: dict[str, Subscription] = {}
        self._stale: set[str] = set()
        self._is_stale = asyncio.Event()
        self._received: deque[float] = deque()
        self._ending: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until the connection has ended."""
        subject = self._visit.subject
        what = subject.scope.value if subject.agent is None else f"device {subject.agent}"
        self._sender.say({"type": "connected", **about(subject), "message": f"Connected to {what}"})
        work = [
            asyncio.create_task(one)
            for one in (self._sender.run(), self._refresh(), self._recheck())
        ]
        for task in work:
            task.add_done_callback(self._worked)
        try:
            while (message := await self._socket.receive()) is not None:
                if not self._count():
                    most = self._settings.live_messages_per_minute
                    self.end(codes.POLICY, f"more than {most} messages in 60 s", "flood")
                    break
                self._take(message)
            if self._ending is not None:
                await self._ending
        finally:
            for subscription in self._subscriptions.values():
                self._hub.leave(subscription.source, self)
            await tasks.end([*work, *([self._ending] if self._ending else [])])

    def end(self, code: int, reason: str, why: str) -> None:
        """Close, once; `why` is counted."""
        if self._ending is None:
            metrics.LIVE_CLOSED.labels(why).inc()
            self._ending = asyncio.create_task(self._goodbye(code, reason))

    def _worked(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a live session met a defect", exc_info=error)
            self._socket.abort()

    async def _goodbye(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._socket.close(code, reason)
        except TimeoutError:
            self._socket.abort()

    # What the hub tells

    def heard(self, source: str, document: dict[str, Any]) -> None:
        """Something was published."""
        for one in self._of(source):
            if one.is_value:
                if one.take(document):
                    self._sender.mark(one.channel.name)
            elif (text := one.event(document)) is not None:
                self._sender.put(text)

    def live(self, source: str) -> None:
        """From now on nothing is missed."""
        for one in self._of(source):
            self._fresh(one)

    def lost(self) -> None:
        """Something may be missed."""
        for one in self._subscriptions.values():
            one.confirm()
        what = "live values do not come now; what was shown may be old"
        self._sender.error(what, code="not_live")

    def _fresh(self, one: Subscription) -> None:
        """Show what is stored, or say that there is a gap, which nothing fills."""
        one.confirm()
        if one.channel.stored is not None:
            one.hold()
            self._stale.add(one.channel.name)
            self._is_stale.set()
        elif one.has_begun:
            self._sender.error("some may have been missed", channel=one.channel.name, code="gap")
        one.has_begun = True

    def _of(self, source: str) -> list[Subscription]:
        return [one for one in self._subscriptions.values() if one.source == source]

    # What the client asks

    def _count(self) -> bool:
        """Whether it has not sent too much within the last minute."""
        now = time.monotonic()
        while self._received and self._received[0] <= now - _WINDOW_S:
            self._received.popleft()
        self._received.append(now)
        return len(self._received) <= self._settings.live_messages_per_minute

    def _take(self, message: str | bytes) -> None:
        try:
            # Binary frames are not spoken here, and orjson bounds how deep text may nest.
            command = orjson.loads(message) if isinstance(message, str) else None
        except orjson.JSONDecodeError:
            command = None
        if not isinstance(command, dict):
            self._sender.error("a message is a JSON object, as text", code="bad_message")
            return
        match command.get("type"):
            case "ping":
                self._sender.say({"type": "pong"})
            case "subscribe":
                self._subscribe(command)
            case "unsubscribe":
                self._unsubscribe(command)
            case str(kind) if kind in _SHELL_COMMANDS:
                self._refuse_shell()
            case kind:
                what = f"type is {_shown(kind)}; allowed: subscribe, unsubscribe, ping"
                self._sender.error(what, code="unknown_type")

    def _subscribe(self, command: Mapping[str, Any]) -> None:
        channel = self._channel(command)
        if channel is None:
            return
        try:
            self._caller.require(channel.needs)
        except Forbidden as error:
            self._sender.error(str(error), channel=channel.name, code="forbidden")
            return
        service = command.get("serviceName")
        if service is not None and (not isinstance(service, str) or channel.name != "logs"):
            what = f"serviceName is {_shown(service)}; it is a text, and only for logs"
            self._sender.error(what, channel=channel.name, code="bad_message")
            return
        known = self._subscriptions.get(channel.name)
        if known is not None:
            if len(known.services or ()) >= MOST_SERVICES:
                what = f"logs of more than {MOST_SERVICES} services are asked for"
                self._sender.error(what, channel=channel.name, code="bad_message")
                return
            known.narrow(service)
        if known is None:
            self._begin(channel, service)
            return
        self._confirm("subscribed", channel, service)
        if channel.stored is not None:
            self._fresh(known)

    def _begin(self, channel: Channel, service: str | None) -> None:
        one = Subscription(channel, self._visit.subject)
        one.services = None if service is None else {service}
        # Told when Redis has confirmed it: from "subscribed" on, nothing is missed.
        one.unconfirmed = partial(self._confirm, "subscribed", channel, service)
        is_followed = any(other.has_begun for other in self._of(one.source))
        self._subscriptions[channel.name] = one
        metrics.LIVE_SUBSCRIPTIONS.labels(channel.name).inc()
        if is_followed:
            self._fresh(one)
        else:
            self._hub.join(one.source, self)
        if not self._hub.connected:
            self.lost()

    def _unsubscribe(self, command: Mapping[str, Any]) -> None:
        channel = self._channel(command)
        if channel is None:
            return
        service = command.get("serviceName")
        one = self._subscriptions.get(channel.name)
        if one is not None and isinstance(service, str) and one.services is not None:
            one.services.discard(service)
        if one is not None and (service is None or not one.services):
            del self._subscriptions[channel.name]
            if not self._of(one.source):
                self._hub.leave(one.source, self)
        self._confirm("unsubscribed", channel, service if isinstance(service, str) else None)

    def _channel(self, command: Mapping[str, Any]) -> Channel | None:
        name, scope = command.get("channel"), self._visit.subject.scope
        if name == _SHELL:
            self._refuse_shell()
            return None
        found = CHANNELS.get((scope, name)) if isinstance(name, str) else None
        if found is None:
            allowed = ", ".join(one for its, one in CHANNELS if its is scope)
            what = f"channel is {_shown(name)}; allowed: {allowed}"
            self._sender.error(what, code="unknown_channel")
        return found

    def _confirm(self, kind: str, channel: Channel, service: str | None) -> None:
        named = {} if service is None else {"serviceName": service}
        subject = about(self._visit.subject)
        self._sender.say({"type": kind, "channel": channel.name, **subject, **named})

    def _refuse_shell(self) -> None:
        what = "the remote shell is not part of this platform (docs/live.md)"
        self._sender.error(what, channel=_SHELL, code="not_supported")

    # What the client is sent

    def _render(self, name: Hashable) -> bytes | None:
        one = self._subscriptions.get(str(name))
        return None if one is None else one.render()

    async def _refresh(self) -> None:
        """Show what is stored of each value that begins, or begins anew."""
        while True:
            await self._is_stale.wait()
            self._is_stale.clear()
            while self._stale:
                one = self._subscriptions.get(self._stale.pop())
                if one is not None:
                    await self._restore(one)

    async def _restore(self, one: Subscription) -> None:
        channel = one.channel
        if channel.stored is None:
            return
        try:
            stored = await channel.stored(self._stores, self._visit.subject)
        except StoreUnavailable as error:
            _occasional.warning("no first value", channel=channel.name, error=str(error))
            what = "what is stored cannot be read now; it follows"
            self._sender.error(what, channel=channel.name, code="not_live")
            await asyncio.sleep(_AGAIN_S)
            self._stale.add(channel.name)
            return
        except NotFound:
            self.end(codes.POLICY, "the agent does not exist", "revoked")
            return
        if one.restore(stored):
            self._sender.mark(channel.name)
        if one.has_missed:
            self._fresh(one)

    async def _recheck(self) -> None:
        """See now and then whether the caller may still listen."""
        expires_at = self._visit.expires_at
        while True:
            pause_s = self._settings.live_recheck_s
            if expires_at is not None:
                left_s = expires_at - time.time()
                if left_s <= 0:
                    self.end(codes.POLICY, "the token has expired", "expired")
                    return
                pause_s = min(pause_s, left_s)
            await asyncio.sleep(pause_s)
            if not await self._may_stay():
                return

    async def _may_stay(self) -> bool:
        try:
            self._caller = await self._visit.again()
        except StoreUnavailable:
            return True  # asked again later: nobody is sent away because a server is
        except (Denied, Forbidden, NotFound) as error:
            self.end(codes.POLICY, str(error)[:100], "revoked")
            return False
        for one in list(self._subscriptions.values()):
            if one.channel.needs not in self._caller.permissions:
                self._unsubscribe({"channel": one.channel.name})
                what = f"the permission {one.channel.needs} was taken away"
                self._sender.error(what, channel=one.channel.name, code="forbidden")
        return True


def _shown(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"
