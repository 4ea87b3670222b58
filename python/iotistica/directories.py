"""Directories of ours."""

from __future__ import annotations

from pathlib import Path

from iotistica.errors import ConfigError


def make_directory(path: Path) -> None:
    """Create a directory of ours where it is missing. Raises `ConfigError`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{path} cannot be a directory: a file is in its place") from None
    except OSError as error:
        raise ConfigError(f"directory {path} cannot be made: {error.strerror}") from None
