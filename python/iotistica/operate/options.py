"""What all commands of operators share: where the API is, who asks, how it is answered."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from iotistica.command import DataDir, Json, failures
from iotistica.errors import BadRequest, ConfigError

if TYPE_CHECKING:
    from iotistica.client import Client

T = TypeVar("T")

EXIT_CODES = "\n\nExit codes: 0 done, 1 failed, 2 wrong setting or argument."
CREDENTIALS = (
    "\n\nThe credential is a token or a service key: IOTISTICA_API_TOKEN, IOTISTICA_API_KEY or "
    "--token-file. With --data-dir, or with nothing at all after `iotistica up`, the local "
    "platform is meant."
)

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many; left out: all.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Whom to ask, as whom, and how to answer."""

    api: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="IOTISTICA_API_URL",
            help="The Cloud API; left out: http://127.0.0.1:3002.",
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its first line is a token or a service key."),
    ] = None
    data_dir: DataDir = None
    json: Json = False

    def run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """What `work` makes of the API; an error ends the command."""
        with failures(self.json):
            from iotistica.client import Client
            from iotistica.operate.access import find

            access = find(self.api, self.token_file, self.data_dir)

            async def ask() -> T:
                async with Client(access.url, token=access.token, api_key=access.api_key) as client:
                    return await work(client)

            try:
                return asyncio.run(ask())
            except BadRequest as error:
                raise ConfigError(str(error)) from None


def confirm(question: str, options: Options, *, yes: bool) -> None:
    """Ask before what cannot be undone. Ends the command where the answer is no."""
    if yes:
        return
    with failures(options.json):
        if options.json or not sys.stdin.isatty():
            raise ConfigError("--yes is not given, and there is nobody to ask")
    typer.confirm(question, abort=True)
