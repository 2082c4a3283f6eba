"""Great Expectations at the borders: tables are held against what the next stage believes of them."""

from __future__ import annotations

from orchestration.quality.suites import MART_SUITES, Suite, events_suite, items_suite
from orchestration.quality.validate import Failure, QualityError, QualityReport, validate

__all__ = [
    "MART_SUITES",
    "Failure",
    "QualityError",
    "QualityReport",
    "Suite",
    "events_suite",
    "items_suite",
    "validate",
]
