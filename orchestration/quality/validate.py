"""Hold a table against its suite with Great Expectations, and leave the verdict where people and programs find it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from ml.artifacts import write_json, write_text
from orchestration.quality.expectations import PERSONAL, breaking, merge, run
from orchestration.quality.failed import FOLDER, MAX_FAILED_ROWS, file_name, keep_failed_rows
from orchestration.quality.pages import index_page, result_page
from orchestration.quality.report import Failure, QualityError, QualityReport
from orchestration.quality.rules import Rule, Suite

if TYPE_CHECKING:
    import pandas as pd

Table: TypeAlias = "pd.DataFrame | pa.Table | Path | Sequence[Path]"
MAX_ROWS = 2_000_000
_SAMPLES = 5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")


def validate(
    table: Table,
    suite: Suite,
    docs: Path,
    batch: str = "latest",
    max_rows: int = MAX_ROWS,
    max_failed_rows: int = MAX_FAILED_ROWS,
    skipped: Sequence[str] = (),
    trend: Mapping[str, dict[str, list[float | None]]] | None = None,
) -> QualityReport:
    """Hold a table against its suite.

    Parameters
    ----------
    table
        The table, or the Parquet file or files that hold it, of which only the columns that the suite reads are
        loaded. Days that arrive together are best checked together: a verdict takes a third of a second, however small.
    suite
        What the table promises.
    docs
        Folder of the data docs, for example ``TESSERA_HOME/quality``. Gets ``index.html``, the page
        ``SUITE/BATCH.html``, the result ``results/SUITE/BATCH.json`` and the failing rows
        ``failed/SUITE/BATCH/RULE.parquet``; the same batch again replaces them.
    batch
        Names the table among those of its suite, for example its day.
    max_rows
        Values are checked on a sample of this many rows, evenly spread, where there are more.
    max_failed_rows
        Failing rows that are kept for a rule.
    skipped
        What could not be compared, and why; told beside the verdict.
    trend
        Kept with the result, for the curves of the index.

    Returns
    -------
    QualityReport
        The same for the same table, but for paths.

    Raises
    ------
    QualityError
        If the table cannot be read, or if ``batch`` cannot name a file.
    """
    if not _NAME.fullmatch(batch):
        raise QualityError(f"{suite.name}: {batch!r} cannot name a batch: use letters, digits and . _ = -")
    opened = _opened(table)
    total = opened.count_rows()
    missing = [column for column in suite.required if column not in opened.schema.names]
    frames = _frames(opened, total, suite, max_rows)
    result = merge([run(suite.name, rules, frame) for rules, frame in frames])
    rules = {place: rule for part, _ in frames for place, rule in part.items()}
    outcomes = {outcome.expectation_config.meta["place"]: outcome for outcome in result.results}
    kept = _failing_rows(opened, suite, frames, outcomes, max_failed_rows)
    keep_failed_rows(docs, suite.name, batch, {rules[place].says: rows for place, rows in kept.items()})
    failures = [_missing_columns(missing)] if missing else []
    for place, outcome in outcomes.items():
        if not outcome.success:
            rows = kept[place][0] if place in kept else None
            failures.append(_failure(suite, rules[place], outcome, rows, batch))
    report = QualityReport(
        suite=suite.name,
        batch=batch,
        rows=total,
        rows_checked=min(total, max_rows),
        rules=len(rules) + 1,
        failures=failures,
        docs=docs / suite.name / f"{batch}.html",
        results=docs / "results" / suite.name / f"{batch}.json",
        skipped=list(skipped),
        trend=dict(trend or {}),
    )
    write_text(report.docs, result_page(report, result))
    write_json(report.results, report.as_json())
    write_text(docs / "index.html", index_page(docs))
    return report


def _opened(table: Table) -> ds.Dataset:
    if isinstance(table, pa.Table):
        return ds.dataset(table)
    if not isinstance(table, Path | Sequence):
        return ds.dataset(pa.Table.from_pandas(table, preserve_index=False))
    paths = [table] if isinstance(table, Path) else list(table)
    try:
        return ds.dataset([str(path) for path in paths], format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise QualityError(f"{paths[0]} cannot be read: {' '.join(str(error).split())}") from None


def _frames(
    opened: ds.Dataset, total: int, suite: Suite, max_rows: int
) -> list[tuple[dict[int, Rule], pd.DataFrame]]:
    """Return the rules that the columns allow, each with the rows that it is to see.

    Where there are too many rows, rules about rows see a sample of them, and rules about the table all rows, of their
    own columns. The index of a frame numbers the rows of the table.
    """
    available = opened.schema.names
    sources = {column for made_from in suite.derived.values() for column in made_from}
    derivable = sources.issubset(available)
    present = {*available, *(suite.derived if derivable else ())}
    rules = {place: rule for place, rule in enumerate(suite.rules) if present.issuperset(rule.read)}
    wanted = {column for rule in rules.values() for column in rule.read} | (sources if derivable else set())
    columns = [column for column in available if column in wanted]
    if total <= max_rows:
        rows, numbers = opened.to_table(columns=columns), np.arange(total)
        return [(rules, _frame(suite.derive(rows) if derivable else rows, numbers))]
    numbers = np.linspace(0, total - 1, max_rows).astype(np.int64)
    sample = _sampled(opened, columns, numbers)
    whole = {place: rule for place, rule in rules.items() if rule.whole}
    keys = _coded(opened, sorted({column for rule in whole.values() for column in rule.read}))
    single = {place: rule for place, rule in rules.items() if not rule.whole}
    return [
        (whole, _frame(keys, np.arange(total))),
        (single, _frame(suite.derive(sample) if derivable else sample, numbers)),
    ]


def _coded(opened: ds.Dataset, columns: list[str]) -> pa.Table:
    """Return columns with a number for each different text: rules about the table only ask which values are equal.

    Ten million texts as Python objects are gigabytes, and comparing them takes minutes.
    """
    coded = {}
    for column in columns:
        values = opened.to_table(columns=[column])[column]
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            # One chunk has one dictionary; 32-bit offsets would not reach over all of it.
            whole = values.cast(pa.large_string()).combine_chunks()
            values = whole.dictionary_encode().indices
        coded[column] = values
    return pa.table(coded)


def _frame(rows: pa.Table, numbers: Any) -> pd.DataFrame:
    frame = rows.to_pandas()
    frame.index = numbers
    return frame


def _sampled(opened: ds.Dataset, columns: list[str], numbers: Any) -> pa.Table:
    """Return the rows with these numbers, rising, without ever holding the others."""
    taken, before = [], 0
    for batch in opened.to_batches(columns=columns):
        here = numbers[np.searchsorted(numbers, before) : np.searchsorted(numbers, before + batch.num_rows)]
        if len(here):
            taken.append(batch.take(pa.array(here - before)))
        before += batch.num_rows
    return pa.Table.from_batches(taken)


def _failing_rows(
    opened: ds.Dataset,
    suite: Suite,
    frames: list[tuple[dict[int, Rule], pd.DataFrame]],
    outcomes: Mapping[int, Any],
    max_failed_rows: int,
) -> dict[int, tuple[pa.Table, int]]:
    """Return, for each broken rule about rows, the first rows that break it and how many there are."""
    kept = {}
    for rules, frame in frames:
        broken = {
            place: rule
            for place, rule in rules.items()
            if not outcomes[place].success and "unexpected_count" in outcomes[place].result
        }
        for place, numbers in breaking(suite.name, broken, frame).items():
            first = opened.take(pa.array(numbers[:max_failed_rows], pa.int64()))
            kept[place] = (first, len(numbers))
    return kept


def _failure(suite: Suite, rule: Rule, outcome: Any, rows: pa.Table | None, batch: str) -> Failure:
    found = outcome.result
    observed = found.get("observed_value")
    if not found:
        # The expectation itself broke, on values of a type that it cannot compare.
        observed = "values that cannot be compared"
    if suite.tell is not None and rows is not None:
        samples = [suite.tell(row) for row in rows.slice(0, _SAMPLES).to_pylist()]
    elif PERSONAL in rule.columns:
        samples = []
    elif rule.whole and rows is not None:
        # What was compared may be numbers that stand for the values.
        samples = _first(_word(row) for row in rows.select(rule.columns).slice(0, _SAMPLES).to_pylist())
    else:
        # A null that should not be one says nothing as a sample.
        values = (value for value in found.get("partial_unexpected_list") or () if value is not None)
        samples = _first(_word(value) for value in values)
    return Failure(
        rule=rule.says,
        severity=rule.severity,
        why=rule.why,
        unexpected=found.get("unexpected_count"),
        observed=None if observed is None else _word(observed),
        samples=samples,
        rows=None if rows is None else f"{FOLDER}/{suite.name}/{batch}/{file_name(rule.says)}.parquet",
    )


def _missing_columns(missing: list[str]) -> Failure:
    return Failure(
        rule="all columns are there",
        severity="error",
        why="what reads this table asks for them",
        unexpected=None,
        observed=f"no column {', '.join(missing)}",
        samples=[],
    )


def _first(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))[:_SAMPLES]


def _word(value: Any) -> str:
    """Return a value as a person would write it, cut to one short line."""
    if isinstance(value, tuple):
        text = ", ".join(_word(part) for part in value)
    elif isinstance(value, dict):
        text = ", ".join(f"{name}={_word(part)}" for name, part in value.items())
    elif isinstance(value, float | np.floating):
        text = f"{value:g}"
    else:
        text = str(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
