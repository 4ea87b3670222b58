"""Users of the broker: Mosquitto's files, whole or not at all."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from iotistica.credentials import Credentials, User
from iotistica.errors import ConfigError


def test_both_files_are_in_the_form_of_mosquitto(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path / "passwords", tmp_path / "acl")
    credentials.add({"one": User("p", ("readwrite i/#", "read $SYS/#")), "none": User("q", ())})
    assert (tmp_path / "acl").read_text() == (
        "user one\ntopic readwrite i/#\ntopic read $SYS/#\n\nuser none\n"
    )
    line = (tmp_path / "passwords").read_text().splitlines()[0]
    name, _, hashed = line.partition(":")
    _, scheme, rounds, salt, key = hashed.split("$")
    assert (name, scheme) == ("one", "7")
    assert base64.b64decode(key) == hashlib.pbkdf2_hmac(
        "sha512", b"p", base64.b64decode(salt), int(rounds), 64
    )
    for path in (tmp_path / "passwords", tmp_path / "acl"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_users_of_other_processes_stay(tmp_path: Path) -> None:
    for name in ("one", "two", "one"):
        Credentials(tmp_path / "passwords", tmp_path / "acl").add({name: User("p", ("read i/#",))})
    lines = (tmp_path / "passwords").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["one", "two"]
    assert (tmp_path / "acl").read_text().count("user ") == 2


def test_a_password_that_stays_keeps_its_line(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path / "passwords", tmp_path / "acl")
    credentials.add({"one": User("p", ())})
    before = (tmp_path / "passwords").read_text()
    credentials.add({"one": User("p", ("read i/#",))})
    assert (tmp_path / "passwords").read_text() == before
    credentials.add({"one": User("other", ())})
    assert (tmp_path / "passwords").read_text() != before


@pytest.mark.parametrize("name", ["", "a:b", "a\nuser b", " a", "a\0"])
def test_a_name_that_would_break_the_files_is_refused(tmp_path: Path, name: str) -> None:
    credentials = Credentials(tmp_path / "passwords", tmp_path / "acl")
    with pytest.raises(ConfigError, match="MQTT user"):
        credentials.add({name: User("p", ())})
    with pytest.raises(ConfigError, match="MQTT topic filter"):
        credentials.add({"one": User("p", ("read i/#\nuser two",))})
    assert not (tmp_path / "passwords").exists()
