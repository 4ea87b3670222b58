"""docs/rest.md says what is served of the reference's API; here it is held to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.unit.test_openapi import ROUTES

PAGE = Path(__file__).parents[2] / "docs" / "rest.md"
ROW = re.compile(r"^\| `([A-Z]+) (/\S*)` \| (\w+) \|(.*)\|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text())


def form(path: str) -> str:
    """The path without the names of its parameters."""
    whole = path.removeprefix("/") if path.startswith("//") else f"/api/v1{path}"
    return re.sub(r":\w+", ":", whole)


SERVED = {(route.method, re.sub(r":\w+", ":", route.path)) for route in ROUTES}


def test_the_table_is_read() -> None:
    assert len(ROWS) > 150
    assert len(ROWS) == PAGE.read_text().count("\n| `")
    assert len({(method, form(path)) for method, path, _, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("method", "path", "word", "why"), ROWS, ids=[f"{row[0]} {row[1]}" for row in ROWS]
)
def test_the_table_says_what_is_true(method: str, path: str, word: str, why: str) -> None:
    assert word in ("yes", "no", "branch")
    is_served = (method, form(path)) in SERVED
    if word == "yes":
        assert is_served
    elif word == "no":
        assert not is_served
        assert why.strip()
    else:
        assert why.strip()
        assert not is_served, "the branch is merged: say yes"
