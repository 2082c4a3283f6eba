from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import decoding
from benchmarks.decoding import Record, asked_about, drawn, large_trie, recommender, t5
from benchmarks.decoding_peer import Asked, agreement
from benchmarks.record import Row
from ml.artifacts import read_json
from ml.histories import Histories
from ml.snapshot import Catalogue

TINY = {"d_model": 8, "d_kv": 4, "num_heads": 2, "d_ff": 8, "num_layers": 1, "num_decoder_layers": 1}


def snapshot(_: Path) -> Any:
    codes = np.array(list(itertools.product(range(3), range(3), range(2), range(2))), np.int32)[:30]
    codes = np.random.default_rng(0).permutation(codes)
    nothing = np.zeros((30, 0), np.float32)
    catalogue = Catalogue(
        [str(item) for item in range(30)], [""] * 30, [[]] * 30, nothing, codes, (3, 3, 2, 2)
    )
    histories = Histories.of([[(user + step) % 30 for step in range(4 + user % 5)] for user in range(12)])
    return SimpleNamespace(
        histories=histories, catalogue=catalogue, manifest=SimpleNamespace(version="v"), folder=Path()
    )


def test_both_sides_are_measured_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "load_snapshot", snapshot)
    monkeypatch.setattr(decoding, "SIZES", {"tiny": TINY})
    monkeypatch.setattr(decoding, "peak", lambda precision: 0.5)
    told = snapshot(tmp_path)
    asked = Asked(told.catalogue, told.histories, beam=4, k=3)
    trained = tmp_path / "some-tiger" / "hash"
    (trained / "leave_one_out").mkdir(parents=True)
    recommender(t5(10, TINY), asked, "trie").save(trained / "leave_one_out")
    decoding.main(
        tmp_path,
        users=5,
        sample=6,
        beam=4,
        k=3,
        batch=[1, 4],
        rounds=2,
        trained=[trained],
        calls=3,
        items=200,
        threads=1,
        results=tmp_path,
    )
    rows = read_json(tmp_path / "decoding.json")["rows"]
    compared = [row for row in rows if row["peer"] is not None]
    assert ["after the prefix" in row["case"] for row in compared] == [True, False]
    for row in compared:
        assert row["extra"]["agreement"]["same_items"] > 0.9
        assert row["extra"]["agreement"]["largest_score_difference"] < 1e-4
        assert row["extra"]["peer_batch"] in (1, 4)
    assert ["asked_about" in row["extra"] for row in compared] == [True, False]
    assert 0 < compared[0]["extra"]["asked_about"] <= 1
    after_prefix, table = (row["extra"] for row in compared)
    assert 0 < after_prefix["mflops"] < table["mflops"]
    assert [each["ms_at_peak"] for each in (after_prefix, table)] == [
        pytest.approx(each["mflops"] / 0.5, abs=1e-3) for each in (after_prefix, table)
    ]
    weights = {row["case"]: row["extra"]["weights"] for row in rows}
    assert [case for case, of in weights.items() if of == "trained"] == [
        "recipe some-tiger after its training: top 3 of 12 users, extrapolated from 6"
    ]
    assert any("extrapolated from 6" in row["case"] for row in rows)
    share = next(row for row in rows if row["unit"] == "share")
    assert 0 < share["ours"] < 1


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    record = Record("some", 0, tmp_path, {"threads": 3})
    for case in ("a", "b"):
        record.add(Row(case, 1.0, None, "", "ms", "lower", {"calls": 2}))
        rows = read_json(tmp_path / "some.json")["rows"]
        assert (rows[-1]["case"], rows[-1]["extra"]) == (case, {"threads": 3, "calls": 2})
    assert len(rows) == 2
    Record("other", 0, None, {}).add(Row("a", 1.0, None, "", "ms", "lower"))
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


def test_lists_may_differ_in_ties_alone() -> None:
    scores = np.array([[-1.0, -2.0, -2.0, -3.0]], np.float32)
    items = np.array([[4, 7, 9, 2]], np.int32)
    told = agreement((items, scores), (items[:, [0, 2, 1, 3]], scores))
    assert told == {"same_items": 0.5, "largest_score_difference": 0}
    with pytest.raises(SystemExit, match=r"50\.0000% of items"):
        agreement((items, scores), (items[:, [1, 0, 2, 3]], scores))
    with pytest.raises(SystemExit, match=r"scores by 0\.5"):
        agreement((items, scores), (items, scores - np.float32(0.5)))
    with pytest.raises(SystemExit, match=r"scores by 0\.0005"):
        agreement((items, scores), (items, scores - np.float32(5e-4)))


def test_a_large_trie_has_as_many_items_as_asked() -> None:
    assert large_trie(5000, 0).case == "trie of 5,000 items built"


def test_users_are_drawn_without_repetition_and_shortest_first() -> None:
    histories = Histories.of([[user] * (1 + user % 7) for user in range(40)])
    some = drawn(histories, 15, 0)
    assert len({int(row[0]) for row in np.split(some.items, some.offsets[1:-1])}) == 15
    assert (np.diff(some.lengths) >= 0).all()


def test_the_share_that_the_network_is_asked_about_by_hand() -> None:
    """Of four prefixes of one code one has two items below it, the others one."""
    codes = np.array([[0, 0], [0, 1], [1, 0], [2, 0], [3, 0]], np.int32)
    nothing = np.zeros((5, 0), np.float32)
    catalogue = Catalogue([str(item) for item in range(5)], [""] * 5, [[]] * 5, nothing, codes, (4, 2))
    asked = Asked(catalogue, Histories.of([[0, 1], [2]]), beam=10, k=3)
    model = t5(6, TINY)
    for normalise, expected in (("trie", {"asked_about": 0.25}), ("table", {})):
        made = recommender(model, asked, normalise)
        answer = partial(made.recommend, asked.histories, 3, exclude_history=False)
        assert asked_about(made, answer) == expected
