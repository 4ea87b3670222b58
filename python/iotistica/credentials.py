"""Users of a broker that reads Mosquitto's files: a password file and an ACL file."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from iotistica.directories import make_directory
from iotistica.errors import ConfigError

_ITERATIONS = 101
"""Mosquitto's own number. The passwords are random and long: stretching them adds nothing."""


@dataclass(frozen=True, slots=True)
class User:
    """One user and the topic filters that it may use, each as `readwrite i/#`."""

    password: str
    rules: tuple[str, ...]


class Credentials:
    """The two files. Several processes may add users; the broker must be told to reload."""

    def __init__(self, password_file: Path, acl_file: Path) -> None:
        self.password_file = password_file
        self.acl_file = acl_file

    def add(self, users: Mapping[str, User]) -> None:
        """Add or replace users in both files. Raises `ConfigError`.

        A user whose password stays keeps its line: a reload does not disconnect it.
        """
        with self._locked():
            hashes, rules = self._read_passwords(), self._read_rules()
            for name, user in users.items():
                _check(name, *user.rules)
                if not matches(user.password, hashes.get(name, "")):
                    hashes[name] = hash_password(user.password)
                rules[name] = user.rules
            self._write(hashes, rules)

    def remove(self, names: Collection[str]) -> None:
        """Remove users from both files, where they are there."""
        with self._locked():
            hashes, rules = self._read_passwords(), self._read_rules()
            for name in names:
                hashes.pop(name, None)
                rules.pop(name, None)
            self._write(hashes, rules)

    def _write(self, hashes: Mapping[str, str], rules: Mapping[str, tuple[str, ...]]) -> None:
        # Rules first: a user without rules may do nothing, rules without a user do nothing.
        _replace(self.acl_file, _format_rules(rules))
        _replace(self.password_file, "".join(f"{u}:{h}\n" for u, h in hashes.items()))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_directory(self.password_file.parent)
        with self.password_file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read_passwords(self) -> dict[str, str]:
        lines = _lines(self.password_file)
        return {user: hashed for user, _, hashed in (line.partition(":") for line in lines)}

    def _read_rules(self) -> dict[str, tuple[str, ...]]:
        rules: dict[str, tuple[str, ...]] = {}
        user = ""
        for line in _lines(self.acl_file):
            word, _, rest = line.partition(" ")
            if word == "user":
                user = rest
                rules[user] = ()
            elif word == "topic":
                rules[user] = (*rules[user], rest)
        return rules


def hash_password(password: str, salt: bytes | None = None, rounds: int = _ITERATIONS) -> str:
    """Mosquitto's `$7$` form: PBKDF2 with SHA-512, 12 bytes of salt, 64 bytes of key."""
    salt = secrets.token_bytes(12) if salt is None else salt
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds, 64)
    return f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def matches(password: str, hashed: str) -> bool:
    """Whether `hashed` was made of the password."""
    try:
        _, _, rounds, salt, _ = hashed.split("$")
        again = hash_password(password, base64.b64decode(salt), int(rounds))
    except ValueError:
        return False
    return hmac.compare_digest(again, hashed)


def _check(name: str, *rules: str) -> None:
    if not name.isprintable() or not name.strip() == name != "" or ":" in name:
        raise ConfigError(f"MQTT user {name!r} must be printable text without a colon")
    for rule in rules:
        if not rule.isprintable():
            raise ConfigError(f"MQTT topic filter {rule!r} must be printable text")


def _format_rules(rules: Mapping[str, tuple[str, ...]]) -> str:
    blocks = (
        "\n".join([f"user {user}", *(f"topic {rule}" for rule in topics)])
        for user, topics in rules.items()
    )
    return "\n\n".join(blocks) + "\n"


def _lines(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return [line for line in text.split("\n") if line]


def _replace(path: Path, text: str) -> None:
    """Whole or not at all: the broker may read at any time."""
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
