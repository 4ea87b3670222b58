"""Which form a caller gets, and whatever PostgreSQL writes as columns."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from iotistica.errors import NotAcceptable
from iotistica.exports.columnar import ROWS_PER_GROUP, Columnar
from iotistica.exports.forms import Form, choose


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, Form.CSV),
        ("*/*", Form.CSV),
        ("text/*", Form.CSV),
        ("application/x-ndjson", Form.NDJSON),
        ("TEXT/CSV; q=0.1 , Application/Vnd.Apache.Parquet", Form.PARQUET),
        ("application/*;q=0.5, application/x-ndjson;q=0", Form.PARQUET),
        ("*/*;q=0.1, text/csv;q=0, application/vnd.apache.arrow.stream;q=0.2", Form.ARROW),
        ("text/csv;q=x, application/x-ndjson;q=0.001", Form.NDJSON),
        ("text/html, text/csv;charset=utf-8", Form.CSV),
    ],
)
def test_the_accept_field_is_weighed(accept: str | None, form: Form) -> None:
    assert choose(accept, None) is form


def test_a_name_goes_first() -> None:
    assert choose("image/png", "arrow") is Form.ARROW


@pytest.mark.parametrize("accept", ["image/png", "text/csv;q=0", ";;,,"])
def test_nothing_that_fits_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/x-ndjson"):
        choose(accept, None)


@given(st.text(max_size=60))
def test_any_accept_field_is_answered(accept: str) -> None:
    with contextlib.suppress(NotAcceptable):
        assert choose(accept, None) in Form


TEXTS = st.none() | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
ROWS = st.lists(st.tuples(TEXTS, st.none() | st.floats(allow_nan=False)), max_size=20)


def cells(rows: list[tuple[str | None, float | None]]) -> bytes:
    """As COPY writes them: a text in quotes, nothing for null."""
    lines = []
    for text, number in rows:
        quoted = "" if text is None else '"' + text.replace('"', '""') + '"'
        lines.append(f"{quoted},{'' if number is None else repr(number)}\n")
    return "".join(lines).encode()


@given(batches=st.lists(ROWS, max_size=4))
@pytest.mark.parametrize("form", [Form.PARQUET, Form.ARROW], ids=["parquet", "arrow"])
def test_any_cells_read_back(
    form: Form, batches: list[list[tuple[str | None, float | None]]]
) -> None:
    columnar = Columnar(form, ["metric_name", "value"])
    body = b"".join(columnar.add(cells(rows)) for rows in batches if rows) + columnar.finish()
    table = (
        parquet.read_table(io.BytesIO(body))
        if form is Form.PARQUET
        else pa.ipc.open_stream(body).read_all()
    )
    expected = [row for rows in batches for row in rows]
    assert table["metric_name"].to_pylist() == [text for text, _ in expected]
    assert table["value"].to_pylist() == [number for _, number in expected]


def test_row_groups_are_bounded() -> None:
    columnar = Columnar(Form.PARQUET, ["value"])
    body = b"".join(columnar.add(b"1.5\n" * 50_000) for _ in range(10)) + columnar.finish()
    read = parquet.ParquetFile(io.BytesIO(body))
    groups = [read.metadata.row_group(n).num_rows for n in range(read.num_row_groups)]
    assert sum(groups) == 500_000
    assert max(groups) < ROWS_PER_GROUP + 50_000


def test_who_never_exports_does_not_load_pyarrow() -> None:
    source = "import sys, iotistica.cli, iotistica.api.application; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert done.stdout == b"False\n"
