"""S4: MQTT QoS 1 message -> accepted by Redis -> PUBACK, one bridge, against the bare client.

Every run has a session with `--messages` messages waiting at the broker; the time runs from the
first message received to the last PUBACK. The bare client receives and acknowledges, as its own
documentation shows, and does nothing else.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import redis.asyncio
import uvloop

from harness import arguments, report
from iotistica import keys, metrics, mqtt
from iotistica.api.bridge import Bridge
from iotistica.api.link import session_options
from iotistica.api.shares import share
from iotistica.api.tenants import Tenants
from iotistica.credentials import User
from iotistica.embedded.broker import Broker, find_broker
from iotistica.embedded.ports import free_port
from iotistica.embedded.redis import Redis, find_redis
from iotistica.settings import Settings
from iotistica.spool import Spool
from iotistica.streams import Streams

TENANT, ENCODED = "0123456789ab", "ASNFZ4mr"
STABLE = Path(__file__).parent.parent / ".venv" / "aiomqtt2"


@dataclass
class Bench:
    """The servers, and what a run needs to know of them."""

    settings: Settings
    topics: list[str]
    messages: int
    payload: bytes
    redis: redis.asyncio.Redis
    cpu: dict[str, list[float]] = field(default_factory=lambda: {"bridge": [], "bare": []})
    """Microseconds of processor time a message; tells more than rates on a busy machine."""

    async def fill(self, name: str, messages: int) -> mqtt.Options:
        """Leave `messages` waiting for a new session of process `name`; how to resume it."""
        options = session_options(self.settings, name)
        async with mqtt.connect(options) as session:
            await session.subscribe(share(self.settings, keys.TELEMETRY_FILTER))
        publisher = replace(options, client_id=f"{options.client_id}-p", clean_start=True)
        async with mqtt.connect(publisher) as session:
            count = len(self.topics)
            await session.publish_many(
                (self.topics[n % count], self.payload) for n in range(messages)
            )
        return options

    async def forget(self, options: mqtt.Options) -> None:
        """Remove the session."""
        async with mqtt.connect(replace(options, clean_start=True, session_expiry_s=0)):
            pass

    async def bridge(self) -> float:
        """Messages per second through one bridge, which has seen all topics before."""
        name = f"bridge-{secrets.token_hex(4)}"
        streams = Streams(self.settings.require("redis_url"))
        spool = Spool(self.settings.spool_root("api"), max_bytes=self.settings.api_spool_max_bytes)
        bridge = Bridge(
            self.settings,
            name=name,
            streams=streams,
            spool=spool,
            tenants=Tenants(tenants, refresh_s=1),
        )
        await self.drain(bridge, name, len(self.topics))
        elapsed, cpu_s = await self.drain(bridge, name, self.messages)
        self.cpu["bridge"].append(cpu_s / self.messages * 1e6)
        await streams.close()
        spool.close()
        return self.messages / elapsed

    async def drain(self, bridge: Bridge, name: str, messages: int) -> tuple[float, float]:
        """Seconds, and those of processor time, until the bridge has acknowledged them."""
        options, stop = await self.fill(name, messages), asyncio.Event()
        before = acknowledged()
        start, cpu = time.perf_counter(), time.process_time()
        running = asyncio.create_task(bridge.run(stop))
        while acknowledged() - before < messages:
            await asyncio.sleep(0.005)
        spent = time.perf_counter() - start, time.process_time() - cpu
        stop.set()
        await running
        await self.check(messages)
        await self.forget(options)
        return spent

    async def check(self, messages: int) -> None:
        """Every message must be in the stream, exactly once."""
        stream = keys.ingestion_stream(TENANT)
        entries = await self.redis.execute_command("XRANGE", stream, "-", "+")
        stored = sum(len(fields) for _, fields in entries) // 2
        if stored != messages:
            raise SystemExit(f"{stored} messages are in the stream, not {messages}")
        await self.redis.delete(stream)

    async def bare(self) -> float:
        """Messages per second through the client alone."""
        options = await self.fill(f"bare-{secrets.token_hex(4)}", self.messages)
        bare = bare3 if mqtt.client_version() == "aiomqtt3" else bare2
        cpu = time.process_time()
        elapsed = await bare(options, self.messages)
        self.cpu["bare"].append((time.process_time() - cpu) / self.messages * 1e6)
        await self.forget(options)
        return self.messages / elapsed


async def tenants() -> list[str]:
    """The database's part."""
    return [TENANT]


def acknowledged() -> float:
    """Messages that bridges of this process have acknowledged."""
    # The public way reads every metric of the process, which shows in the figures.
    return metrics.BRIDGE_ACKED._value.get()


async def bare3(options: mqtt.Options, messages: int) -> float:
    """As in the documentation of aiomqtt 3."""
    import aiomqtt

    start = time.perf_counter()
    async with aiomqtt.Client(
        hostname=options.host,
        port=options.port,
        identifier=options.client_id,
        username=options.username,
        password=(options.password or "").encode(),
        session_expiry_interval=600,
        receive_max=options.receive_maximum,
    ) as client:
        count = 0
        async for message in client.messages():
            await client.puback(message.packet_id)
            count += 1
            if count == messages:
                return time.perf_counter() - start
    raise SystemExit("the session ended early")


async def bare2(options: mqtt.Options, messages: int) -> float:
    """As in the documentation of aiomqtt 2, with the acknowledgement by hand."""
    import aiomqtt
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 600
    properties.ReceiveMaximum = options.receive_maximum
    library: Any = aiomqtt
    client = library.Client(
        options.host,
        options.port,
        identifier=options.client_id,
        username=options.username,
        password=options.password,
        protocol=library.ProtocolVersion.V5,
        clean_start=False,
        properties=properties,
    )
    client._client.manual_ack_set(True)
    start = time.perf_counter()
    async with client:
        count = 0
        async for message in client.messages:
            client._client.ack(message.mid, message.qos)
            count += 1
            if count == messages:
                return time.perf_counter() - start
    raise SystemExit("the session ended early")


@asynccontextmanager
async def servers(options: Any) -> AsyncIterator[Bench]:
    """Private Redis and broker in a directory that goes away."""
    with tempfile.TemporaryDirectory(prefix="iotistica-bench-") as directory:
        redis_server = Redis(
            Path(directory, "redis"), port=free_port(), password="bench", binary=find_redis()
        )
        broker = Broker(
            Path(directory, "broker"), port=free_port(), program=find_broker(options.broker)
        )
        await redis_server.start()
        await broker.start()
        try:
            user = User(secrets.token_urlsafe(), ("readwrite i/#", "read $SYS/#"))
            await broker.add_users({"iotistica-api": user})
            client = redis.asyncio.from_url(redis_server.url)
            client.response_callbacks.pop("XRANGE", None)
            yield Bench(
                Settings.load(
                    redis_url=redis_server.url,
                    mqtt_url=broker.url_for("iotistica-api", user.password),
                    jwt_secret="k" * 64,
                ),
                topics(options.agents),
                options.messages,
                os.urandom(options.bytes),
                client,
            )
            await client.aclose()
        finally:
            await broker.stop()
            await redis_server.stop()


def topics(agents: int) -> list[str]:
    """One topic for each agent."""
    import base64

    names = (base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22] for _ in range(agents))
    return [f"i/{ENCODED}/a/{name}/endpoints/modbus" for name in names]


async def run(options: Any) -> None:
    """Interleaved runs of both sides."""
    runs, baselines = [], []
    async with servers(options) as bench:
        for _ in range(options.runs):
            baselines.append(await bench.bare())
            runs.append(await bench.bridge())
    report(
        bench="receive",
        runs=runs,
        baselines=baselines,
        unit="messages/s",
        as_json=options.json,
        client=mqtt.client_version(),
        broker=options.broker,
        agents=options.agents,
        payload_bytes=options.bytes,
        cpu_us=round(statistics.median(bench.cpu["bridge"]), 1),
        baseline_cpu_us=round(statistics.median(bench.cpu["bare"]), 1),
    )


def main() -> None:
    """Parse the arguments; `--client aiomqtt2` starts again with the stable client in front."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--messages", type=int, default=300_000, help="(builtin keeps 100,000)")
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--bytes", type=int, default=1024, help="payload (default 1024)")
    parser.add_argument("--client", choices=("auto", "aiomqtt2"), default="auto")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "builtin"), default="auto")
    options = parser.parse_args()
    if options.client == "aiomqtt2" and str(STABLE) not in sys.path:
        path = os.pathsep.join(filter(None, [str(STABLE), os.environ.get("PYTHONPATH")]))
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONPATH": path})
    uvloop.run(run(options))


if __name__ == "__main__":
    main()
