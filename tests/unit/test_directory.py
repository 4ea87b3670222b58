"""The data directory: held by one, secrets kept closed, damage named in one sentence."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from iotistica.embedded.directory import DataDirectory, default_directory
from iotistica.errors import ConfigError


def test_the_default_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "iotistica"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_directory() == Path("/home/somebody/.local/share/iotistica")


def test_the_second_holder_is_refused_by_name(tmp_path: Path) -> None:
    first, second = DataDirectory(tmp_path / "data"), DataDirectory(tmp_path / "data")
    first.acquire()
    with pytest.raises(ConfigError) as refusal:
        second.acquire()
    assert str(refusal.value) == (
        f"data directory {tmp_path}/data is in use by another iotistica (pid {os.getpid()})"
    )
    first.release()
    second.acquire()
    second.release()


def test_secrets_stay_and_nobody_else_reads_them(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    secret = directory.secret("jwt")
    assert len(secret) >= 32
    assert DataDirectory(tmp_path).secret("jwt") == secret
    assert directory.secret("redis") != secret
    assert directory.secret_file("jwt").stat().st_mode & 0o777 == 0o600
    assert directory.secret_file("jwt").parent.stat().st_mode & 0o777 == 0o700


def test_the_tenant_is_twelve_hex_digits_and_stays(tmp_path: Path) -> None:
    tenant = DataDirectory(tmp_path).tenant()
    assert re.fullmatch("[0-9a-f]{12}", tenant)
    assert DataDirectory(tmp_path).tenant() == tenant


def test_an_empty_secret_is_named(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.secret_file("jwt").write_text("\n")
    with pytest.raises(ConfigError, match="secrets/jwt is empty; delete it"):
        directory.secret("jwt")


def test_state_is_closed_to_others_and_a_damaged_one_is_forgotten(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    assert directory.state() == {}
    directory.write_state({"ports": {"redis": 1}})
    assert directory.state() == {"ports": {"redis": 1}}
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
    for damage in (b"\xff\x00", b"[]", b"{"):
        (tmp_path / "state.json").write_bytes(damage)
        assert directory.state() == {}


@pytest.mark.parametrize("place", ["data", "data/below"])
def test_a_file_in_its_place_is_one_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigError, match="cannot be a directory: a file is in its place"):
        DataDirectory(tmp_path / place).acquire()
