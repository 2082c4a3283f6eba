"""The shape of landed files: which columns are there, and what kinds of values they hold, by a bounded sample."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from orchestration.ingest.spec import FileSpec

_FIRST = 1000  # lines that are all looked at
_EVERY = 1000  # of the others
_MOST_COLUMNS = 300
_LONGEST_NAME = 200
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_KINDS = {dict: "objects", list: "arrays", bool: "booleans", int: "numbers", float: "numbers", str: "text"}
_NUMERIC = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?\b|FLOAT|DOUBLE|DECIMAL", re.IGNORECASE)
_TIMES = ("TIMESTAMP", "DATE", "TIME")


@dataclass
class Shape:
    """What was seen in some files.

    Parameters
    ----------
    rows
        Rows that were looked at.
    columns
        Column to the number of values of each kind (``numbers``, ``text``, ``booleans``, ``objects``, ``arrays``,
        ``times``); a column without values has none.
    """

    rows: int = 0
    columns: dict[str, Counter[str]] = field(default_factory=dict)

    def see(self, column: str, kind: str | None, times: int = 1) -> None:
        """Count values of a column; ``None`` is no value."""
        kinds = self.columns.get(column)
        if kinds is None:
            if len(self.columns) >= _MOST_COLUMNS or len(column) > _LONGEST_NAME:
                return
            kinds = self.columns[column] = Counter()
        if kind is not None:
            kinds[kind] += times

    def told(self) -> dict[str, Any]:
        """Return the shape for a manifest."""
        return {"rows": self.rows, "columns": {c: dict(kinds) for c, kinds in sorted(self.columns.items())}}

    @classmethod
    def of(cls, told: Any) -> Shape | None:
        """Return the shape that a manifest tells of; ``None`` where it tells of none."""
        try:
            columns = {
                str(c): Counter({str(k): int(n) for k, n in v.items()}) for c, v in told["columns"].items()
            }
            return cls(int(told["rows"]), columns)
        except (TypeError, KeyError, ValueError, AttributeError):
            return None

    @classmethod
    def sum(cls, shapes: Iterable[Shape]) -> Shape:
        """Return the shape of several files together."""
        summed = cls()
        for shape in shapes:
            summed.rows += shape.rows
            for column, kinds in shape.columns.items():
                summed.see(column, None)
                for kind, times in kinds.items():
                    summed.see(column, kind, times)
        return summed


class Observer:
    """Looks at the first thousand lines of each file and at each thousandth after them.

    Which lines those are depends on the file alone, and so does the shape.

    Parameters
    ----------
    spec
        How the files are read.
    columns
        Source columns that the spec names; pointers into nested objects are looked at beside the keys.

    Attributes
    ----------
    shapes
        Name of a file to its shape.
    """

    def __init__(self, spec: FileSpec, columns: Sequence[str]) -> None:
        self.shapes: dict[str, Shape] = {}
        self._spec = spec
        self._pointers = [column for column in columns if column.startswith("/")]

    def of_lines(self, name: str, header: Sequence[str] | None) -> Callable[[pa.RecordBatch], None]:
        """Return what looks at the batches of a text file; ``header`` is ``None`` for JSON lines."""
        shape = self.shapes[name] = Shape()

        def watch(batch: pa.RecordBatch) -> None:
            rows = batch.column(0).to_numpy()
            sample = np.flatnonzero((rows <= _FIRST) | (rows % _EVERY == 0))
            for text in batch.column(3).take(pa.array(sample)).to_pylist():
                if text is not None and header is None:
                    self._see_object(shape, text)
                elif text is not None and header is not None:
                    self._see_cells(shape, text.rstrip("\r\n"), header)

        for column in header or ():
            shape.see(column, None)
        return watch

    def of_types(self, name: str, types: dict[str, str], rows: int) -> None:
        """Take the shape of a Parquet file from its schema."""
        shape = self.shapes[name] = Shape(rows)
        for column, kind in types.items():
            shape.see(column, _kind_of_type(kind), rows)

    def _see_object(self, shape: Shape, text: str) -> None:
        try:
            found = orjson.loads(text)
        except ValueError:
            return
        if not isinstance(found, dict):
            return
        shape.rows += 1
        for column, value in found.items():
            shape.see(column, _KINDS.get(type(value)))
        for pointer in self._pointers:
            value = _pointed(found, pointer)
            if value is not None:
                shape.see(pointer, _KINDS.get(type(value)))

    def _see_cells(self, shape: Shape, text: str, header: Sequence[str]) -> None:
        if self._spec.quoted and '"' in text:
            try:
                cells = next(csv.reader([text], delimiter=self._spec.separator), [])
            except csv.Error:
                return
        else:
            cells = text.split(self._spec.separator)
        if len(cells) != len(header):
            return
        shape.rows += 1
        for column, cell in zip(header, cells, strict=True):
            if cell.strip():
                shape.see(column, "numbers" if _NUMBER.fullmatch(cell.strip()) else "text")


def _pointed(found: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict):
            found = found.get(key)
        else:
            return None
    return found


def _kind_of_type(kind: str) -> str:
    if kind.endswith("]"):
        return "arrays"
    if kind.startswith(("STRUCT", "MAP", "UNION")):
        return "objects"
    if _NUMERIC.match(kind):
        return "numbers"
    if kind.startswith(_TIMES):
        return "times"
    return "booleans" if kind == "BOOLEAN" else "text"
