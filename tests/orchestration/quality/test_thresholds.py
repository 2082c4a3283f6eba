"""Thresholds: what a file of one's own may say, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.quality import QualityError, ThresholdError, events_suite, load_thresholds
from orchestration.quality.checks import Checker
from orchestration.quality.trailing import event_rules


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_own_file_says_only_what_differs(tmp_path: Path) -> None:
    default = load_thresholds()
    found = load_thresholds(
        own(tmp_path, "events: {rows: {at_least: 0.9}, drift: {hour: {by: js, max: 0.3}}}")
    )
    assert (found.events.rows.at_least, found.events.rows.at_most) == (0.9, default.events.rows.at_most)
    assert (found.events.drift.hour.by, found.events.drift.hour.max) == ("js", 0.3)
    assert found.events.drift.hour.deviations == default.events.drift.hour.deviations
    assert found.features == default.features
    assert load_thresholds(own(tmp_path, "# nothing\n")) == default


@pytest.mark.parametrize("word", ["off", "'off'", "false"])
def test_off_is_off_however_yaml_reads_it(tmp_path: Path, word: str) -> None:
    found = load_thresholds(own(tmp_path, f"events: {{rows: {{level: {word}}}}}"))
    assert found.events.rows.level == "off"
    assert "rows" not in event_rules(found.events)
    assert "rows by type" in event_rules(found.events)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("event: {}", "event: Extra inputs are not permitted"),
        ("events: {rows: {least: 0.5}}", "events.rows.least: Extra inputs are not permitted"),
        ("events: {drift: {colour: {level: off, by: psi, max: 1}}}", "events.drift.colour: Extra inputs"),
        ("events: {rows: {level: fatal}}", "events.rows.level: Input should be"),
        ("events: {rows: {at_least: 0}}", "events.rows.at_least: Input should be greater than 0"),
        ("references: {orphan_events: {max: 2}}", "references.orphan_events.max: Input should be less"),
        ("events: [1", "cannot be read"),
        ("- a\n- b", "must hold keys"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = own(tmp_path, text)
    with pytest.raises(ThresholdError) as caught:
        load_thresholds(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ThresholdError, match=r"none\.yaml cannot be read"):
        load_thresholds(tmp_path / "none.yaml")


def test_contract_rules_change_their_level_by_their_words(tmp_path: Path) -> None:
    rules = {
        rule.says: rule.severity for rule in events_suite().at_levels({"position is at least 0": "off"}).rules
    }
    assert "position is at least 0" not in rules
    assert rules["value is at least 0"] == "warning"
    harder = events_suite().at_levels({"value is at least 0": "error"})
    assert {rule.says: rule.severity for rule in harder.rules}["value is at least 0"] == "error"
    assert harder.version != events_suite().version

    stranger = load_thresholds(own(tmp_path, "contract: {items: {'no such rule': warning}}"))
    with pytest.raises(QualityError, match="items has no rule 'no such rule'"):
        Checker(tmp_path, stranger).items(tmp_path)
