from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.artifacts import ArtifactError
from ml.index import (
    IndexSpec,
    build_index,
    exact_search,
    load_index,
    publish_index,
    recall_against_exact,
    search,
    set_effort,
    tune_index,
    verify_index,
)


def low_dimensional(n: int, d: int = 32, intrinsic: int = 12, seed: int = 0) -> NDArray[np.float32]:
    """Points of a known intrinsic dimension: hard enough that a lazy search misses neighbours."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, intrinsic)) @ rng.normal(size=(intrinsic, d))
    return points.astype(np.float32)


def test_exact_search_agrees_with_full_sort() -> None:
    vectors, queries = low_dimensional(300), low_dimensional(7, seed=1)
    expected = -np.sort(-(queries @ vectors.T), axis=1)[:, :20]
    np.testing.assert_allclose(exact_search(vectors, queries, 20), expected, rtol=1e-5)


def test_flat_index_is_exact_and_pads() -> None:
    vectors, queries = low_dimensional(50), low_dimensional(5, seed=1)
    index = build_index(vectors, IndexSpec(factory="Flat"))
    items, scores = search(index, queries, 60)
    assert (items[:, 50:] == -1).all()
    assert (items[:, 0] == np.argmax(queries @ vectors.T, axis=1)).all()
    assert (np.diff(scores[:, :50], axis=1) <= 0).all()
    assert recall_against_exact(index, vectors, queries, 100) == 1.0


def test_recall_check_fails_when_effort_is_lowered() -> None:
    vectors, queries = low_dimensional(4000), low_dimensional(100, seed=1)
    index = build_index(vectors, IndexSpec(factory="HNSW32", effort=512))
    assert verify_index(index, vectors, queries, 100, 0.98)[0]
    set_effort(index, 1)
    passed, recall, reason = verify_index(index, vectors, queries, 10, 0.98)
    assert not passed
    assert recall < 0.9
    assert "is below 0.98" in reason


def test_recall_check_fails_on_corrupted_or_missing_vectors() -> None:
    vectors, queries = low_dimensional(500), low_dimensional(20, seed=1)
    shuffled = build_index(vectors[::-1].copy(), IndexSpec(factory="Flat"))
    assert recall_against_exact(shuffled, vectors, queries, 10) < 0.5
    short = build_index(vectors[:400], IndexSpec(factory="Flat"))
    assert verify_index(short, vectors, queries, 10, 0.9) == (
        False,
        0.0,
        "index holds 400 vectors, the catalogue 500",
    )


def test_tuning_takes_the_fastest_that_reaches_the_target() -> None:
    vectors, queries = low_dimensional(3000), low_dimensional(80, seed=1)
    index, spec, trials = tune_index(vectors, queries, k=50, target=0.99, exact_below=0)
    assert len(trials) == 6
    reaching = [t for t in trials if t.recall >= 0.99]
    assert spec == min(reaching, key=lambda t: t.latency_ms).spec
    assert recall_against_exact(index, vectors, queries, 50) >= 0.99


def test_small_catalogue_is_scanned() -> None:
    _, spec, trials = tune_index(low_dimensional(100), low_dimensional(5, seed=1))
    assert str(spec) == "Flat"
    assert trials[0].recall == 1.0


def test_publication_round_trip_and_truncated_file(tmp_path: Path) -> None:
    vectors = low_dimensional(200)
    spec = IndexSpec(factory="HNSW32", effort=64)
    index = build_index(vectors, spec)
    folder = publish_index(tmp_path, index, spec, vectors, {"model": "abc"}, {"recall": 1.0})
    again = publish_index(tmp_path, build_index(vectors, spec), spec, vectors, {"model": "abc"}, {})
    assert again == folder
    loaded, stored, manifest = load_index(folder)
    np.testing.assert_array_equal(stored, vectors)
    np.testing.assert_array_equal(search(loaded, vectors[:5], 3)[0], search(index, vectors[:5], 3)[0])
    assert manifest.inputs["model"] == "abc"
    assert load_index(folder, {"model": "abc"})[2] == manifest
    with pytest.raises(ArtifactError, match="was built on model abc, not on xyz"):
        load_index(folder, {"model": "xyz"})
    with pytest.raises(ArtifactError, match=r"was built on snapshot \(unknown\), not on s"):
        load_index(folder, {"snapshot": "s"})
    file = folder / "index.faiss"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="differs from what was published"):
        load_index(folder)


@pytest.mark.parametrize("bad", [np.full((3, 2), np.nan, np.float32), np.zeros((0, 4), np.float32)])
def test_bad_vectors_are_refused(bad: NDArray[np.float32]) -> None:
    with pytest.raises(ArtifactError, match="cannot index"):
        build_index(bad, IndexSpec(factory="Flat"))
