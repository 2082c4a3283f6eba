"""Hold a table against its suite with Great Expectations, and leave the verdict where people and programs find it.

Great Expectations takes three seconds to import, so it is imported in the functions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from ml.artifacts import write_json, write_text
from orchestration.quality.pages import index_page, result_page
from orchestration.quality.suites import Rule, Severity, Suite

if TYPE_CHECKING:
    import pandas as pd

Table: TypeAlias = "pd.DataFrame | pa.Table | Path | list[Path]"
MAX_ROWS = 2_000_000
_SAMPLES = 5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")


class QualityError(Exception):
    """A table cannot be checked; the message is one line that names the table and the cause."""


@dataclass(frozen=True)
class Failure:
    """A promise that was broken.

    Parameters
    ----------
    rule
        The promise, in words.
    severity
        ``"error"`` or ``"warning"``.
    why
        What goes wrong downstream.
    unexpected
        Rows that break it, among the rows checked; None where the promise is about the table.
    observed
        What was found instead, where the promise is about the table.
    samples
        The first values that break it.
    """

    rule: str
    severity: Severity
    why: str
    unexpected: int | None
    observed: str | None
    samples: list[str]

    def __str__(self) -> str:
        found = f"found {self.observed}" if self.unexpected is None else f"{self.unexpected} rows"
        return f"{self.rule}: {found}{', such as ' + '; '.join(self.samples) if self.samples else ''}"


@dataclass(frozen=True)
class QualityReport:
    """The verdict on one table.

    Parameters
    ----------
    suite, batch
        What was held against what, for example ``events`` and ``2025-03-01``.
    rows
        Rows of the table.
    rows_checked
        Rows whose values were looked at: a sample where the table is large. Promises about the table, uniqueness
        among them, are checked on all rows.
    rules
        Promises checked.
    failures
        Broken ones, in the suite's order.
    docs
        The page that shows it.
    results
        The same as JSON.
    """

    suite: str
    batch: str
    rows: int
    rows_checked: int
    rules: int
    failures: list[Failure]
    docs: Path
    results: Path

    @property
    def errors(self) -> list[Failure]:
        """Failures that stop what comes after."""
        return [failure for failure in self.failures if failure.severity == "error"]

    @property
    def warnings(self) -> list[Failure]:
        """Failures that are shown and let pass."""
        return [failure for failure in self.failures if failure.severity == "warning"]

    @property
    def passed(self) -> bool:
        """Whether no error was found."""
        return not self.errors

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        told = "; ".join(str(failure) for failure in self.failures) or "all kept"
        return f"{self.suite} {self.batch}: {self.rules} promises on {self.rows} rows: {told}"


def validate(
    table: pd.DataFrame | pa.Table | Path,
    suite: Suite,
    docs: Path,
    batch: str = "latest",
    max_rows: int = MAX_ROWS,
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
        ``SUITE/BATCH.html`` and the result ``results/SUITE/BATCH.json``; the same batch again replaces them.
    batch
        Names the table among those of its suite, for example its day.
    max_rows
        Values are checked on a sample of this many rows, evenly spread, where there are more.

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
    loaded, missing = _load(table, suite)
    present = set(loaded.column_names)
    rules = [rule for rule in suite.rules if present.issuperset(rule.columns)]
    checked = min(loaded.num_rows, max_rows)
    outcomes, result = _run_all(suite, rules, loaded, max_rows)
    failures = [_missing_columns(missing)] if missing else []
    failures += [
        _failure(rule, outcomes[place]) for place, rule in enumerate(rules) if not outcomes[place].success
    ]
    report = QualityReport(
        suite=suite.name,
        batch=batch,
        rows=loaded.num_rows,
        rows_checked=checked,
        rules=len(rules) + 1,
        failures=failures,
        docs=docs / suite.name / f"{batch}.html",
        results=docs / "results" / suite.name / f"{batch}.json",
    )
    write_text(report.docs, result_page(report, result))
    write_json(report.results, _as_json(report))
    write_text(docs / "index.html", index_page(docs))
    return report


def _load(table: Table, suite: Suite) -> tuple[pa.Table, list[str]]:
    """Return the columns that rules read, derived ones added, and the required columns that are not there."""
    opened = _opened(table)
    available = opened.schema.names
    missing = [column for column in suite.required if column not in available]
    sources = {column for made_from in suite.derived.values() for column in made_from}
    read = {column for rule in suite.rules for column in (*rule.columns, *(rule.unless or ())[:1])} | sources
    loaded = opened.to_table(columns=[column for column in available if column in read])
    return (suite.derive(loaded) if sources.issubset(available) else loaded), missing


def _opened(table: Table) -> ds.Dataset:
    if isinstance(table, pa.Table):
        return ds.dataset(table)
    if not isinstance(table, Path | list):
        return ds.dataset(pa.Table.from_pandas(table, preserve_index=False))
    paths = table if isinstance(table, list) else [table]
    try:
        return ds.dataset([str(path) for path in paths], format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise QualityError(f"{paths[0]} cannot be read: {' '.join(str(error).split())}") from None


def _run_all(suite: Suite, rules: list[Rule], table: pa.Table, max_rows: int) -> tuple[dict[int, Any], Any]:
    """Return the outcome by place of the rule, and one result that holds them all."""
    places = range(len(rules))
    if table.num_rows <= max_rows:
        parts = [(list(places), table)]
    else:
        whole = [place for place in places if rules[place].whole]
        keys = sorted({column for place in whole for column in rules[place].columns})
        sample = table.take(np.linspace(0, table.num_rows - 1, max_rows).astype(np.int64))
        parts = [(whole, table.select(keys)), ([place for place in places if not rules[place].whole], sample)]
    results = [_run(suite.name, {place: rules[place] for place in part}, rows) for part, rows in parts]
    merged = results[0]
    merged.results = sorted(
        (outcome for result in results for outcome in result.results),
        key=lambda o: o.expectation_config.meta["place"],
    )
    kept = sum(bool(outcome.success) for outcome in merged.results)
    merged.statistics = {
        "evaluated_expectations": len(rules),
        "successful_expectations": kept,
        "unsuccessful_expectations": len(rules) - kept,
        "success_percent": 100.0 * kept / max(len(rules), 1),
    }
    merged.success = kept == len(rules)
    return {outcome.expectation_config.meta["place"]: outcome for outcome in merged.results}, merged


def _run(name: str, rules: dict[int, Rule], table: pa.Table) -> Any:
    """Run rules over a table with Great Expectations; an outcome's ``meta`` says which rule it belongs to."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars={"globally": False},
        )
    )
    asset = context.data_sources.add_pandas("tessera").add_dataframe_asset(name)
    suite = gx.ExpectationSuite(
        name=name, expectations=[_expectation(place, rule) for place, rule in rules.items()]
    )
    context.suites.add(suite)
    batch = asset.add_batch_definition_whole_dataframe("table").get_batch({"dataframe": table.to_pandas()})
    return batch.validate(suite, result_format="SUMMARY")


def _expectation(place: int, rule: Rule) -> Any:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    arguments = dict(rule.arguments)
    if rule.unless is not None:
        column, values = rule.unless
        arguments["row_condition"] = Column(column).is_not_in(list(values))
    return getattr(gxe, rule.expectation)(
        **arguments,
        severity="critical" if rule.severity == "error" else "warning",
        notes=rule.why or None,
        meta={"place": place},
    )


def _failure(rule: Rule, outcome: Any) -> Failure:
    found = outcome.result
    unexpected = found.get("unexpected_count")
    observed = found.get("observed_value")
    if not found:
        # The expectation itself broke, on values of a type that it cannot compare.
        observed = "values that cannot be compared"
    # A null that should not be one says nothing as a sample.
    values = (value for value in found.get("partial_unexpected_list") or () if value is not None)
    return Failure(
        rule=rule.says,
        severity=rule.severity,
        why=rule.why,
        unexpected=unexpected,
        observed=None if observed is None else _word(observed),
        samples=_first(_word(value) for value in values),
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


def _as_json(report: QualityReport) -> dict[str, Any]:
    record = asdict(report) | {"passed": report.passed}
    # Paths differ between machines, the verdict does not.
    return {name: value for name, value in record.items() if name not in {"docs", "results"}}
