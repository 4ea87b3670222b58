"""The private PostgreSQL: its data survive what happens to it."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from iotistica.embedded import carrier
from iotistica.embedded.carrier import find_postgres
from iotistica.embedded.ports import free_port
from iotistica.embedded.postgres import Postgres
from iotistica.errors import ConfigError, StartFailed

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give up its uid")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Postgres]:
    """A server below directories that are closed to others, as pytest's are."""
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    made = Postgres(
        tmp_path / "postgres",
        port=free_port(),
        password="p@ss/word",
        installation=find_postgres(),
        fsync=False,
    )
    await made.start()
    yield made
    await made.stop()


async def insert(server: Postgres) -> int:
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
    await connection.execute("INSERT INTO kept VALUES (1)")
    rows = await connection.fetchval("SELECT count(*) FROM kept")
    await connection.close()
    assert isinstance(rows, int)
    return rows


async def test_rows_survive_a_stop_and_kill_9(server: Postgres) -> None:
    assert await insert(server) == 1
    await server.stop()
    await server.start()
    assert await insert(server) == 2
    server.child.kill()
    await server.child.wait()
    await server.start()
    assert await insert(server) == 3


async def test_a_password_is_needed_and_nothing_but_loopback_listens(server: Postgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.url.replace("p%40ss%2Fword", "guess"))
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SHOW listen_addresses") == "127.0.0.1"
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    await connection.close()


async def test_settings_of_the_user_win(server: Postgres) -> None:
    await server.stop()
    (server.data / "custom.conf").write_text("max_connections = 33\n")
    (server.data / "custom.conf").chmod(0o644)
    await server.start()
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SHOW max_connections") == "33"
    await connection.close()


async def test_a_half_built_cluster_is_built_again(tmp_path: Path) -> None:
    half = tmp_path / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    server = Postgres(
        tmp_path / "postgres",
        port=free_port(),
        password="p",
        installation=find_postgres(),
        fsync=False,
    )
    await server.start()
    assert await insert(server) == 1
    await server.stop()


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("14\n", "was written by PostgreSQL 14, but the one found is"),
        ("\x7fELF", "PG_VERSION is damaged: a version was expected"),
        (None, "is not a PostgreSQL data directory"),
    ],
)
async def test_a_cluster_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, written: str | None, sentence: str
) -> None:
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    if written is not None:
        (data / "PG_VERSION").write_text(written)
    server = Postgres(
        data.parent, port=free_port(), password="p", installation=find_postgres(), fsync=False
    )
    with pytest.raises(ConfigError, match=sentence):
        await server.start()


async def test_a_port_that_was_taken_meanwhile_is_named(server: Postgres, tmp_path: Path) -> None:
    second = Postgres(
        tmp_path / "second",
        port=server.port,
        password="p",
        installation=server.installation,
        fsync=False,
    )
    with pytest.raises(StartFailed, match="postgres ended with exit status 1"):
        await second.start()
    assert "Address already in use" in second.child.command.log.read_text()


@needs_root
async def test_binaries_that_nobody_can_reach_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_postgres()
    monkeypatch.setattr(carrier, "CACHE", Path("/tmp") / f"iotistica-cache-{os.getpid()}")
    try:
        package = found.binaries.parent.parent
        shutil.copytree(package / "pginstall", tmp_path / package.name / "pginstall")
        libraries = package.with_name(f"{package.name}.libs")
        shutil.copytree(libraries, tmp_path / libraries.name)
        closed = tmp_path / package.name / "pginstall" / "bin"
        copied = find_postgres(closed)
        assert copied == replace(
            found,
            binaries=carrier.CACHE / f"postgres-{found.version}" / package.name / "pginstall/bin",
        )
        server = Postgres(
            tmp_path / "postgres",
            port=free_port(),
            password="p",
            installation=copied,
            fsync=False,
        )
        await server.start()
        assert await insert(server) == 1
        await server.stop()
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(carrier.CACHE, ignore_errors=True)


def test_a_missing_installation_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no PostgreSQL >= 15 was found in {tmp_path}"):
        find_postgres(tmp_path)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="iotistica-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.skipif(not Path("/usr/lib/postgresql").exists(), reason="no PostgreSQL of the system")
async def test_the_postgresql_of_the_system_does_as_well(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "CARRIERS", ())
    found = find_postgres()
    assert found.binaries.is_relative_to("/usr/lib/postgresql")
    server = Postgres(
        open_directory / "postgres",
        port=free_port(),
        password="p",
        installation=found,
        fsync=False,
    )
    await server.start()
    assert await insert(server) == 1
    await server.stop()
