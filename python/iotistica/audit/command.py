"""What `iotistica audit` does."""

from __future__ import annotations

import asyncio
import getpass
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import orjson
import typer
import uvloop
from rich.console import Console
from rich.live import Live
from rich.text import Text

from iotistica.audit.auditor import Auditor
from iotistica.audit.document import document
from iotistica.audit.report import Report
from iotistica.audit.text import text
from iotistica.command import attached
from iotistica.errors import ConfigError
from iotistica.settings import Settings
from iotistica.spool import inventory
from iotistica.store.agents import AgentStore
from iotistica.store.ledger import LedgerStore
from iotistica.store.pool import Pool, open_pool
from iotistica.store.tenants import tenant_ids
from iotistica.streams import Streams

_WATCH_S = 2.0
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    data_dir: Path | None
    tenant: str | None
    agent: str | None
    problems: bool
    count: bool
    watch: bool
    most: int | None
    acknowledge: str | None
    """Why losses are acknowledged; None where none are."""
    json: bool


@dataclass(frozen=True, slots=True)
class _Platform:
    """A running platform, opened."""

    pool: Pool
    store: LedgerStore
    auditor: Auditor


def run(options: Options) -> bool:
    """Audit, print, and say whether all is clean. Raises `ConfigError`, `StoreUnavailable`."""
    return uvloop.run(_run(options))


async def _run(options: Options) -> bool:
    agent, settings = _uuid(options.agent), attached(options.data_dir)
    async with _opened(settings) as platform:
        tenants = await _tenants(platform.pool, options.tenant, agent)
        await _acknowledge(platform.store, options)
        with _interrupted(options) as interrupted, _shown(options) as show:
            while True:
                reports = [
                    await platform.auditor.report(
                        tenant,
                        agent=agent,
                        count=options.count,
                        on_disk=_on_disk(settings, tenant),
                        most=_most(options),
                        problems=options.problems,
                    )
                    for tenant in tenants
                ]
                show(reports)
                if not options.watch or await _within(interrupted, _WATCH_S):
                    return all(report.is_clean for report in reports)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[_Platform]:
    streams = Streams.of(settings)
    pool = await open_pool(settings, application_name="iotistica-audit")
    try:
        store = LedgerStore(pool)
        yield _Platform(pool, store, Auditor(streams.ledger, store))
    finally:
        pool.terminate()
        await streams.close()


async def _acknowledge(store: LedgerStore, options: Options) -> None:
    """Acknowledge what is recorded now. Raises `ConfigError`."""
    why = options.acknowledge
    if why is None:
        return
    if options.tenant is None:
        raise ConfigError("--acknowledge needs --tenant: whose losses are known")
    if not why.strip():
        raise ConfigError("--acknowledge is empty; say why the losses are no news")
    losses = await store.losses(options.tenant)
    if losses:
        by = f"{getpass.getuser()} (command)"
        await store.acknowledge(options.tenant, upto=losses[0].id, by=by, why=why)


def _on_disk(settings: Settings, tenant: str) -> dict[str, int]:
    """Messages of a tenant in the disk spools of this machine, by service."""
    found: Counter[str] = Counter()
    for holding in inventory.holdings(settings.spool_root("any").parent):
        found[holding.service] += holding.messages.get(tenant, 0)
    return {service: messages for service, messages in found.items() if messages}


def _uuid(text: str | None) -> str | None:
    try:
        return None if text is None else str(UUID(text))
    except ValueError:
        raise ConfigError(f"--agent is {text!r}; it must be a UUID") from None


async def _tenants(pool: Pool, tenant: str | None, agent: str | None) -> list[str]:
    """The tenant that was named, or that of the agent, or all. Raises `ConfigError`."""
    agents = AgentStore(pool)
    if tenant is None:
        if agent is None:
            return sorted(await tenant_ids(pool))
        if (owner := await agents.tenant_of(agent)) is None:
            raise ConfigError(f"--agent is {agent}; there is no such agent")
        return [owner]
    if tenant not in await tenant_ids(pool):
        raise ConfigError(f"--tenant is {tenant!r}; there is no such tenant")
    if agent is not None and not await agents.agents_of(tenant, [agent]):
        raise ConfigError(f"--agent is {agent}; tenant {tenant} has no such agent")
    return [tenant]


@contextmanager
def _shown(options: Options) -> Iterator[Callable[[Sequence[Report]], None]]:
    """Prints reports; those of a watch replace each other on a terminal."""
    written = _json if options.json else _text
    console = Console()
    if options.watch and console.is_terminal and not options.json:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda reports: live.update(Text(written(reports)), refresh=True)
    else:
        yield lambda reports: typer.echo(written(reports), nl=False)


def _most(options: Options) -> int | None:
    return _SHOWN if options.most is None and not options.json else options.most


def _json(reports: Sequence[Report]) -> str:
    clean = all(report.is_clean for report in reports)
    found = {"clean": clean, "tenants": [document(report) for report in reports]}
    return orjson.dumps(found, option=orjson.OPT_UTC_Z).decode() + "\n"


def _text(reports: Sequence[Report]) -> str:
    return "\n".join(text(report) for report in reports)


@contextmanager
def _interrupted(options: Options) -> Iterator[asyncio.Event]:
    """Set by Ctrl-C or SIGTERM, so that a watch ends with its verdict."""
    event, loop = asyncio.Event(), asyncio.get_running_loop()
    if options.watch:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, event.set)
    yield event


async def _within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
