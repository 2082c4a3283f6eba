"""The checks of every border, from a lake or marts on disk to verdicts. No Dagster here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml.artifacts import MANIFEST, read_json
from orchestration.quality.failed import MAX_FAILED_ROWS, keep_failed_rows
from orchestration.quality.history import check_measures
from orchestration.quality.mart_suites import MART_KEYS, MART_SUITES, in_dimension
from orchestration.quality.parts import batch_of, mart_parts, read_passed
from orchestration.quality.profiles import Engine, Profile, keep_profile, read_profile
from orchestration.quality.profiling import event_profiles, item_profile, part_profiles
from orchestration.quality.report import QualityError, QualityReport
from orchestration.quality.rules import Rule, Suite
from orchestration.quality.suites import events_suite, items_suite
from orchestration.quality.thresholds import Share, Thresholds
from orchestration.quality.trailing import (
    compare,
    event_rules,
    feature_rules,
    item_rules,
    trailing,
)
from orchestration.quality.validate import validate

_DIMENSIONS = {"user_id": "dim_users", "item_id": "dim_items"}


@dataclass(frozen=True)
class Checker:
    """Everything that checks need to know.

    Parameters
    ----------
    docs
        Folder of the data docs, which also keeps profiles, results and failing rows.
    thresholds
        What may pass.
    engine
        What DuckDB may use.
    max_failed_rows
        Failing rows kept for a rule.
    """

    docs: Path
    thresholds: Thresholds
    engine: Engine = field(default_factory=Engine)
    max_failed_rows: int = MAX_FAILED_ROWS

    def events(self, lake: Path, days: Sequence[str]) -> QualityReport | None:
        """Hold the rows of lake days against the events suite, all in one verdict; None where there are none."""
        days = [day for day in sorted(days) if _event_file(lake, day).is_file()]
        if not days:
            return None
        suite = self._leveled(events_suite())
        return validate(
            [_event_file(lake, day) for day in days],
            suite,
            self.docs,
            batch_of(days),
            max_failed_rows=self.max_failed_rows,
        )

    def events_history(self, lake: Path, days: Sequence[str]) -> QualityReport | None:
        """Hold lake days against the weeks before each of them; None where there are no days."""
        limits, rules = self.thresholds.events, event_rules(self.thresholds.events)
        days = [day for day in sorted(days) if _event_file(lake, day).is_file()]
        if not days:
            return None
        wanted = {
            (date.fromisoformat(day) - timedelta(days=back)).isoformat()
            for day in days
            for back in range(limits.window.days + 1)
        }
        profiles = event_profiles(lake, self.docs / "profiles" / "events", sorted(wanted), self.engine)
        measures = [
            measure
            for day in days
            for measure in compare(
                day, profiles[day], trailing(day, profiles, limits.window), limits.window, rules
            )
        ]
        return check_measures(
            "events_volume_and_drift", measures, rules, self.docs, batch_of(days), self.max_failed_rows
        )

    def items(self, lake: Path) -> QualityReport:
        """Hold the catalogue against the items suite."""
        suite = self._leveled(items_suite())
        return validate(_item_file(lake), suite, self.docs, max_failed_rows=self.max_failed_rows)

    def items_history(self, lake: Path) -> QualityReport:
        """Hold the catalogue against the version before it; versions are numbered as they were first seen."""
        limits, rules = self.thresholds.items, item_rules(self.thresholds.items)
        content = read_json(_item_file(lake).parent / MANIFEST)["content_hash"]
        kept = self.docs / "profiles" / "items"
        names = sorted(path.stem for path in kept.glob("*.json"))
        newest = read_profile(kept / f"{names[-1]}.json", content) if names else None
        if newest is None:
            newest = item_profile(_item_file(lake), content, self.engine)
            names.append(f"{int(names[-1]) + 1 if names else 1:05d}")
            keep_profile(kept / f"{names[-1]}.json", newest)
        past = {}
        for name in names[-1 - limits.window.days : -1]:
            profile = _any_content(kept / f"{name}.json")
            if profile is not None and profile.total:
                past[name] = profile
        measures = compare(names[-1], newest, past, limits.window, rules)
        return check_measures(
            "items_volume_and_drift", measures, rules, self.docs, names[-1], self.max_failed_rows
        )

    def mart(self, marts: Path, name: str) -> QualityReport | None:
        """Hold those parts of a feature mart against its suite that have not passed it as they are.

        None where all have.

        Raises
        ------
        QualityError
            If there is no such mart.
        """
        suite, level = MART_SUITES[name], self.thresholds.references.feature_entities.level
        if level != "off":
            key = MART_KEYS[name]
            dimension = _DIMENSIONS[key]
            suite = in_dimension(suite, key, dimension, lambda: _ids(marts, dimension, key), level)
        return self._changed_parts(marts, name, self._leveled(suite))

    def feature_history(self, marts: Path, name: str) -> QualityReport | None:
        """Hold the newest day of a feature mart against the weeks before it; None where the mart is empty."""
        limits = self.thresholds.features
        parts = mart_parts(marts, name)
        if not parts:
            raise QualityError(f"{marts / name} holds no part")
        wanted = _reaching_back(list(parts), limits.window.days)
        profiles = part_profiles(
            {part: parts[part].path for part in wanted},
            {part: parts[part].content for part in wanted},
            self.docs / "profiles" / name,
            self.engine,
        )
        if not profiles:
            return None
        day = max(profiles)
        rules = feature_rules(limits, list(profiles[day].histograms))
        measures = compare(day, profiles[day], trailing(day, profiles, limits.window), limits.window, rules)
        return check_measures(
            f"{name}_volume_and_drift", measures, rules, self.docs, day, self.max_failed_rows
        )

    def references(self, marts: Path) -> list[QualityReport]:
        """Look for events of items that the catalogue does not have, and for items that no event names.

        Nothing is said of a source without a catalogue, and of events that have passed as they are.
        """
        limits = self.thresholds.references
        known = _ids(marts, "dim_items", "item_id", "has_metadata")
        if not len(known):
            return []
        orphans = _event_references(known, (limits.orphan_events, limits.mostly_orphans))
        found = [self._changed_parts(marts, "fct_events", self._leveled(orphans))]
        if limits.unseen_items.level != "off":
            paths = [part.path for part in mart_parts(marts, "dim_items").values()]
            suite = self._leveled(_catalogue_use(limits.unseen_items))
            found.append(validate(paths, suite, self.docs, max_failed_rows=self.max_failed_rows))
        return [report for report in found if report is not None]

    def _changed_parts(self, marts: Path, name: str, suite: Suite) -> QualityReport | None:
        parts = mart_parts(marts, name)
        if not parts:
            raise QualityError(f"{marts / name} holds no part")
        before = read_passed(self.docs / "passed" / f"{suite.name}.json", suite.version)
        changed = before.changed(parts)
        if not changed:
            return None
        batch = batch_of(list(changed))
        paths = [part.path for part in changed.values()]
        report = validate(paths, suite, self.docs, batch, max_failed_rows=self.max_failed_rows)
        before.remember(parts, changed, batch, report.passed)
        if report.passed:
            # What failed before was checked again with this, under whatever name.
            for failed in {*before.failing} - {batch}:
                keep_failed_rows(self.docs, suite.name, failed, {})
        return report

    def _leveled(self, suite: Suite) -> Suite:
        try:
            return suite.at_levels(self.thresholds.contract.get(suite.name, {}))
        except KeyError as error:
            raise QualityError(f"thresholds: contract: {error.args[0]}") from None


def _event_references(known: pa.Array, shares: Sequence[Share]) -> Suite:
    rules = tuple(
        Rule(
            says=f"the catalogue has the item of {1 - share.max:.0%} of events",
            expectation="ExpectColumnValuesToBeInSet",
            arguments={"column": "in_catalogue", "value_set": [True], "mostly": 1 - share.max},
            columns=("in_catalogue",),
            severity="error" if share.level == "error" else "warning",
            why="items without a title or price are recommended blindly: the catalogue lags behind, or ids differ",
        )
        for share in shares
        if share.level != "off"
    )

    def derive(table: pa.Table) -> pa.Table:
        items = table["item_id"]
        found = pc.if_else(pc.is_valid(items), pc.is_in(items, value_set=known), pa.scalar(None, pa.bool_()))
        return table.append_column("in_catalogue", found)

    return Suite("event_references", ("item_id",), rules, derive, {"in_catalogue": ("item_id",)})


def _catalogue_use(limit: Share) -> Suite:
    rule = Rule(
        says=f"{1 - limit.max:.0%} of the catalogue has an event",
        expectation="ExpectColumnValuesToBeInSet",
        arguments={"column": "seen", "value_set": [True], "mostly": 1 - limit.max},
        columns=("seen",),
        severity="error" if limit.level == "error" else "warning",
        why="a catalogue that nobody meets is that of another shop, or has other ids",
    )

    def derive(table: pa.Table) -> pa.Table:
        seen = pc.is_valid(table["first_event_ts"])
        return table.append_column(
            "seen", pc.if_else(table["has_metadata"], seen, pa.scalar(None, pa.bool_()))
        )

    needed = ("has_metadata", "first_event_ts")
    return Suite("catalogue_use", needed, (rule,), derive, {"seen": needed})


def _ids(marts: Path, dimension: str, key: str, flag: str | None = None) -> pa.Array:
    """Return the keys of a dimension, those with a flag where one is named."""
    paths = [part.path for part in mart_parts(marts, dimension).values()]
    if not paths:
        raise QualityError(f"{marts / dimension} holds no part")
    tables = [pq.read_table(path, columns=[key, *([flag] if flag else [])]) for path in paths]
    table = pa.concat_tables(tables)
    chunked = table.filter(table[flag])[key] if flag else table[key]
    return chunked.combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)


def _reaching_back(parts: list[str], days: int) -> list[str]:
    """Return the parts of the days before the newest part, and the very first one, which tells the warm-up."""
    first = (date.fromisoformat(parts[-1]) - timedelta(days=days)).isoformat()
    near = [part for part, after in zip(parts, [*parts[1:], "9999"], strict=True) if after > first]
    return sorted({parts[0], *near})


def _any_content(path: Path) -> Profile | None:
    try:
        return read_profile(path, read_json(path)["content"])
    except (OSError, KeyError, ValueError):
        return None


def _event_file(lake: Path, day: str) -> Path:
    return lake / "events" / f"day={day}" / "events.parquet"


def _item_file(lake: Path) -> Path:
    return lake / "items" / "items.parquet"
