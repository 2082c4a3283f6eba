from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.artifacts import Manifest
from ml.evaluation.audit import Audit, audit
from ml.evaluation.gates import audited
from ml.histories import Histories
from ml.snapshot import Catalogue, Snapshot

N_ITEMS = 40
LENGTH = 14
DAY_US = 86_400_000_000


def snapshot(rows: list[list[int]], text: np.ndarray | None = None, step_us: int = 1) -> Snapshot:
    histories = Histories.of(rows)
    text = np.zeros((N_ITEMS, 0), np.float32) if text is None else text.astype(np.float32)
    empty = Catalogue(
        [str(i) for i in range(N_ITEMS)],
        [""] * N_ITEMS,
        [[]] * N_ITEMS,
        np.zeros((N_ITEMS, 0), np.float32),
        np.zeros((N_ITEMS, 0), np.int32),
        (),
        text=text,
    )
    timed = replace(histories, times=histories.times * step_us)
    users = [str(u) for u in range(len(rows))]
    return Snapshot(Path(), users, timed, ["view"], empty, Manifest(kind="snapshot", version="v1"))


def ring(n_users: int = 150) -> list[list[int]]:
    """Say all by transitions: every item is followed by the next."""
    rng = np.random.default_rng(0)
    return [
        [int((first + step) % N_ITEMS) for step in range(8)] for first in rng.integers(N_ITEMS, size=n_users)
    ]


def shuffled(n_users: int = 150) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.permutation(N_ITEMS)[:LENGTH].tolist() for _ in range(n_users)]


def five_back(n_users: int = 300) -> list[list[int]]:
    """Follow a fixed permutation from the item five back; the first five are drawn."""
    rng = np.random.default_rng(2)
    after = np.roll(np.arange(N_ITEMS), -1)
    rows = []
    for _ in range(n_users):
        row = rng.permutation(np.arange(0, N_ITEMS, 4))[:5].tolist()
        while len(row) < LENGTH:
            row.append(int(after[row[-5]]))
        rows.append(row)
    return rows


def test_a_ring_is_local() -> None:
    found = audit(snapshot(ring()))
    assert found.labels == ["local"]
    assert found.branching["effective_successors"] == pytest.approx(1.0)
    assert found.branching["shuffled"] > 10
    assert found.reach["one_hop"] == found.reach["two_hops"] == 1.0
    # One item follows, and one follows that.
    assert found.reach["one_hop_of_catalogue"] == pytest.approx(1 / N_ITEMS)
    assert found.reach["two_hops_of_catalogue"] == pytest.approx(2 / N_ITEMS)
    assert found.depth["1"] == pytest.approx(1.0)
    assert found.heuristic["test"]["ndcg@10"] == pytest.approx(1.0)
    assert "last two items say 100%" in found.verdict


def test_shuffled_histories_say_nothing() -> None:
    found = audit(snapshot(shuffled()))
    assert found.labels == []
    assert found.branching["ratio"] == pytest.approx(1.0, abs=0.03)
    assert "no more than popularity" in found.verdict


def test_what_lies_five_back_is_long() -> None:
    found = audit(snapshot(five_back()))
    assert found.labels == ["long"]
    assert found.depth["5"] > found.depth["2"] + 0.2
    assert found.depth["all"] > 2 * found.depth["1"]
    assert "only" in found.verdict


def test_alike_neighbours_are_smooth() -> None:
    """Text that follows the ring is smooth, the same text dealt out anew is not; neither changes the counts."""
    angle = np.arange(N_ITEMS) * 2 * np.pi / N_ITEMS
    text = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    along = audit(snapshot(ring(), text))
    assert along.labels == ["local", "smooth"]
    assert along.smoothness is not None
    assert along.smoothness["consecutive"] == pytest.approx(np.cos(2 * np.pi / N_ITEMS), abs=1e-5)
    assert along.smoothness["auc"] > 0.9
    dealt = audit(snapshot(ring(), text[np.random.default_rng(3).permutation(N_ITEMS)]))
    assert dealt.smoothness is not None
    assert dealt.smoothness["auc"] < 0.6
    assert "smooth" not in dealt.labels
    assert dealt.branching == along.branching


def test_days() -> None:
    assert audit(snapshot(ring(20))).same_day is None
    half = audit(snapshot(ring(20), step_us=DAY_US // 2)).same_day
    # Of events half a day apart, places 0-1, 2-3 and 4-5 share a day; six are training, and the target is place 7.
    assert half == {"training": pytest.approx(3 / 5), "targets": 1.0}


def test_the_same_again_and_through_json() -> None:
    found = audit(snapshot(five_back(60)), valid_users=30, test_users=20)
    assert found.queries == {"validation": 30, "test": 20}
    assert found == audit(snapshot(five_back(60)), valid_users=30, test_users=20)
    assert Audit.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert {row["measure"] for row in found.rows()} >= {"effective next items", "reading the last 2"}


def test_nobody_with_three_events() -> None:
    found = audit(snapshot([[1, 2], [3], []]))
    assert found.labels == []
    assert "nothing could be asked" in found.verdict
    assert found.reach["two_hops"] == 0


def test_tuning_does_not_see_the_test() -> None:
    """Another test event changes the test's numbers, and nothing that was chosen."""
    rows = five_back(60)
    other = [[*row[:-1], (row[-1] + 7) % N_ITEMS] for row in rows]
    first, second = (audit(snapshot(each)) for each in (rows, other))
    assert first.heuristic["params"] == second.heuristic["params"]
    assert first.heuristic["validation"] == second.heuristic["validation"]
    assert first.depth == second.depth
    assert first.heuristic["test"] != second.heuristic["test"]


def test_gate() -> None:
    found = audit(snapshot(ring(20)))
    assert audited("sasrec", "v1", found).passed
    for missing in (None, replace(found, data_hash="v0")):
        gate = audited("sasrec", "v1", missing)
        assert (gate.name, gate.passed) == ("audited", False)
        assert gate.reason.startswith("snapshot v1 has no audit")
        assert "\n" not in gate.reason
