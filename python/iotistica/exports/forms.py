"""The forms of an export, and which of them a caller wants. Pure."""

from __future__ import annotations

import enum
import importlib.util
from collections.abc import Iterator
from typing import Literal, TypeAlias

from iotistica.errors import NotAcceptable, NotInstalled

Name: TypeAlias = Literal["csv", "ndjson", "parquet", "arrow"]

HOW = "pip install 'iotistica[arrow]'"


class Form(enum.Enum):
    """One form, by its name."""

    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"
    ARROW = "arrow"

    @property
    def media_type(self) -> str:
        """Without parameters."""
        return _MEDIA_TYPES[self]

    @property
    def suffix(self) -> str:
        """Of file names."""
        return _SUFFIXES[self]

    @property
    def is_columnar(self) -> bool:
        """Made by pyarrow."""
        return self in (Form.PARQUET, Form.ARROW)


_MEDIA_TYPES = {
    Form.CSV: "text/csv",
    Form.NDJSON: "application/x-ndjson",
    Form.PARQUET: "application/vnd.apache.parquet",
    Form.ARROW: "application/vnd.apache.arrow.stream",
}
_SUFFIXES = {Form.CSV: "csv", Form.NDJSON: "ndjson", Form.PARQUET: "parquet", Form.ARROW: "arrows"}
MEDIA_TYPES = ", ".join(_MEDIA_TYPES.values())


def choose(accept: str | None, name: Name | None) -> Form:
    """The form of this name, else the one that the Accept field likes best (RFC 9110 section
    12.5.1), of equals the first of `Form`.

    Raises `NotAcceptable`, and `NotInstalled` where it is made by a library that is not there.
    """
    form = Form(name) if name is not None else _accepted(accept or "*/*")
    if form.is_columnar and importlib.util.find_spec("pyarrow") is None:
        raise NotInstalled(f"{form.value} needs pyarrow, which this server does not have: {HOW}")
    return form


def _accepted(accept: str) -> Form:
    ranges = list(_ranges(accept))

    def weight(form: Form) -> float:
        """Of the most specific range that fits."""
        kind = form.media_type.partition("/")[0]
        fitting = (form.media_type, f"{kind}/*", "*/*")
        found = [(fitting.index(one), q) for one, q in ranges if one in fitting]
        return min(found)[1] if found else 0.0

    best = max(Form, key=weight)
    if not weight(best):
        raise NotAcceptable(f"field Accept is {accept[:64]!r}; there are {MEDIA_TYPES}")
    return best


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for member in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in member.split(";"))
        yield media_range, next(_weights(parameters), 1.0)


def _weights(parameters: list[str]) -> Iterator[float]:
    for one in parameters:
        name, _, value = one.partition("=")
        if name.strip() == "q":
            try:
                yield min(max(float(value), 0.0), 1.0)
            except ValueError:
                yield 0.0
