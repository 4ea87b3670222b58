"""`iotistica decode`, from the written payload to the exit code."""

from __future__ import annotations

import base64
import random
import time
import zlib
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from iotistica.cli import app
from iotistica.errors import ConfigError
from iotistica.simulator.payloads import Payloads, Span
from iotistica.simulator.plan import PLAIN, Format
from iotistica.simulator.series import Series
from iotistica.written import Input, unwrap

AGENT = "0e6f3c1e-5b52-5a0e-8e0e-9d6a9b1f7c01"
TOPIC = "i/c-3dOFzo/a/Dm88HltSWg6ODp1qmx98AQ/endpoints/opcua"
PAYLOADS = Payloads(AGENT, Series(AGENT, 1), 7, random.Random(1))
MESSAGE = PAYLOADS.message(Span((time.time_ns() // 1_000_000 - 5000) * 1000, 1_000_000))


def decode(payload: bytes, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["decode", *arguments], input=payload)


@pytest.fixture
def dictionary(tmp_path: Path) -> str:
    path = tmp_path / "dictionary.json"
    path.write_bytes(PAYLOADS.dictionary.message())
    return str(path)


@pytest.mark.parametrize("form", PLAIN)
def test_every_format_is_explained_to_its_rows(form: Format, dictionary: str) -> None:
    result = decode(
        PAYLOADS.encode(MESSAGE, form), "--topic", TOPIC, "--dictionary", dictionary, "--json"
    )
    assert result.exit_code == 0
    explained = orjson.loads(result.stdout)
    assert len(explained["rows"]) == 7
    assert {row["agent_uuid"] for row in explained["rows"]} == {AGENT}
    assert explained["topic"]["tenant"] == "73eddd385ce8"
    assert explained["wrapping"]["is"] == ("zlib" if form.endswith("deflate") else "none")


def test_people_read_the_stages_in_order(dictionary: str) -> None:
    payload = zlib.compress(PAYLOADS.encode(MESSAGE, Format.COMPACT))
    result = decode(payload, "--topic", TOPIC, "--dictionary", dictionary)
    assert result.exit_code == 0
    titles = [line for line in result.stdout.splitlines() if line and not line.startswith(" ")][:6]
    assert titles == ["topic", "payload", "inflate", "decode", "expand", "normalize"]
    assert "messagepack, because the first byte is 83" in result.stdout
    assert "7 rows, 0 duplicates" in result.stdout
    assert "Spindle.Speed" in result.stdout


def test_a_rejected_payload_is_exit_code_1_and_says_why() -> None:
    payload = PAYLOADS.encode(MESSAGE, Format.JSON)[:100]
    result = decode(payload)
    assert result.exit_code == 1
    assert "rejected at decode, json: the message: payload is not JSON" in result.stdout


def test_a_compacted_payload_without_its_dictionary_is_rejected() -> None:
    result = decode(PAYLOADS.encode(MESSAGE, Format.COMPACT))
    assert result.exit_code == 1
    assert "dictionary_missing" in result.stdout


def test_a_corrupt_wrapping_is_explained_as_far_as_it_goes() -> None:
    result = decode(zlib.compress(b"{}")[:-3] + b"abc")
    assert result.exit_code == 1
    assert "rejected at inflate" in result.stdout


def test_limits_of_the_environment_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOTISTICA_MAX_DEPTH", "2")
    result = decode(PAYLOADS.encode(MESSAGE, Format.JSON))
    assert result.exit_code == 1
    assert "too_deep" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--topic", "i/x"], 'topic "i/x" is not i/{tenant}'),
        (["--dictionary", "/nowhere"], "--dictionary /nowhere: "),
        (["/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["--input", "hex"], "the input is not hex"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str
) -> None:
    result = decode(b'{"a":1}', *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_dictionary_must_be_one(tmp_path: Path) -> None:
    path = tmp_path / "dictionary.json"
    for text in ("[]", "{", '{"version":"1"}', '{"version":1}'):
        path.write_text(text)
        result = decode(b"{}", "--dictionary", str(path))
        assert result.exit_code == 2
        assert f"--dictionary {path}: " in result.stderr


@pytest.mark.parametrize("form", PLAIN)
def test_written_payloads_are_recognized(form: Format) -> None:
    payload = PAYLOADS.encode(MESSAGE, form)
    dump = payload.hex(" ", 2).encode()
    wrapped = base64.encodebytes(payload)
    for written in (payload, payload.hex().encode(), b"0x" + dump, dump.upper() + b"\n", wrapped):
        assert unwrap(written, Input.AUTO) == payload
    assert unwrap(base64.urlsafe_b64encode(payload).rstrip(b"="), Input.BASE64) == payload


@given(payload=st.binary())
def test_any_bytes_survive_being_written_down(payload: bytes) -> None:
    assert unwrap(payload, Input.RAW) == payload
    assert unwrap(payload.hex(":").encode(), Input.HEX) == payload
    assert unwrap(base64.encodebytes(payload), Input.BASE64) == payload


@given(text=st.binary())
def test_guessing_never_fails(text: bytes) -> None:
    assert isinstance(unwrap(text, Input.AUTO), bytes)


def test_what_is_not_of_the_form_is_refused() -> None:
    for form in (Input.HEX, Input.BASE64):
        with pytest.raises(ConfigError, match=f"the input is not {form}"):
            unwrap(b"{}!", form)
