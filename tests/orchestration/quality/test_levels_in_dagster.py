"""What is only warned of is seen in Dagster and lets pass; an error stops what comes after."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import lakes
import pyarrow.compute as pc
import pytest

from orchestration.quality_checks import CONTRACT, HISTORY, check_events, check_items, specs
from orchestration.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    lakes.write_lake(tmp_path / "lake", seed=4, days=16, rows=400)
    return Settings()


def run(settings: Settings) -> tuple[dict[str, dg.AssetCheckEvaluation], list[str]]:
    """Check the last day within an asset that another one needs; return the checks and the assets that were made."""

    @dg.asset(check_specs=specs("raw_events"))
    def raw_events() -> dg.MaterializeResult:
        return dg.MaterializeResult(check_results=check_events(settings, [lakes.day_name(15)]))

    @dg.asset(deps=[raw_events])
    def after() -> None:
        pass

    result = dg.materialize([raw_events, after], raise_on_error=False)
    made = [
        event.asset_key.to_user_string()
        for event in result.get_asset_materialization_events()
        if event.asset_key
    ]
    return {check.check_name: check for check in result.get_asset_check_evaluations()}, made


def test_clean_day_passes(settings: Settings) -> None:
    checks, made = run(settings)
    assert {name: check.passed for name, check in checks.items()} == {CONTRACT: True, HISTORY: True}
    assert made == ["raw_events", "after"]


def test_warnings_are_seen_and_let_pass(settings: Settings) -> None:
    lakes.write_day(settings.lake, 15, lakes.events(15, 4, 60))
    checks, made = run(settings)
    assert checks[CONTRACT].passed
    assert not checks[HISTORY].passed
    assert checks[HISTORY].severity == dg.AssetCheckSeverity.WARN
    assert "rows are at least as many as usual" in str(checks[HISTORY].description)
    assert made == ["raw_events", "after"]


def test_errors_stop_what_comes_after(settings: Settings) -> None:
    table = lakes.events(15, 4, 400)
    lakes.write_day(
        settings.lake, 15, lakes.replaced(table, "event_type", pc.utf8_upper(table["event_type"]))
    )
    checks, made = run(settings)
    assert not checks[CONTRACT].passed
    assert checks[CONTRACT].severity == dg.AssetCheckSeverity.ERROR
    assert made == ["raw_events"]
    failing = Path(str(checks[CONTRACT].metadata["failing_rows"].value))
    assert len(list(failing.glob(f"events/{lakes.day_name(15)}/event_type_is_*.parquet"))) == 1


def test_a_warning_becomes_an_error_by_the_users_file(settings: Settings, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("events: {rows: {level: error}}")
    lakes.write_day(settings.lake, 15, lakes.events(15, 4, 60))
    checks, made = run(settings.model_copy(update={"quality_thresholds": own}))
    assert checks[HISTORY].severity == dg.AssetCheckSeverity.ERROR
    assert made == ["raw_events"]


def test_days_that_are_not_there_and_the_first_catalogue(settings: Settings) -> None:
    assert [check.description for check in check_events(settings, ["2031-01-01"])] == ["no rows", "no rows"]
    contract, history = check_items(settings)
    assert contract.passed
    assert history.passed
    assert "5 skipped (rows: not enough history: 0 of 1 days)" in str(history.description)
