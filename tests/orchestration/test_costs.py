from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml.artifacts import read_json, write_json
from ml.evaluation.gates import Policy
from ml.recipes import load_recipe
from ml.registry import Registry
from orchestration import costs, models
from orchestration.costs import costs_of, policy_of, uses_semantic_ids
from orchestration.settings import Settings
from tests.orchestration.test_index_bindings import settings  # noqa: F401 - a fixture


def test_numbers_come_from_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESSERA_HOME", raising=False)
    assert policy_of(Settings(home=tmp_path)) == Policy()
    for name, value in {
        "MARGIN": "0.01",
        "SLICE_MARGIN": "0.2",
        "SLICE_QUERIES": "9",
        "LATENCY_MS": "7",
        "SIZE_MB": "8",
        "CHURN": "0.5",
    }.items():
        monkeypatch.setenv(f"TESSERA_GATE_{name}", value)
    assert policy_of(Settings(home=tmp_path)) == Policy(0.01, 0.2, 9, 7, 8, 0.5)


@pytest.mark.parametrize(
    ("recipe", "uses"),
    [
        ("tiger", True),
        ("lc-rec", True),
        ("h2rec", True),
        ("ccfrec", True),
        ("sasrec", False),
        ("transitions", False),
    ],
)
def test_recipes_that_use_ids_are_known(recipe: str, uses: bool) -> None:
    assert uses_semantic_ids(load_recipe(recipe).recommender) is uses


def test_cost_is_measured_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    first, second = (settings.models / name for name in ("first", "second"))
    snapshots = sorted(settings.snapshots.glob("[!.]*"))
    for folder in (first, second):
        (folder / "temporal").mkdir()
        for path in [path for path in folder.iterdir() if path.is_file()]:
            path.rename(folder / "temporal" / path.name)
    asked = {"first": first, "second": second}
    made = costs_of(settings, asked, snapshots[0], served=None)
    assert made["first"].latency_ms > 0
    assert made["first"].size_mb == pytest.approx(
        sum(path.stat().st_size for path in (first / "temporal").iterdir()) / 1e6
    )
    assert (made["first"].uses_ids, made["first"].churn) == (False, None)
    monkeypatch.setattr(costs, "latency_ms", lambda *_: 1e9)
    assert costs_of(settings, asked, snapshots[0], served=None) == made
    # The IDs of the live champion's snapshot are those that churn is measured against.
    write_json(first / "cost.json", read_json(first / "cost.json") | {"uses_ids": True})
    moved = costs_of(settings, asked, snapshots[0], f"snapshots/{snapshots[1].name}")["first"].churn
    assert moved is not None
    assert 0 < moved <= 1
    same = costs_of(settings, asked, snapshots[0], f"snapshots/{snapshots[0].name}")
    assert (same["first"].churn, same["second"].churn) == (0, None)
    for gone, why in (
        (None, "no champion is live"),
        ("snapshots/x", "snapshots/x of the live champion is gone"),
    ):
        found = costs_of(settings, asked, snapshots[0], gone)
        assert (found["first"].churn, found["first"].no_churn) == (None, why)
        assert found["second"].no_churn == ""
    monkeypatch.setattr(costs, "changed_ids", lambda *_: None)
    served = f"snapshots/{snapshots[1].name}"
    found = costs_of(settings, asked, snapshots[0], served)
    assert found["first"].no_churn == f"no item in common with {served} of the live champion"


@pytest.mark.parametrize("promoted", [True, False])
def test_churn_is_measured_against_what_is_served_and_not_against_the_last_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promoted: bool
) -> None:
    """A promotion that failed half-way has written its decision; the registry may be a new one."""
    home = Settings(home=tmp_path)
    write_json(tmp_path / "champion.json", {"snapshot": "snapshots/old"})
    models.write_decision(home, {"snapshot": "snapshots/new"})
    if promoted:
        registry = Registry(home.mlflow)
        registry.promote(registry.register(tmp_path / "model", {}, {}, {"recipe": "tiger"}).number)

    def costs_of(_: Settings, __: Any, snapshot: Path, served: str | None) -> None:
        raise ValueError(f"{snapshot.name} against {served}")

    monkeypatch.setattr(models, "costs_of", costs_of)
    monkeypatch.setattr(models, "_candidate", lambda *_: tmp_path)
    monkeypatch.setattr(models, "read_result", lambda *_: None)
    monkeypatch.setattr(models, "current", lambda _: home.snapshots / "new")
    with pytest.raises(ValueError, match=r"^new against snapshots/old$"):
        models.decide(home)
