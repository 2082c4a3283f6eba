"""Great Expectations at the borders: tables are held against what the next stage believes of them."""

from __future__ import annotations

from orchestration.quality.failed import failed_count, failed_rows
from orchestration.quality.mart_suites import MART_SUITES
from orchestration.quality.report import Failure, QualityError, QualityReport
from orchestration.quality.rules import Rule, Suite
from orchestration.quality.suites import events_suite, items_suite
from orchestration.quality.thresholds import ThresholdError, Thresholds, load_thresholds
from orchestration.quality.validate import validate

__all__ = [
    "MART_SUITES",
    "Failure",
    "QualityError",
    "QualityReport",
    "Rule",
    "Suite",
    "ThresholdError",
    "Thresholds",
    "events_suite",
    "failed_count",
    "failed_rows",
    "items_suite",
    "load_thresholds",
    "validate",
]
