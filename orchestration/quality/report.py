"""What a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestration.quality.rules import Severity


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
        The first values that break it; none where they would name a user.
    rows
        File with the rows that break it, relative to the data docs; None where the promise is about the table.
    """

    rule: str
    severity: Severity
    why: str
    unexpected: int | None
    observed: str | None
    samples: list[str]
    rows: str | None = None

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
    skipped
        What could not be compared, and why.
    trend
        By measure and day: the value and its two limits.
    """

    suite: str
    batch: str
    rows: int
    rows_checked: int
    rules: int
    failures: list[Failure]
    docs: Path
    results: Path
    skipped: list[str] = field(default_factory=list)
    trend: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)

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
        skipped = f"; {len(self.skipped)} skipped ({self.skipped[0]})" if self.skipped else ""
        return f"{self.suite} {self.batch}: {self.rules} promises on {self.rows} rows: {told}{skipped}"

    def as_json(self) -> dict[str, Any]:
        """Return what is kept: paths differ between machines, the verdict does not."""
        record = asdict(self) | {"passed": self.passed}
        return {name: value for name, value in record.items() if name not in {"docs", "results"}}
