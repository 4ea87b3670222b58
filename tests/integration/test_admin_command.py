"""`iotistica admin create`: the first user of a platform, by who runs its database."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import asyncpg
import pytest

from iotistica.api.passwords import Passwords
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.store.users import UserStore

PASSWORD = "correct horse"


async def admin(
    database: str, *arguments: str, stdin: str | None = f"{PASSWORD}\n"
) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "iotistica",
        "admin",
        "create",
        "--json",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "DATABASE_URL": database},
    )
    out, err = await process.communicate((stdin or "").encode())
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_first_owner_gets_a_tenant(database: str, pool: Pool) -> None:
    code, out, err = await admin(database, "--password-file", "-")
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert made == {"id": 1, "username": "admin", "role": "owner", "tenant": made["tenant"]}
    assert len(made["tenant"]) == 12
    known = await UserStore(pool).credentials("admin@localhost", None)
    assert known is not None
    assert known.tenant == made["tenant"]
    passwords = Passwords(Settings.load())
    assert (await passwords.verify(known.password_hash, PASSWORD)).is_right
    passwords.close()
    entry = await pool.fetchrow("SELECT event_type, actor_type, actor_name FROM audit_logs")
    assert entry is not None
    assert tuple(entry) == ("user.created", "system", "command line")


async def test_another_joins_the_only_tenant_and_names_are_taken_once(
    database: str, tmp_path: Path, connection: asyncpg.Connection
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\r\nsecond line\n")
    given = ("--password-file", str(file))
    code, out, _ = await admin(database, *given, "--tenant", "acme.iot")
    assert (code, json.loads(out)["tenant"]) == (0, "acme.iot")
    more = ("--username", "grace", "--email", "grace@example.org", "--role", "admin")
    code, out, _ = await admin(database, *given, *more)
    made = json.loads(out)
    assert (code, made["role"], made["tenant"]) == (0, "admin", "acme.iot")
    code, _, err = await admin(database, *given)
    assert (code, json.loads(err)) == (1, {"error": "username 'admin' is taken"})
    await connection.execute("INSERT INTO tenants (id, name) VALUES ('other.iot', 'x')")
    code, _, err = await admin(database, *given, "--username", "third")
    assert (code, json.loads(err)) == (2, {"error": "there are 2 tenants; say which one is meant"})


@pytest.mark.parametrize(
    ("arguments", "stdin", "error"),
    [
        ((), None, "there is no terminal to ask for the password; use --password-file"),
        (("--password-file", "-"), "short\n", "the password has 5 characters; 8 to 256"),
        (("--password-file", "-", "--role", "king"), None, "--role is 'king'"),
        (("--password-file", "-", "--username", "a@b"), PASSWORD, "username is 'a@b'"),
        (("--password-file", "-", "--email", "ada"), PASSWORD, "email is 'ada'"),
        (("--password-file", "-", "--tenant", "a/b"), PASSWORD, "tenant 'a/b' cannot be in a"),
    ],
)
async def test_what_is_wrong_is_one_sentence(
    database: str, arguments: tuple[str, ...], stdin: str | None, error: str
) -> None:
    code, out, err = await admin(database, *arguments, stdin=stdin)
    assert (code, out) == (2, "")
    assert json.loads(err)["error"].startswith(error)
