"""Where commands of operators find the API and their credential, and how they fail."""

from __future__ import annotations

import secrets
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio
from tests.cloud_api import AGENT, FOREIGN, KEY, OTHER, TENANT, Api, token
from tests.shell import Shell

from iotistica.api.models.identity import CreateKey, MadeKey
from iotistica.client import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIST = ("agents", "list", "--json")


@pytest.fixture
def shell(api: Api, tmp_path: Path) -> Shell:
    """No credential at all."""
    return Shell({"IOTISTICA_API_URL": api.url, "XDG_DATA_HOME": str(tmp_path / "home")})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def key(api: Api) -> AsyncIterator[str]:
    """A service key that may read."""
    body = CreateKey(name=f"ops-{secrets.token_hex(4)}", permissions=["device:read"])
    async with Client(api.url, token=token()) as client:
        made = await client.transport.call("POST", "/api/v1/auth/api-keys", MadeKey, body=body)
    yield made.key


def stack(directory: Path, api: str, secret: str = KEY) -> Path:
    """A data directory as `iotistica up` leaves it."""
    (directory / "secrets").mkdir(parents=True)
    (directory / "secrets" / "jwt").write_text(f"{secret}\n")
    (directory / "state.json").write_bytes(orjson.dumps({"api": api, "tenant": TENANT}))
    return directory


async def test_a_service_key_may_do_what_it_may(shell: Shell, key: str, tmp_path: Path) -> None:
    done = await shell(*LIST, IOTISTICA_API_KEY=key)
    assert AGENT in {one["uuid"] for one in done.documents}
    assert FOREIGN not in {one["uuid"] for one in done.documents}
    done = await shell("agents", "remove", AGENT, "--yes", IOTISTICA_API_KEY=key)
    assert done.code == 1
    assert done.errors.count("\n") == 1
    assert "lacks the permission device:delete" in done.errors
    file = tmp_path / "credential"
    for held in (key, token()):
        file.write_text(f"{held}\n")
        # The file is named, so it counts, whatever is in the environment.
        done = await shell(
            *("agents", "show", AGENT, "--token-file", str(file), "--json"),
            IOTISTICA_API_TOKEN=token(OTHER),
        )
        assert (done.code, done.document["uuid"]) == (0, AGENT)
        assert held not in done.output + done.errors


async def test_credentials_are_one_and_never_shown(shell: Shell, tmp_path: Path) -> None:
    done = await shell(*LIST)
    assert (done.code, orjson.loads(done.errors)["error"]) == (
        2,
        "there is no credential: set IOTISTICA_API_TOKEN or IOTISTICA_API_KEY, or give "
        "--token-file",
    )
    done = await shell(*LIST, IOTISTICA_API_TOKEN=token(), IOTISTICA_API_KEY="iotapi_x")
    assert (done.code, orjson.loads(done.errors)["error"]) == (
        2,
        "IOTISTICA_API_TOKEN and IOTISTICA_API_KEY are both set; one of them is enough",
    )
    for name, value in (
        ("IOTISTICA_API_TOKEN", "sec\nret: x"),
        ("IOTISTICA_API_TOKEN", "s\u00fcss"),
        ("IOTISTICA_API_KEY", "no-key-of-ours"),
    ):
        done = await shell(*LIST, **{name: value})
        assert done.code == 2
        assert orjson.loads(done.errors)["error"].startswith(f"{name} holds no ")
    done = await shell(*LIST, "--token-file", str(tmp_path / "none"))
    assert done.code == 2
    assert "cannot be read: No such file or directory" in done.errors


async def test_what_is_refused_is_one_sentence(shell: Shell, api: Api) -> None:
    done = await shell(*LIST, IOTISTICA_API_TOKEN=token(key="x" * 64))
    assert done.code == 1
    assert set(orjson.loads(done.errors)) == {"error"}
    done = await shell("agents", "show", FOREIGN, IOTISTICA_API_TOKEN=token())
    assert (done.code, done.errors) == (1, f"iotistica: agent {FOREIGN} does not exist\n")
    done = await shell("agents", "show", "saw", IOTISTICA_API_TOKEN=token())
    assert done.code == 2
    with socket.create_server(("127.0.0.1", 0)) as server:
        away = f"http://127.0.0.1:{server.getsockname()[1]}"
    done = await shell("target", "deploy", str(uuid.uuid4()), "--api", away, **with_token())
    assert done.code == 1
    assert done.errors.startswith(f"iotistica: the API at {away} does not answer: ")
    # Another server than ours.
    done = await shell("agents", "show", AGENT, "--api", f"{api.url}/docs", **with_token())
    assert done.code == 1
    assert done.errors.count("\n") == 1


def with_token() -> dict[str, str]:
    return {"IOTISTICA_API_TOKEN": token()}


@pytest.mark.parametrize(
    "url",
    ["iot.example.com", "ftp://x", "http://", "http://h:99999", "http://a:hush@h", "http://h?x=1"],
)
async def test_what_is_no_url_is_refused(shell: Shell, url: str) -> None:
    done = await shell(*LIST, "--api", url, **with_token())
    assert done.code == 2
    assert orjson.loads(done.errors)["error"].startswith("--api is ")
    assert "hush" not in done.errors


async def test_a_data_directory_says_where_and_who(shell: Shell, api: Api, tmp_path: Path) -> None:
    directory = stack(tmp_path / "data", api.url)
    show = ("agents", "show", AGENT, "--json")
    local = Shell({"XDG_DATA_HOME": str(tmp_path / "home")})
    done = await local(*show, "--data-dir", str(directory))
    assert (done.code, done.document["uuid"]) == (0, AGENT)
    done = await shell(*show, "--data-dir", str(directory))
    assert (done.code, orjson.loads(done.errors)["error"]) == (
        2,
        "--api and --data-dir (or IOTISTICA_API_URL and IOTISTICA_DATA_DIR) exclude each other",
    )
    done = await local(*show, "--data-dir", str(tmp_path))
    assert (done.code, orjson.loads(done.errors)["error"]) == (
        2,
        f"no stack runs in {tmp_path}; start `iotistica up` first",
    )


async def test_after_up_nothing_needs_to_be_said(shell: Shell, api: Api, tmp_path: Path) -> None:
    stack(tmp_path / "home" / "iotistica", api.url)
    local = Shell({"XDG_DATA_HOME": str(tmp_path / "home")})
    done = await local("agents", "show", AGENT, "--json")
    assert (done.code, done.document["uuid"]) == (0, AGENT)
    # What the local platform trusts is not sent to another.
    done = await shell("agents", "show", AGENT)
    assert (done.code, done.errors.partition(":")[2].partition(":")[0]) == (
        2,
        " there is no credential",
    )
