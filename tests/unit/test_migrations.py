"""Migrations stay as they were published: a database that has one refuses another text."""

from __future__ import annotations

from pathlib import Path

from iotistica.store.migrate import available

_PUBLISHED = Path(__file__).parents[1] / "migrations.sha256"


def test_what_was_published_is_not_changed() -> None:
    """A new migration: `(cd migrations && sha256sum *.sql) > tests/migrations.sha256`."""
    published = dict(reversed(line.split()) for line in _PUBLISHED.read_text("utf-8").splitlines())
    assert {f"{one.name}.sql": one.checksum for one in available()} == published
