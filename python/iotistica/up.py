"""`iotistica up`: the whole platform on one machine, as children of one process."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import aiohttp
import orjson
from rich.console import Console
from rich.markup import escape

from iotistica import log
from iotistica.api import auth
from iotistica.api.first_user import ADMIN, keep_admin
from iotistica.embedded.directory import DataDirectory
from iotistica.embedded.keeper import Keeper
from iotistica.embedded.ports import free_ports, is_free, local_url
from iotistica.embedded.process import Child, Command
from iotistica.embedded.stack import Stack, stop_left_behind
from iotistica.errors import ConfigError
from iotistica.figures import show
from iotistica.settings import Settings
from iotistica.simulator.plan import Plan
from iotistica.store.agents import AgentStore
from iotistica.store.migrate import migrate
from iotistica.store.pool import open_pool

_TOKEN_S = 365 * 86_400
_GRACE_S = 15.0
_MORE = 20
_FLEET_SEED = "up"  # of its own: `iotistica simulate` may run beside it


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    data_dir: Path
    simulate: int
    rate: float | None
    api_port: int
    ingestion_port: int
    json: bool


@dataclass(frozen=True, slots=True)
class Admin:
    """How to log in to a platform that is new."""

    username: str
    password: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The line that `--json` prints when all is ready (design.md, "Interfaces that stay")."""

    ready: bool
    api: str
    ingestion: str
    mqtt: str
    database: str
    redis: str
    tenant: str
    token: str
    admin: Admin | None = None
    """The first user; None where somebody has changed that password, as they should."""


class Program:
    """One of our own commands, run as a child until it is told to stop."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        environment: dict[str, str],
        ready_url: str | None = None,
    ) -> None:
        name = arguments[0]
        self._ready_url = ready_url
        self.child = Child(
            Command(
                name=name,
                argv=[sys.executable, "-m", "iotistica", *arguments],
                log=directory / "logs" / f"{name}.log",
                pid_file=directory / f"{name}.pid",
                cwd=directory,
                env=environment,
            )
        )

    async def start(self, timeout_s: float = 60.0) -> None:
        """Start, and wait until `ready_url` answers 200. Raises `StartFailed`."""
        await self.child.start(self._ready if self._ready_url else None, timeout_s)

    async def stop(self) -> None:
        """Let it finish what it has begun."""
        await self.child.stop(_GRACE_S)

    async def _ready(self) -> bool:
        return await _answers(str(self._ready_url))


async def _answers(url: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=2.0)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return response.status == 200
    except (OSError, TimeoutError, aiohttp.ClientError):
        return False


class Platform:
    """Stack, services and fleet of one data directory."""

    def __init__(
        self, directory: DataDirectory, options: Options, settings: Settings, console: Console
    ) -> None:
        """Look at everything that can be wrong before anything runs. Raises `ConfigError`."""
        if settings.door_tls_certificate_file is not None:
            raise ConfigError("`iotistica up` serves plain HTTP; TLS is for `iotistica api`")
        ports = _service_ports(options)
        self._directory = directory
        self._options = options
        self._settings = settings
        self._console = console
        self._stack = Stack(directory, settings)
        urls = self._stack.urls
        tenant = directory.tenant()
        secret_file = directory.secret_file("jwt")
        self.ready = Ready(
            ready=True,
            api=local_url(settings.api_host, ports["api"]),
            ingestion=local_url(settings.ingestion_host, ports["ingestion"]),
            mqtt=urls.mqtt,
            database=urls.database,
            redis=urls.redis,
            tenant=tenant,
            token=_token(settings, secret_file, tenant),
        )
        self._environment = {
            "DATABASE_URL": urls.database,
            "REDIS_URL": urls.redis,
            "MQTT_URL": urls.mqtt,
            "IOTISTICA_API_PORT": str(ports["api"]),
            "IOTISTICA_INGESTION_PORT": str(ports["ingestion"]),
            "IOTISTICA_SPOOL_DIR": str(settings.spool_dir or directory.path / "spool"),
            "IOTISTICA_JWT_SECRET_FILE": str(settings.jwt_secret_file or secret_file),
            **self._stack.accounts(),
            **_limits(settings),
            # Their working directory is the data directory, which must not shadow modules.
            "PYTHONSAFEPATH": "1",
        }
        self.keeper = Keeper(self._died, self._note)

    async def start(self) -> None:
        """Servers, schema and tenant, services, fleet. Raises `IotisticaError`."""
        await self.keeper.start(*self._stack.services)
        await self._prepare()
        self._note()
        await self.keeper.start(
            self._program("api", ready_url=f"{self.ready.api}/ready"),
            self._program("ingestion", ready_url=f"{self.ready.ingestion}/ready"),
        )
        if self._options.simulate:
            await self.keeper.start(self._fleet())

    async def _prepare(self) -> None:
        """Bring the schema up to date, make the development tenant and its first user."""
        await migrate(self.ready.database)
        settings = self._settings.model_copy(update={"database_url": self.ready.database})
        pool = await open_pool(settings, application_name="iotistica up")
        try:
            await AgentStore(pool).ensure_tenant(self.ready.tenant, "development")
            password, tenant = self._directory.secret("admin"), self.ready.tenant
            if await keep_admin(settings, pool, tenant=tenant, password=password):
                self.ready = replace(self.ready, admin=Admin(ADMIN, password))
        finally:
            await pool.close()

    def _program(self, *arguments: str, ready_url: str | None = None) -> Program:
        return Program(
            self._directory.path, *arguments, environment=self._environment, ready_url=ready_url
        )

    def _fleet(self) -> Program:
        options = self._options
        rate = [] if options.rate is None else ["--rate", str(options.rate)]
        where = ["--data-dir", str(self._directory.path), "--seed", _FLEET_SEED]
        size = ["--agents", str(options.simulate), "--reports"]
        return self._program("simulate", *size, *where, *rate)

    def _died(self, sentence: str) -> None:
        if self._options.json:
            log.get(__name__).warning(sentence)
        else:
            self._console.print(sentence, style="yellow", highlight=False, soft_wrap=True)

    def _note(self) -> None:
        """Tell `simulate` and the next start what runs where."""
        known = {"api": self.ready.api, "ingestion": self.ready.ingestion}
        self._directory.write_state({**self._stack.state(), **known, "tenant": self.ready.tenant})


def _limits(settings: Settings) -> dict[str, str]:
    """Rate limits of a machine that serves who sits at it, where they have not set their own."""
    names = ("global", "auth", "device_data", "admin")
    fields = [f"rate_limit_{name}" for name in names]
    return {
        f"IOTISTICA_{field.upper()}": str(getattr(settings, field) * _MORE)
        for field in fields
        if field not in settings.model_fields_set
    }


def _token(settings: Settings, secret_file: Path, tenant: str) -> str:
    """For the development tenant, signed as the API will verify. Raises `ConfigError`."""
    if settings.jwt_secret is None and settings.jwt_secret_file is None:
        settings = settings.model_copy(update={"jwt_secret_file": secret_file})
    return auth.issue_token(auth.secret(settings), tenant=tenant, expires_s=_TOKEN_S)


def _service_ports(options: Options) -> dict[str, int]:
    """Ports of the two services. Raises `ConfigError` for one that is taken."""
    wanted = {"api": options.api_port, "ingestion": options.ingestion_port}
    for name, port in wanted.items():
        if port and not is_free(port):
            raise ConfigError(
                f"port {port} is taken; choose another with --{name}-port, or 0 for any free one"
            )
    if options.api_port and options.api_port == options.ingestion_port:
        raise ConfigError(f"--api-port and --ingestion-port are both {options.api_port}")
    return free_ports(wanted)


async def up(options: Options, settings: Settings) -> None:
    """Run until SIGINT or SIGTERM. Raises `ConfigError`, `IotisticaError`."""
    log.configure(settings.log_level, service="up")
    console = Console()
    directory = DataDirectory(options.data_dir)
    directory.acquire()
    try:
        await stop_left_behind(directory)
        platform = Platform(directory, options, settings, console)
        async with _interrupts(platform.keeper) as interrupted:
            try:
                await _until(interrupted, _run(platform, options, console))
            finally:
                await platform.keeper.stop()
    finally:
        directory.release()


async def _run(platform: Platform, options: Options, console: Console) -> None:
    # Shown on a terminal only.
    with console.status("starting servers and services") if not options.json else nullcontext():
        await platform.start()
    if options.json:
        sys.stdout.write(orjson.dumps(asdict(platform.ready)).decode() + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()
    _print_places(console, platform, options)
    await show(console, platform.ready.api, platform.ready.ingestion, platform.keeper.restarts)


@asynccontextmanager
async def _interrupts(keeper: Keeper) -> AsyncIterator[asyncio.Event]:
    """Event of the first SIGINT, SIGTERM or SIGHUP; the second ends everything at once."""
    interrupted = asyncio.Event()

    def interrupt() -> None:
        if interrupted.is_set():
            keeper.kill()
        interrupted.set()

    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, interrupt)
    try:
        yield interrupted
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _until(interrupted: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Run `work` until it fails or the event comes."""
    running, waiting = asyncio.create_task(work), asyncio.create_task(interrupted.wait())
    await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
    for task in (running, waiting):
        task.cancel()
    outcomes = await asyncio.gather(running, waiting, return_exceptions=True)
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]


def _print_places(console: Console, platform: Platform, options: Options) -> None:
    ready = platform.ready
    places = {
        "Cloud API": ready.api,
        "Ingestion": ready.ingestion,
        "MQTT broker": ready.mqtt,
        "PostgreSQL": ready.database,
        "Redis": ready.redis,
        "data": str(options.data_dir),
        "tenant": ready.tenant,
        "token": ready.token,
    }
    if ready.admin is not None:
        places["login"] = f"{ready.admin.username} {ready.admin.password}"
    if options.simulate:
        fleet = Plan(agents=options.simulate, seed=_FLEET_SEED)
        places["an agent"] = fleet.agent(ready.tenant, 0)
    for name, place in places.items():
        # Never folded: these lines are there to be copied.
        console.print(f"[bold]{name:<12}[/bold] {escape(place)}", highlight=False, soft_wrap=True)
