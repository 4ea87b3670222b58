"""What is examined."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iotistica.command import attached
from iotistica.embedded.directory import DataDirectory, default_directory
from iotistica.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A platform: where its servers are, and its directory where it is a stack's."""

    settings: Settings
    directory: Path | None = None
    state: dict[str, Any]
    """What the stack wrote of itself; empty for another platform."""
    agent_url: str | None = None
    """An agent's account at the broker."""

    @property
    def embedded(self) -> frozenset[str]:
        """Servers of the stack's own: `postgres`, `redis`, `broker`."""
        return frozenset(self.state.get("ports") or ())


def find(data_dir: Path | None, agent_url: str | None = None) -> Place:
    """A data directory's stack, else the servers of the environment, else the default stack.

    Raises `ConfigError`.
    """
    settings = attached(data_dir)
    own = Settings.load()
    is_stack = data_dir is not None or settings.database_url != own.database_url
    if not is_stack:
        return Place(settings=settings, state={}, agent_url=agent_url)
    directory = data_dir or default_directory()
    if settings.jwt_secret is None and settings.jwt_secret_file is None:
        secret = directory / "secrets" / "jwt"
        settings = settings.model_copy(update={"jwt_secret_file": secret})
    return Place(
        settings=settings,
        directory=directory,
        state=DataDirectory(directory).state(),
        agent_url=agent_url,
    )
