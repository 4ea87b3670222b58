"""`iotistica admin`: users who may do everything, made by who runs the servers."""

from __future__ import annotations

import asyncio
import getpass
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from iotistica.command import DataDir, Json, attached, failures
from iotistica.errors import BadRequest, ConfigError
from iotistica.settings import Settings

EXIT_CODES = "\n\nExit codes: 0 done, 1 failed, 2 wrong setting or argument."
_MIN_PASSWORD, _MAX_PASSWORD = 8, 256

app = typer.Typer(help="Users who may do everything.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `create` a command of its own, although it is the only one."""


@app.command(
    help="Make an owner or admin of a tenant. The password is asked for on a terminal; else it "
    "comes from --password-file, never from an argument, which everybody on the machine could "
    "read. The tenant is made where it is missing; the only one needs not be named." + EXIT_CODES
)
def create(
    username: Annotated[str, typer.Option(help="At least three characters, without @.")] = "admin",
    email: Annotated[str | None, typer.Option(help="Left out: USERNAME@localhost.")] = None,
    role: Annotated[str, typer.Option(help="owner or admin.")] = "owner",
    tenant: Annotated[str | None, typer.Option(help="Id of the tenant.")] = None,
    password_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="First line; - is standard input.")
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make a user."""
    with failures(json):
        if role not in ("owner", "admin"):
            raise ConfigError(f"--role is {role!r}; it must be owner or admin")
        settings = attached(data_dir)
        made = asyncio.run(
            _create(settings, username, email, role, tenant, _password(password_file))
        )
    if json:
        typer.echo(orjson.dumps(made))
    else:
        typer.echo(f"{made['username']} is {role} of tenant {made['tenant']}")


def _password(file: str | None) -> str:
    """The password. Raises `ConfigError`."""
    if file is None and not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the password; use --password-file")
    if file is None:
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise ConfigError("the two passwords differ")
    else:
        text = sys.stdin.readline() if file == "-" else Path(file).read_text(encoding="utf-8")
        password = text.partition("\n")[0].removesuffix("\r")
    if not _MIN_PASSWORD <= len(password) <= _MAX_PASSWORD:
        raise ConfigError(
            f"the password has {len(password)} characters; {_MIN_PASSWORD} to {_MAX_PASSWORD} are "
            "allowed"
        )
    return password


async def _create(
    settings: Settings,
    username: str,
    email: str | None,
    role: str,
    tenant: str | None,
    password: str,
) -> dict[str, str | int]:
    from iotistica.api.first_user import make_user
    from iotistica.store.pool import open_pool
    from iotistica.store.tenants import tenant_of_first_user

    pool = await open_pool(settings, application_name="iotistica admin")
    try:
        home = await tenant_of_first_user(pool, tenant)
        user = await make_user(
            settings,
            pool,
            tenant=home,
            username=username,
            email=email,
            role=role,
            password=password,
        )
    except BadRequest as error:
        raise ConfigError(str(error)) from None
    finally:
        await pool.close()
    return {"id": user.id, "username": user.username, "role": user.role, "tenant": home}
