from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from vector_samples import write_marts

from ml.artifacts import ArtifactError, read_manifest
from ml.histories import Histories
from ml.vectors.behaviour import (
    Method,
    behaviour_vectors,
    ppmi,
    ppmi_svd,
    transition_counts,
    update_behaviour_vectors,
)
from ml.vectors.fused import load_vectors

METHODS: tuple[Method, ...] = ("ppmi", "als", "sasrec")


@given(
    st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=6),
    st.integers(1, 4),
    st.floats(0.1, 1.0),
    st.randoms(use_true_random=False),
)
def test_counts_equal_plain_loops(rows: list[list[int]], window: int, decay: float, random: Random) -> None:
    histories = Histories.of(rows)
    mask = np.array([random.random() < 0.7 for _ in histories.items], bool)
    expected = np.zeros((6, 6))
    for u in range(len(rows)):
        span = slice(histories.offsets[u], histories.offsets[u + 1])
        kept = histories.items[span][mask[span]]
        for i, left in enumerate(kept):
            for distance in range(1, window + 1):
                if i + distance < len(kept) and kept[i + distance] != left:
                    expected[left, kept[i + distance]] += decay ** (distance - 1)
    counts = transition_counts(histories, mask, 6, window, decay)
    np.testing.assert_allclose(counts.toarray(), expected)


def test_ppmi_by_hand() -> None:
    counts = csr_array(np.array([[0, 3, 0], [0, 0, 1], [0, 0, 0]], float))
    pairs = np.array([[0, 3, 0], [3, 0, 1], [0, 1, 0]], float)
    degree, context = pairs.sum(axis=1), pairs.sum(axis=1) ** 0.75
    context /= context.sum()
    with np.errstate(divide="ignore"):
        expected = np.maximum(np.log(pairs / (degree[:, None] * context)) - np.log(1.7), 0)
    np.testing.assert_allclose(ppmi(counts, shift=1.7, smoothing=0.75).toarray(), expected)
    assert (expected > 0).any()
    assert ((expected == 0) & (pairs > 0)).any()


def test_svd_groups_what_is_seen_together() -> None:
    rng = np.random.default_rng(0)
    groups = [list(range(0, 10)), list(range(10, 20))]
    histories = Histories.of([list(rng.permutation(groups[u % 2])) for u in range(60)])
    counts = transition_counts(histories, np.ones(len(histories.items), bool), 22)
    vectors = ppmi_svd(counts, 4, seed=0)
    assert vectors.shape == (22, 4)
    assert vectors.dtype == np.float32
    assert not vectors[20:].any()
    unit = vectors[:20] / np.linalg.norm(vectors[:20], axis=1, keepdims=True)
    similar = unit @ unit.T
    assert similar[:10, :10].mean() > similar[:10, 10:].mean() + 0.5
    np.testing.assert_array_equal(vectors, ppmi_svd(counts, 4, seed=0))
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(4)]
    assert (peaks > 0).all()
    norms = np.linalg.norm(vectors, axis=0)
    assert (np.diff(norms) <= 1e-5).all()


def test_svd_wider_than_the_data_is_padded() -> None:
    histories = Histories.of([[0, 1], [1, 2], [0, 2]])
    counts = transition_counts(histories, np.ones(6, bool), 3)
    vectors = ppmi_svd(counts, 8, seed=0)
    assert vectors.shape == (3, 8)
    assert not vectors[:, 2:].any()
    assert not ppmi_svd(counts * 0, 8, seed=0).any()


@pytest.mark.parametrize("method", METHODS)
def test_methods_group_what_is_met_together(method: Method) -> None:
    rng = np.random.default_rng(0)
    groups = [np.arange(0, 10), np.arange(10, 20)]
    histories = Histories.of([list(rng.permutation(groups[u % 2])[:6]) for u in range(120)])
    vectors = behaviour_vectors(histories, 22, 8, seed=0, method=method)
    assert vectors.shape == (22, 8)
    assert vectors.dtype == np.float32
    assert not vectors[20:].any()
    assert vectors[:20].any(axis=1).all()
    unit = vectors[:20] / np.linalg.norm(vectors[:20], axis=1, keepdims=True)
    similar = unit @ unit.T
    np.fill_diagonal(similar, np.nan)
    assert np.nanmean(similar[:10, :10]) > np.nanmean(similar[:10, 10:]) + 0.2
    np.testing.assert_array_equal(vectors, behaviour_vectors(histories, 22, 8, seed=0, method=method))


@pytest.mark.parametrize("method", METHODS)
def test_validation_and_test_events_leave_no_trace(method: Method, tmp_path: Path) -> None:
    """Events that are not training, under either protocol, are other ones: the vectors are the same bytes."""
    rows = []
    for user in range(12):
        seen = [f"i{(user + step) % 4}" for step in range(4)]
        rows += [(f"u{user:02}", step + 1, item, step) for step, item in enumerate(seen)]
    vectors = []
    for planted in ("one", "another"):
        late = [
            (f"u{user:02}", step + 5, f"{planted}{(user + step) % 3}", 100 + user * 2 + step)
            for user in range(12)
            for step in range(2)
        ]
        marts = write_marts(
            tmp_path / planted, sorted(rows + late), [f"{p}{n}" for p in ("one", "another") for n in range(3)]
        )
        folder = update_behaviour_vectors(marts, tmp_path / f"{planted}-out", 4, method=method)
        ids, found = load_vectors(folder)
        assert ids == ["i0", "i1", "i2", "i3"]
        assert read_manifest(folder).metrics["events_counted"] == len(rows)
        vectors.append((folder.name, found.tobytes()))
    assert vectors[0] == vectors[1]
    # And a training event that is another one is seen.
    changed = [(*row[:2], "i0" if row[2] == "i1" else row[2], row[3]) for row in rows]
    marts = write_marts(tmp_path / "changed", sorted(changed + late), ["i1"])
    other = update_behaviour_vectors(marts, tmp_path / "changed-out", 4, method=method)
    assert load_vectors(other)[1].tobytes() != vectors[0][1]


def test_versions_name_method_width_and_seed(tmp_path: Path) -> None:
    rows = [(f"u{user}", step + 1, f"i{step}", step) for user in range(3) for step in range(3)]
    marts, out = write_marts(tmp_path / "marts", rows, []), tmp_path / "out"
    first = update_behaviour_vectors(marts, out, 4)
    assert update_behaviour_vectors(marts, out, 4) == first
    assert read_manifest(first).recipe["method"] == "ppmi"
    others = [
        update_behaviour_vectors(marts, out, 3),
        update_behaviour_vectors(marts, out, 4, seed=1),
        update_behaviour_vectors(marts, out, 4, method="als"),
    ]
    assert len({first, *others}) == 4


def test_too_little_to_learn_from_and_a_missing_package_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="SASRec as item vectors: no training history has two events"):
        behaviour_vectors(Histories.of([[0], [1]]), 2, 4, 0, "sasrec")
    with pytest.raises(ArtifactError, match="no training history has an event"):
        behaviour_vectors(Histories.of([[], []]), 2, 4, 0, "als")
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(ArtifactError, match=r"needs the package 'implicit'.*pip install 'tessera\[als\]'"):
        behaviour_vectors(Histories.of([[0, 1]]), 2, 4, 0, "als")
