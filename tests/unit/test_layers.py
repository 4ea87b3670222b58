"""Who may import whom, and how long files and functions may get (style, sections 3 and 5)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "iotistica"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each library has one door.
FENCES = {
    "aiomqtt": "mqtt/",
    "paho": "mqtt/",
    "mqtt5": "mqtt/",
    "asyncpg": "store/",
    "jwt": "api/auth",
    "redis": "streams/",
    "robyn": "api/robyn_app.py",
}

_SERVERS = ("ingestion", "simulator", "embedded.stack", "up", "store", "streams", "mqtt")

# What lies below imports nothing from above.
FORBIDDEN = {
    "store/": ("api", "audit", "ingestion", "simulator", "embedded", "up", "mqtt"),
    "mqtt/": ("api", "ingestion", "simulator", "embedded", "up", "store", "streams"),
    "streams/": ("api", "audit", "ingestion", "simulator", "embedded", "up", "store", "mqtt"),
    "audit/": ("api", "ingestion", "simulator", "embedded", "up", "mqtt"),
    "api/routes/": ("ingestion", "simulator", "embedded", "up", "api.robyn_app"),
    "api/": ("ingestion", "simulator", "embedded", "up"),
    "ingestion/": ("api", "simulator", "embedded", "up", "mqtt"),
    "redrive/": ("api", "ingestion", "simulator", "embedded", "up", "mqtt", "dlq"),
    "encoder.py": ("api", "ingestion", "simulator", "embedded", "up", "mqtt", "redrive"),
    "client/": _SERVERS,
    # By the client alone, but for the secret of a data directory.
    "operate/": (*_SERVERS, "api.routes"),
    "doctor/": ("api", "ingestion", "simulator", "up", "redrive", "dlq"),
    "embedded/": ("api", "ingestion", "simulator", "up"),
    "simulator/": ("api", "ingestion", "up"),
}

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def name(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_libraries_stay_behind_their_door(module: Path) -> None:
    for imported in imports(module):
        door = FENCES.get(imported.split(".")[0])
        assert door is None or name(module).startswith(door), f"{imported} belongs in {door}"


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_imports_point_downwards(module: Path) -> None:
    ours = {imported for imported in imports(module) if imported.startswith("iotistica.")}
    for place, above in FORBIDDEN.items():
        if not name(module).startswith(place):
            continue
        for layer in above:
            prefix = f"iotistica.{layer}"
            assert not any(one == prefix or one.startswith(f"{prefix}.") for one in ours), prefix


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_files_and_functions_stay_short(module: Path) -> None:
    text = module.read_text()
    assert text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name
