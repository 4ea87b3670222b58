"""Checks of the MQTT broker, by connections of its own; what is subscribed to ends with them."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import replace

from iotistica import mqtt
from iotistica.doctor.finding import Finding, not_checked, ok, problem, warning
from iotistica.doctor.place import Place
from iotistica.mqtt import trial

_TIMEOUT_S = 5.0
_LISTEN_S = 1.0
_FIGURES_S = 3.0
# Matched by no subscription of the platform: it is no topic of an agent.
_PROBE = "i/iotistica-doctor/probe"
_DROPPED = "$SYS/broker/publish/messages/dropped"


async def check_connection(place: Place) -> list[Finding]:
    """Our account is let in, and the broker's limits fit ours."""
    options = _options(place)
    result = await trial.attempt(await _target(options), timeout_s=_TIMEOUT_S)
    where = f"{options.host}:{options.port}"
    if not result.connected:
        advice = "see that the broker runs, and that MQTT_URL has its address, user and password"
        return [problem("connection", f"{where}: {result.reason}", advice)]
    return [ok("connection", f"{where} lets us in"), *_limits(place, result.limits)]


def _limits(place: Place, limits: trial.Limits) -> list[Finding]:
    found, largest = [], place.settings.max_message_bytes
    if not limits.shared_subscriptions:
        text = "it has no shared subscriptions: several bridges would each get every message"
        found.append(problem("limits", text, "use a broker that has (MQTT 5.0 section 4.8.2)"))
    if limits.maximum_qos < 1:
        text = "it takes QoS 0 only: messages are lost without a trace"
        found.append(problem("limits", text, "allow QoS 1"))
    if limits.maximum_packet_bytes is not None and limits.maximum_packet_bytes < largest:
        text = (
            f"it takes packets of {limits.maximum_packet_bytes:,} bytes, messages may have "
            f"{largest:,}"
        )
        advice = "raise max_packet_size, or lower IOTISTICA_MAX_MESSAGE_BYTES"
        found.append(warning("limits", text, advice))
    wanted = place.settings.mqtt_session_expiry_s
    if limits.session_expiry_s is not None and limits.session_expiry_s < wanted:
        text = (
            f"it keeps sessions for {limits.session_expiry_s:,} s and not {wanted:,}: what comes "
            "while the bridge is away for longer is lost"
        )
        advice = "raise it there, or lower IOTISTICA_MQTT_SESSION_EXPIRY_S"
        found.append(warning("limits", text, advice))
    if limits.receive_maximum < 20:
        text = f"a client may have {limits.receive_maximum} messages under way: that is slow"
        found.append(warning("limits", text, "raise max_inflight_messages"))
    text = f"receive maximum {limits.receive_maximum:,}, packets of " + (
        f"{limits.maximum_packet_bytes:,} bytes"
        if limits.maximum_packet_bytes is not None
        else "any size"
    )
    return found or [ok("limits", text)]


async def check_anonymous(place: Place) -> list[Finding]:
    """Nobody gets in without a name."""
    options = replace(_options(place), username=None, password=None)
    result = await trial.attempt(await _target(options), timeout_s=_TIMEOUT_S)
    if result.connected:
        text = "it lets anybody in, without a name: whoever reaches it reads and writes"
        return [problem("anonymous access", text, "set allow_anonymous false")]
    if result.code is None:
        return [not_checked("anonymous access", result.reason)]
    return [ok("anonymous access", f"is refused: {result.reason}")]


async def check_strangers(place: Place) -> list[Finding]:
    """An agent gets no message of others by a shared subscription.

    Brokers may grant it and filter what is delivered, so a message of ours is what tells.
    """
    if place.agent_url is None:
        why = "no account of an agent is known"
        return [not_checked("strangers", why, "give --agent-url mqtt://user:password@host:port")]
    who = f"iotistica-doctor-{secrets.token_hex(4)}"
    agent = mqtt.parse_url(place.agent_url, client_id=f"{who}-agent", clean_start=True)
    ours = replace(_options(place), client_id=who, clean_start=True)
    topic_filter, secret = f"$share/{who}/i/#", secrets.token_hex(8).encode()
    client = place.settings.mqtt_client
    async with mqtt.connect(agent, client=client) as reader:
        try:
            await reader.subscribe(topic_filter, qos=0)
        except mqtt.Refused:
            return [ok("strangers", "a shared subscription to all agents is refused")]
        async with mqtt.connect(ours, client=client) as writer:
            await writer.publish(_PROBE, secret, qos=0)
            leaked = await _receives(reader, secret)
    if leaked:
        text = "an agent's account reads messages of all tenants by a shared subscription"
        advice = "give agents the right to i/{tenant}/a/{agent}/# only (docs/broker-accounts.md)"
        return [problem("strangers", text, advice)]
    return [ok("strangers", "an agent gets nothing of others")]


async def _receives(reader: mqtt.Session, secret: bytes) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LISTEN_S):
            while True:
                messages = await reader.receive()
                reader.acknowledge(messages)
                if any(message.payload == secret for message in messages):
                    return True
    return False


async def check_dropped(place: Place) -> list[Finding]:
    """It has thrown no message away."""
    options = replace(_options(place), clean_start=True, session_expiry_s=0)
    async with mqtt.connect(options, client=place.settings.mqtt_client) as session:
        try:
            await session.subscribe(_DROPPED, qos=0)
        except mqtt.Refused:
            why = "our account may not read $SYS"
            return [not_checked("dropped messages", why, "grant it `topic read $SYS/#`")]
        dropped = await _number(session)
    if dropped is None:
        return [not_checked("dropped messages", f"the broker does not publish {_DROPPED}")]
    if dropped:
        text = f"it has dropped {dropped:,} messages since its start"
        advice = "set max_queued_messages 0; slow subscribers without a right to $SYS count, too"
        return [warning("dropped messages", text, advice)]
    return [ok("dropped messages", "none since its start")]


async def _number(session: mqtt.Session) -> int | None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_FIGURES_S):
            payload = (await session.receive())[0].payload
            return int(payload) if payload.isdigit() else None
    return None


async def check_queues(place: Place) -> list[Finding]:
    """Sessions are kept on disk and without a limit; only a configuration tells."""
    if place.directory is None or "broker" not in place.embedded:
        why = "the broker does not tell its queues' limits, nor whether it keeps them on disk"
        return [not_checked("queues", why, "see that they hold what comes while a bridge is away")]
    path = place.directory / "broker" / "mosquitto.conf"
    if not path.is_file():
        return [ok("queues", "on disk; where one is full, the built-in broker holds senders back")]
    lines = (line.split(maxsplit=1) for line in path.read_text().splitlines())
    settings = {line[0]: line[1] for line in lines if len(line) == 2}
    found = []
    for name in ("max_queued_messages", "max_queued_bytes"):
        if (value := settings.get(name, "1000")) != "0":
            text = f"{name} is {value}: what comes beyond it is dropped without a word"
            found.append(problem("queues", text, f"set {name} 0"))
    if settings.get("persistence") != "true":
        text = "persistence is off: a restart loses sessions and what waits for them"
        found.append(problem("queues", text, "set persistence true"))
    return found or [ok("queues", "without a limit, on disk")]


def _options(place: Place) -> mqtt.Options:
    settings = place.settings
    password = settings.mqtt_password.get_secret_value() if settings.mqtt_password else None
    return mqtt.parse_url(
        settings.require("mqtt_url"),
        client_id=f"iotistica-doctor-{secrets.token_hex(4)}",
        username=settings.mqtt_username,
        password=password,
    )


async def _target(options: mqtt.Options) -> trial.Target:
    tls = None
    if options.tls:
        import ssl

        tls = ssl.create_default_context()
    return trial.Target(
        address=options.host,
        port=options.port,
        host=options.host,
        tls=tls,
        client_id=options.client_id,
        username=options.username,
        password=options.password,
    )
