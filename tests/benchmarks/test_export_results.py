from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.export_results import export
from ml.artifacts import ArtifactError, Manifest, read_json, set_current, write_json, write_manifest
from ml.evaluation.evaluate import Evaluation
from ml.evaluation.metrics import accuracy
from ml.evaluation.results import Result, write_result
from orchestration.settings import Settings

RANKS = np.array([1, 0, 11, 0], np.int32)


def home_with_results(home: Path) -> Settings:
    folder = home / "models" / "transitions" / "abc"
    write_manifest(folder, Manifest(kind="training", version="abc"))
    set_current(folder.parent, "abc")
    for protocol in ("leave_one_out", "temporal"):
        test, best = (
            Evaluation(np.arange(4, dtype=np.int32), ranks, {}, accuracy(ranks, 50), {}, 50)
            for ranks in (RANKS, np.ones(4, np.int32))
        )
        made = {"data_hash": "d", "recipe_hash": "r", "seconds": 1.0}
        write_result(folder, Result(protocol, "transitions", 3, True, test, best, {}, made))
    write_json(home / "summary.json", {"source": "shop", "recommenders": {"transitions": {}}})
    gate = {"name": "beats_baseline", "recipe": "sasrec", "passed": False, "reason": "within luck"}
    write_json(home / "evaluation" / "champion.json", {"recipe": "transitions", "gates": [gate]})
    return Settings(home=home)


def test_leaderboard_files_hold_test_numbers_with_provenance(tmp_path: Path) -> None:
    written = export(home_with_results(tmp_path / "home"), tmp_path / "results")
    names = [path.relative_to(tmp_path / "results").as_posix() for path in written]
    assert names == [
        "demo/shop.json",
        "leaderboard/demo-shop/transitions-seed3.json",
        "leaderboard/demo-shop/transitions-seed3-temporal.json",
    ]
    row = read_json(written[1])
    assert row["metrics"]["ndcg@10"] == 0.25
    assert row["validation"] == {"ndcg@10": 1.0, "recall@10": 1.0}
    assert row["provenance"]["data_hash"] == "d"
    assert read_json(written[0])["gates"][0]["reason"] == "within luck"
    assert read_json(written[0])["machine"]["cores"] >= 1


def test_home_without_demo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"summary.json does not exist"):
        export(Settings(home=tmp_path), tmp_path / "results")
