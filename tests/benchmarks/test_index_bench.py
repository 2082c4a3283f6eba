"""The benchmark of the index tells what both sides did."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import index as bench
from ml.artifacts import read_json


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_both_sides_find_the_same(tmp_path: Path) -> None:
    bench.main(sizes=[2000], queries=20, rounds=1, seed=3, results=tmp_path)
    record = read_json(tmp_path / "index-2000.json")
    assert (record["benchmark"], record["seed"]) == ("index-2000", 3)
    rows = {row["case"]: row for row in record["rows"]}
    recalls = {case: row for case, row in rows.items() if case.endswith("recall@100")}
    assert {case.split(", ")[1].split(":")[0].split(" ")[0] for case in recalls} == {
        "Flat",
        "HNSW32",
        "IVF32,PQ32x4fs,RFlat",
    }
    for row in recalls.values():
        assert (row["ratio"], row["better"]) == (1.0, "higher")
        assert row["ours"] > 0.9
    filters = [row for row in record["rows"] if "extra" in row and "ours_is" in row["extra"]]
    assert {row["extra"]["ours_is"] for row in filters} == {"a scan of the allowed"}
    assert all(row["extra"]["recall"] == 1.0 for row in filters)
    assert all(row["ratio"] == round(row["ours"] / row["peer"], 4) for row in record["rows"])
