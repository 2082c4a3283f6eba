from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.artifacts import ArtifactError, read_json, write_json
from ml.evaluation.evaluate import INVALID, Evaluation
from ml.evaluation.leaderboard import file_name, left_out, read_runs, run_row, summarise
from ml.evaluation.metrics import accuracy, ndcg
from ml.evaluation.results import Result, write_result
from ml.evaluation.significance import paired_bootstrap

N = 400
USERS = np.arange(N, dtype=np.int32)


def ranks(seed: int, hits: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(N) < hits, rng.integers(1, 51, N), 0).astype(np.int32)


def evaluation(found: np.ndarray) -> Evaluation:
    checks = {"queries": N, **dict.fromkeys(INVALID, 0)}
    slices = {"item=head": USERS % 2 == 0, "item=cold": USERS < 0}
    metrics = accuracy(found, 50)
    return Evaluation(USERS, found, slices, metrics, checks, 50, {k: v / 2 for k, v in metrics.items()})


def save(
    folder: Path, recipe: str, seed: int, found: np.ndarray, protocol: str = "leave_one_out", **made: str
) -> dict[str, Any]:
    told = {"data_hash": "d", "recipe_hash": recipe, "date": f"2026-01-0{seed + 1}", **made}
    best = np.ones(N, np.int32)
    fit = {"epochs": 3, "losses": [1.0, 0.5]}
    seen = Result(protocol, recipe, seed, False, evaluation(found), evaluation(best), fit, told)
    write_result(folder / "model", seen)
    row = run_row(folder / "model", protocol, "toy", {"published": {"ndcg@10": 0.5}})
    write_json(folder / "runs" / file_name(recipe, seed, protocol), row)
    return row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path


def test_a_run_is_kept_whole_in_one_small_file(folder: Path) -> None:
    found = ranks(0, 0.3)
    row = save(folder, "toy", 0, found)
    path = folder / "runs" / "toy-seed0.json"
    assert path.stat().st_size < 10_000
    assert row["metrics"]["ndcg@10"] == pytest.approx(ndcg(found, 10).mean())
    # Validation was perfect, and stands under its own key only.
    assert row["validation"] == {"ndcg@10": 1.0, "recall@10": 1.0}
    assert row["metrics"]["recall@10"] < 0.2
    assert row["slices"]["item=head"]["queries"] == N // 2
    assert "item=cold" not in row["slices"]
    assert row["fit"] == {"epochs": 3}
    assert row["exclude_history"] is True
    (run,) = read_runs(folder / "runs")
    assert run.told == row
    assert run.ranks is not None
    assert run.ranks.tolist() == found.tolist()


def test_mean_deviation_and_interval_over_seeds(folder: Path) -> None:
    ours, theirs = [ranks(seed, 0.4) for seed in (1, 2, 3)], ranks(9, 0.1)
    for seed, found in enumerate(ours):
        save(folder, "model", seed, found)
    save(folder, "transitions", 0, theirs)
    best, base = summarise(read_runs(folder / "runs"), "leave_one_out")
    assert [best.recipe, base.recipe] == ["model", "transitions"]
    values = [float(ndcg(found, 10).mean()) for found in ours]
    assert best.mean["ndcg@10"] == pytest.approx(np.mean(values))
    assert best.deviation["ndcg@10"] == pytest.approx(np.std(values, ddof=1))
    assert best.expected["ndcg@10"] == pytest.approx(np.mean(values) / 2)
    assert math.isnan(base.deviation["ndcg@10"])
    assert base.difference is None
    assert best.difference is not None
    assert best.difference.mean == pytest.approx(np.mean(values) - ndcg(theirs, 10).mean())
    expected = paired_bootstrap(np.stack([ndcg(found, 10) for found in ours], axis=1), ndcg(theirs, 10))
    assert best.difference == expected
    assert expected.low > 0
    assert summarise(read_runs(folder / "runs"), "temporal") == []


def test_seeds_are_no_further_queries() -> None:
    """Three copies of a run are worth one; seeds that differ widen the interval."""
    rng = np.random.default_rng(0)
    a, b = rng.random(300), rng.random(300)
    one = paired_bootstrap(a, b, samples=4000)
    copies = paired_bootstrap(np.stack([a] * 3, axis=1), b, samples=4000)
    assert copies.mean == pytest.approx(one.mean)
    assert copies.high - copies.low == pytest.approx(one.high - one.low, rel=0.1)
    apart = paired_bootstrap(np.stack([a - 0.3, a, a + 0.3], axis=1), b, samples=4000)
    assert apart.high - apart.low > 2 * (one.high - one.low)
    # Drawn one by one: queries for all runs at once, runs for each side.
    runs = np.stack([a, a**2], axis=1)
    told = paired_bootstrap(runs, b, seed=1, samples=4000)
    means = []
    for _ in range(4000):
        rows = rng.integers(0, 300, 300)
        means.append(runs[rows][:, rng.integers(0, 2, 2)].mean() - b[rows].mean())
    assert told.low == pytest.approx(np.quantile(means, 0.025), abs=0.01)
    assert told.high == pytest.approx(np.quantile(means, 0.975), abs=0.01)


def test_runs_of_other_parameters_or_data_are_not_mixed(folder: Path) -> None:
    save(folder, "model", 0, ranks(1, 0.9))
    save(folder, "model", 1, ranks(2, 0.2), recipe_hash="later")
    save(folder, "transitions", 0, ranks(3, 0.1))
    runs = read_runs(folder / "runs")
    best = summarise(runs, "leave_one_out")[0]
    assert [run.told["seed"] for run in best.runs] == [1]
    assert left_out(runs) == ["model-seed0.json"]


def test_only_answers_to_the_same_questions_are_compared(folder: Path) -> None:
    save(folder, "model", 0, ranks(1, 0.9))
    row = save(folder, "transitions", 0, ranks(3, 0.1))
    write_json(folder / "runs" / "transitions-seed0.json", row | {"queries": "others"})
    assert summarise(read_runs(folder / "runs"), "leave_one_out")[0].difference is None


def test_a_file_that_was_touched_up_is_refused(folder: Path) -> None:
    row = save(folder, "toy", 0, ranks(0, 0.3))
    path = folder / "runs" / "toy-seed0.json"
    write_json(path, row | {"metrics": row["metrics"] | {"ndcg@10": 0.9}})
    with pytest.raises(ArtifactError, match="states an ndcg@10 that its ranks do not give"):
        read_runs(folder / "runs")
    write_json(path, row | {"seed": 4})
    with pytest.raises(ArtifactError, match="holds toy, seed 4"):
        read_runs(folder / "runs")
    write_json(path, {"recipe": "toy"})
    with pytest.raises(ArtifactError, match="is no run: KeyError"):
        read_runs(folder / "runs")
    assert read_json(path) == {"recipe": "toy"}
