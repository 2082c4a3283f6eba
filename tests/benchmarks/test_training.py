from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import training
from benchmarks.peers import run_tessera
from benchmarks.peers.side import Task
from benchmarks.training import (
    CASES,
    PEERS,
    SETTING,
    Lists,
    Outcome,
    compare,
    judge,
    sections,
    setting,
    until_as_good,
)
from ml.evaluation.splits import Split, split
from ml.histories import Histories
from ml.recommenders import build


def parts() -> Split:
    return split(Histories.of([[0, 1, 2, 3], [3, 2, 1], [1, 2, 0, 3, 4, 5]]), "leave_one_out")


def test_every_case_has_a_peer_with_pins_and_says_where_it_differs() -> None:
    needed = sections(PEERS.read_text(encoding="utf-8"))
    assert set(needed) == {case.peer for case in CASES}
    for requirements in needed.values():
        assert "torch==" in requirements
        assert "[rec" not in requirements.replace("[torch]", "")
    assert all(case.mismatch for case in CASES)
    assert len({case.title + case.name for case in CASES}) == len(CASES)


def test_sections_end_where_the_next_begins() -> None:
    assert sections("# about\n\n[a]\nx==1\n[b]\ny[z]==2\n") == {"a": "x==1\n", "b": "y[z]==2\n"}


def test_both_sides_count_a_batch_alike() -> None:
    train = Histories.of([[0, 1, 2], [1], [0, 1, 2, 3, 4]])
    tokens = {case.whole_histories: setting(case, train, 1, 0)["batch_tokens"] for case in CASES}
    # Two histories have targets, three of them in the mean.
    assert tokens == {True: SETTING["batch"] * 3, False: SETTING["batch"]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.peer}-{case.loss}")
def test_ours_can_be_built_as_every_case_asks(case: Any) -> None:
    params = build(run_tessera.recommender(setting(case, parts().train, 7, 0))).params
    assert (params.d, params.blocks, params.max_length, params.epochs) == (64, 2, 50, 7)
    assert params.loss.kind == case.loss
    assert (params.decay, params.warmup, params.weight_decay) == ("constant", 0, 0)


def test_lists_of_a_peer_are_judged_as_ours_are() -> None:
    asked = parts()
    # Targets are 3, 1 and 5: first, second, and missed by a list that repeats the history.
    items = np.array([[3, 4], [0, 1], [0, 4]], np.int32)
    found = judge(Lists(items, np.array([[2, 1]] * 3, np.float32)), asked, 6)
    assert found.ranks.tolist() == [1, 2, 0]
    assert found.checks["history_items"] == 2
    with pytest.raises(ValueError, match="3 lists for 2 histories"):
        judge(
            Lists(items, items.astype(np.float32)),
            Split("leave_one_out", asked.train, asked.valid, asked.test.take(np.arange(2))),
            6,
        )


def test_rows_hold_both_sides_and_where_they_differ() -> None:
    asked = parts()
    told = {"epoch_seconds": [1.0, 3.0], "peak_mb": 300, "score_seconds": 0.5}
    ours = Outcome(told, judge(ten([[3, 5], [1, 0], [5, 3]]), asked, 6))
    slow = told | {"epoch_seconds": [8.0, 12.0], "peak_mb": 900}
    peer = Outcome(slow, judge(ten([[5, 4], [0, 3], [1, 2]]), asked, 6))
    epoch, quality, memory, answers = compare(CASES[0], ours, peer, {"setting": {"epochs": 2}})
    assert (epoch.ours, epoch.peer, epoch.ratio, epoch.better) == (2, 10, 0.2, "lower")
    assert (quality.ours, quality.peer, quality.better) == (1, 0, "higher")
    assert quality.extra["difference"] == 1
    assert (memory.ours, memory.peer) == (300, 900)
    assert answers.ratio == 1
    assert epoch.extra["mismatch"] == list(CASES[0].mismatch)


def test_ours_trains_until_it_is_as_good_as_the_peer() -> None:
    asked = parts()
    bad, good = (judge(ten(rows), asked, 6) for rows in ([[1, 2]] * 3, [[3, 5], [1, 0], [5, 3]]))
    first, peer = Outcome({"epoch_seconds": [1.0, 3.0]}, bad), Outcome({"epoch_seconds": [50.0, 50.0]}, good)

    def longer(epochs: int) -> Outcome:
        return Outcome({"epoch_seconds": [2.0] * epochs}, good if epochs >= 8 else bad)

    row = until_as_good(CASES[0], first, peer, longer)
    assert (row.ours, row.peer, row.ratio) == (16, 100, 0.16)
    assert row.extra["epochs"] == {"ours": 8, "peer": 2}
    assert until_as_good(CASES[0], Outcome({"epoch_seconds": [4.0]}, good), peer, longer).ours == 4
    with pytest.raises(SystemExit, match="stays below the peer's after 32 epochs"):
        until_as_good(CASES[0], first, peer, lambda epochs: first)


def ten(rows: list[list[int]]) -> Lists:
    """Make lists of ten places, of which the last are empty."""
    items, scores = np.full((len(rows), 10), -1, np.int32), np.full((len(rows), 10), -np.inf, np.float32)
    items[:, :2], scores[:, :2] = rows, [2, 1]
    return Lists(items, scores)


def test_a_side_sees_what_the_split_gives(tmp_path: Path) -> None:
    histories = Histories.of([[0, 1, 2, 3], [3, 2, 1]])
    task = Task(histories.offsets, histories.items, 4, {}, tmp_path / "out.npz")
    users, items = task.without_last(2)
    found = split(histories, "leave_one_out")
    assert items.tolist() == found.train.items.tolist()
    assert users.tolist() == found.train.users.tolist()
    assert task.without_last(1)[1].tolist() == found.test.histories.items.tolist()
    assert task.without_last(0)[1].tolist() == histories.items.tolist()


def test_our_side_learns_and_writes_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Everyone walks the same ring of items from another place on.
    rows = [[(start + step) % 12 for step in range(6)] for start in range(12)] * 4
    histories = Histories.of(rows)
    data, out = tmp_path / "histories.npz", tmp_path / "answers.npz"
    np.savez(data, offsets=histories.offsets, items=histories.items, n_items=12)
    found = split(histories, "leave_one_out")
    asked = setting(CASES[1], found.train, 25, 0) | {
        "d": 16,
        "k": 5,
        "batch_tokens": 32,
        "learning_rate": 0.01,
    }
    monkeypatch.setattr(sys, "argv", ["run_tessera", str(data), json.dumps(asked), str(out)])
    run_tessera.main()
    with np.load(out) as arrays:
        told = json.loads(str(arrays["told"]))
        judged = judge(Lists(arrays["items"], arrays["scores"]), found, 12)
    assert len(told["epoch_seconds"]) == 25
    # 48 windows of three targets, ten of them in 32 places.
    assert told["steps"] == 5
    assert told["peak_mb"] > 0
    assert judged.invalid == 0
    assert judged.metrics["ndcg@5"] > 0.95


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(
        training.venv, "create", lambda folder, **_: folder.mkdir(parents=True, exist_ok=True)
    )
    monkeypatch.setattr(training.subprocess, "run", lambda command, **_: made.append(command))
    python = training.environment("peer", "a==1\n", tmp_path)
    assert python == tmp_path / "peer" / "bin" / "python"
    training.environment("peer", "a==1\n", tmp_path)
    assert len(made) == 1
    training.environment("peer", "a==2\n", tmp_path)
    assert len(made) == 2
    assert (tmp_path / "peer" / "requirements.txt").read_text() == "a==2\n"
