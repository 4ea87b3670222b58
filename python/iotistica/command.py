"""What every command of `iotistica` shares: options, errors as one sentence, the platform."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import orjson
import typer

from iotistica.errors import ConfigError, IotisticaError
from iotistica.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output, errors too.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Directory of servers, data and secrets.", envvar="IOTISTICA_DATA_DIR"),
]


@contextmanager
def failures(as_json: bool) -> Iterator[None]:
    """Turn our errors into one sentence on standard error and an exit status."""
    try:
        yield
    except BrokenPipeError:
        # Whoever read our output has seen enough; typer ends quietly.
        raise
    except (IotisticaError, OSError) as error:
        line = orjson.dumps({"error": str(error)}).decode() if as_json else f"iotistica: {error}"
        sys.stderr.write(line + "\n")
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None


def with_options(kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command every field of `kind`, a dataclass, as an option of its own.

    The command gets them all as one argument, `options`.
    """
    hints = get_type_hints(kind, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(one.name, keyword, default=one.default, annotation=hints[one.name])
        for one in fields(kind)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            options = kind(**{one.name: given.pop(one.name) for one in added})
            command(options, **given)

        own = inspect.signature(command, eval_str=True)
        kept = [one for name, one in own.parameters.items() if name != "options"]
        wrapped.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*kept, *added]
        )
        wrapped.__annotations__ = {one.name: one.annotation for one in [*kept, *added]}
        return wrapped

    return decorate


def attached(data_dir: Path | None) -> Settings:
    """Settings for the platform of a data directory, else of the environment, else of the default
    directory. Raises `ConfigError`.
    """
    from iotistica.embedded.directory import default_directory
    from iotistica.simulator.target import from_directory

    settings = Settings.load()
    if data_dir is None and any((settings.database_url, settings.redis_url, settings.spool_dir)):
        return settings
    directory = data_dir or default_directory()
    target = from_directory(directory)
    return settings.model_copy(
        update={
            "database_url": target.database_url,
            "redis_url": target.redis_url,
            "mqtt_url": target.mqtt_url,
            "spool_dir": settings.spool_dir or directory / "spool",
        }
    )
