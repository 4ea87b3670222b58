"""Files opened by their names: the format, what it is packed with, and how far it is read."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from iotistica.errors import ConfigError, IotisticaError
from iotistica.importer.plan import Form, Plan

STDIN = "-"
_FORMS = {
    ".csv": Form.CSV,
    ".tsv": Form.CSV,
    ".txt": Form.CSV,
    ".ndjson": Form.NDJSON,
    ".jsonl": Form.NDJSON,
    ".parquet": Form.PARQUET,
    ".pq": Form.PARQUET,
}
_PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


class Damaged(IotisticaError):
    """A file cannot be read to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to be read."""

    name: str
    form: Form
    packing: str | None
    delimiter: str
    bytes: int | None
    """Size; None where nobody knows."""

    @classmethod
    def of(cls, name: str, plan: Plan) -> File:
        """Raises `ConfigError`."""
        if name == STDIN:
            if plan.form in (None, Form.PARQUET):
                raise ConfigError("standard input has no name that tells its format: give --format")
            return cls(
                name=name,
                form=plan.form,
                packing=None,
                delimiter=plan.delimiter or ",",
                bytes=None,
            )
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"{name} is not a file")
        suffixes = [suffix.lower() for suffix in path.suffixes]
        packing = _PACKED.get(suffixes[-1]) if suffixes else None
        named = suffixes[-2:-1] if packing else suffixes[-1:]
        form = plan.form or (_FORMS.get(named[0]) if named else None)
        if form is None:
            known = ", ".join(_FORMS)
            raise ConfigError(f"{name}: its name ends in none of {known}; give --format")
        if form is Form.PARQUET and packing is not None:
            raise ConfigError(f"{name}: Parquet packs its columns itself; unpack the file first")
        delimiter = plan.delimiter or ("\t" if named == [".tsv"] else ",")
        size = path.stat().st_size
        return cls(name=name, form=form, packing=packing, delimiter=delimiter, bytes=size)

    @contextmanager
    def opened(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Its content unpacked, and the file itself, which tells how far it is read.

        Raises `Damaged` for what is found while it is read.
        """
        try:
            if self.name == STDIN:
                yield sys.stdin.buffer, sys.stdin.buffer
                return
            with Path(self.name).open("rb") as raw, self._unpacked(raw) as content:
                yield content, raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise Damaged(f"{self.name}: {error}") from error

    def _unpacked(self, raw: BinaryIO) -> Any:
        match self.packing:
            case "gzip":
                return io.BufferedReader(gzip.GzipFile(fileobj=raw))
            case "zstd":
                return arrow(f"{self.name}: to read zstd").CompressedInputStream(raw, "zstd")
            case _:
                return raw


def arrow(why: str) -> Any:
    """The module `pyarrow`. Raises `ConfigError` where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise ConfigError(
            f"{why} needs the package pyarrow: pip install 'iotistica[arrow]'"
        ) from None
    return pyarrow
