"""Which column is which field, and what a cell means."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from iotistica.errors import ConfigError
from iotistica.importer.cells import code, number
from iotistica.importer.files import File, arrow
from iotistica.importer.layout import Layout
from iotistica.importer.plan import Form, Plan, columns_of
from iotistica.importer.work import agents_of, delimiter_of, uuid_of

PLAN = Plan(files=(), tenant="t")
UUID = "0a8b3b0e-5c1e-4f0e-9d55-0242ac120002"


def plan(**more: object) -> Plan:
    return Plan(**{"files": (), "tenant": "t", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "given", "words"),
    [
        (["time", "agent_uuid", "x", "value"], {}, "no column 'metric_name' among 'time', "),
        (["time", "metric_name", "value"], {}, "--column agent_uuid=COLUMN, or give --agent"),
        (["time"], {"columns": {"value": "v"}}, "column 'v' for value is none of 'time'"),
        (["time", "time"], {}, "column 'time' stands 2 times"),
        (["agent_uuid", "a"], {"wide": True}, "no column 'time'"),
        (["time", "agent_uuid"], {"agent": UUID}, "--agent is given, and column 'agent_uuid'"),
    ],
)
def test_a_header_that_does_not_do_is_told(
    header: list[str], given: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Layout.of(header, plan(**given))
    assert words in str(caught.value)


def test_a_wide_file_has_metrics_of_the_names_of_fields() -> None:
    header = ["time", "agent_uuid", "value", "metric_name", "x", "note", ""]
    layout = Layout.of(header, plan(wide=True, ignored=frozenset({"note"})))
    assert layout.metrics == (("value", None, 2), ("metric_name", None, 3), ("x", None, 4))
    assert layout.ignored == ("",)  # the index of a data frame


def test_columns_that_no_reading_takes_are_named() -> None:
    header = ["_time", "host", "_field", "_value", "table", "site"]
    columns = columns_of(
        ["time=_time", "agent=host", "metric=_field", "value=_value", "extra.site=site"]
    )
    layout = Layout.of(header, plan(columns=columns))
    assert layout.metrics == (("", 2, 3),)
    assert (layout.time, layout.agent, layout.members) == (0, 1, (("site", 5),))
    assert layout.ignored == ("table",)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("metric", "is not FIELD=COLUMN"),
        ("metric=", "is not FIELD=COLUMN"),
        ("tag=x", "'tag' is none of time, agent_uuid"),
        ("extra.=x", "'extra.' is none of"),
    ],
)
def test_a_column_that_is_no_field_is_told(pair: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"--column") as caught:
        columns_of([pair])
    assert words in str(caught.value)
    with pytest.raises(ConfigError, match="given twice"):
        columns_of(["metric=a", "metric_name=b"])


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("1", 1.0), (" -1.5e3 ", -1500.0), ("", None), (None, None), ("1_0", "1_0"), ("on", "on"),
     (7, 7), (True, True), ("inf", math.inf)],
)  # fmt: skip
def test_text_that_is_a_number_is_one(cell: object, expected: object) -> None:
    assert number(cell) == expected
    assert type(number(cell)) is type(expected)


def test_text_that_is_an_integer_is_a_code() -> None:
    assert [code(cell) for cell in ("192", "-1", "1.0", "good", 192)] == [
        192,
        -1,
        "1.0",
        "good",
        192,
    ]


@pytest.mark.parametrize(
    ("name", "form", "packing", "delimiter"),
    [
        ("a.csv", Form.CSV, None, ","),
        ("a.TSV.gz", Form.CSV, "gzip", "\t"),
        ("a.b.jsonl.zst", Form.NDJSON, "zstd", ","),
        ("a.pq", Form.PARQUET, None, ","),
    ],
)
def test_the_name_of_a_file_tells_its_form(
    tmp_path: Path, name: str, form: Form, packing: str | None, delimiter: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"12345")
    file = File.of(str(path), PLAN)
    assert (file.form, file.packing, file.delimiter, file.bytes) == (form, packing, delimiter, 5)


def test_what_has_no_name_needs_a_format(tmp_path: Path) -> None:
    (tmp_path / "a.bin").touch()
    (tmp_path / "a.parquet.gz").touch()
    for name, words in (
        ("-", "give --format"),
        (str(tmp_path / "a.bin"), "ends in none of .csv"),
        (str(tmp_path / "a.parquet.gz"), "unpack the file first"),
        (str(tmp_path / "none.csv"), "is not a file"),
    ):
        with pytest.raises(ConfigError) as caught:
            File.of(name, PLAN)
        assert words in str(caught.value)
    assert File.of(str(tmp_path / "a.bin"), plan(form=Form.CSV)).form is Form.CSV


def test_names_of_agents_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "agents.csv"
    path.write_text(f"press 1,{UUID}\n\n")
    assert agents_of(str(path)) == {"press 1": UUID}
    path.write_text("press 1,press 2\n")
    with pytest.raises(ConfigError, match=r"agents\.csv:1: is not a name, a comma, and a UUID"):
        agents_of(str(path))


def test_an_agent_and_a_delimiter_are_checked() -> None:
    assert uuid_of(UUID) == UUID
    with pytest.raises(ConfigError, match="'x' is not a UUID"):
        uuid_of("x")
    assert [delimiter_of(text) for text in (None, ";", "tab")] == [None, ";", "\t"]
    with pytest.raises(ConfigError, match="is not one character"):
        delimiter_of("ab")


def test_parquet_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"a\.parquet: .* pip install 'iotistica\[arrow\]'"):
        arrow("a.parquet: to read Parquet")
