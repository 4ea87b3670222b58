"""Which letters of which tenant the command line means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from iotistica import keys
from iotistica.command import attached
from iotistica.embedded.directory import default_directory
from iotistica.errors import ConfigError
from iotistica.instants import moment
from iotistica.settings import Settings
from iotistica.simulator.target import from_directory
from iotistica.streams import Filter
from iotistica.streams.letter import is_id


@dataclass(frozen=True, slots=True)
class Place:
    """A tenant's letters on a running platform."""

    settings: Settings
    tenant: str


def place(data_dir: Path | None, tenant: str | None, *, stray: bool) -> Place:
    """Where the letters are. Raises `ConfigError`."""
    if stray and tenant is not None:
        raise ConfigError("--stray and --tenant exclude each other; strays belong to no tenant")
    settings = attached(data_dir)
    if stray:
        return Place(settings, keys.STRAY)
    if tenant is None and (data_dir or settings.redis_url != Settings.load().redis_url):
        tenant = from_directory(data_dir or default_directory()).tenant
    if tenant is None:
        raise ConfigError("--tenant is not given, and without --data-dir nothing names the tenant")
    return Place(settings, tenant)


def chosen(
    ids: Sequence[str] | None,
    reason: str | None,
    stage: str | None,
    agent: str | None,
    since: str | None,
    until: str | None,
) -> Filter:
    """The options as a filter. Raises `ConfigError`."""
    now = datetime.now(UTC)
    for letter_id in ids or ():
        check_id(letter_id)
    return Filter(
        ids=frozenset(ids or ()),
        reason=reason,
        stage=stage,
        agent=agent,
        since=None if since is None else moment("--since", since, now),
        until=None if until is None else moment("--until", until, now),
    )


def not_by_accident(where: Filter, everything: bool) -> None:
    """Refuse to change every letter where nobody asked for that. Raises `ConfigError`."""
    if where.is_empty and not everything:
        raise ConfigError(
            "no letters are named; give their ids, a filter such as --reason, or --all"
        )
    if everything and where.ids:
        raise ConfigError("--all and ids exclude each other")


def check_id(letter_id: str) -> None:
    """Raise `ConfigError` for what cannot be the id of a letter."""
    if not is_id(letter_id):
        raise ConfigError(f"{letter_id!r} is not the id of a letter, such as 1795453097011-0")
