"""NUL in JSON, and what only looks like it."""

from __future__ import annotations

import orjson
import pytest

from iotistica.errors import BadRequest
from iotistica.jobs.progress import bounded
from iotistica.selection import AgentFilter, FieldTest
from iotistica.store.documents import holds_nul, json_text, without_nul
from iotistica.store.selection import Condition

NULS = ["\0", "a\0b", "\\\0", "\\\\\0", "\0\0"]
NONE = ["", "\\u0000", "\\\\u0000", "a\\u0000b", "u0000"]


@pytest.mark.parametrize("text", NULS)
def test_nul_is_found_and_taken_out(text: str) -> None:
    raw = orjson.dumps({"a": text}).decode()
    assert holds_nul(raw)
    assert orjson.loads(without_nul(raw))["a"] == text.replace("\0", "")
    assert orjson.loads(without_nul(raw, "\\ufffd"))["a"] == text.replace("\0", "\ufffd")
    assert bounded({"a": text}, 1000) == {"a": text.replace("\0", "\ufffd")}


@pytest.mark.parametrize("text", NONE)
def test_an_escaped_backslash_before_u0000_is_no_nul(text: str) -> None:
    raw = orjson.dumps({"a": text}).decode()
    assert not holds_nul(raw)
    assert orjson.loads(json_text({"a": text})) == {"a": text}
    assert bounded({"a": text}, 1000) == {"a": text}


def test_a_filter_may_ask_for_what_only_looks_like_nul() -> None:
    Condition("t", AgentFilter(fields=[FieldTest(path="info.os_version", value="\\u0000")]))
    with pytest.raises(BadRequest, match=r"the value for info.os_version holds a NUL"):
        Condition("t", AgentFilter(fields=[FieldTest(path="info.os_version", value="\0")]))
