from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ml.artifacts import ArtifactError
from ml.index import (
    IndexSpec,
    Trial,
    build_index,
    exact_search,
    index_version,
    load_index,
    publish_index,
    recall_against_exact,
    search,
    set_effort,
    tune_index,
    verify_index,
)
from ml.index.tune import families
from tests.ml.index.samples import low_dimensional

HNSW = IndexSpec(factory="HNSW32", effort=512)
IVF = IndexSpec(factory="IVF32,PQ16x4fs,RFlat", effort=32, refine=32)


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


@pytest.mark.parametrize(
    ("spec", "lowered"),
    [
        (HNSW, HNSW.model_copy(update={"effort": 1})),
        (IVF, IVF.model_copy(update={"effort": 1})),
        (IVF, IVF.model_copy(update={"refine": 1})),
    ],
)
def test_recall_check_fails_when_effort_is_lowered(spec: IndexSpec, lowered: IndexSpec) -> None:
    vectors, queries = low_dimensional(4000), low_dimensional(100, seed=1)
    index = build_index(vectors, spec)
    assert verify_index(index, vectors, queries, 10, 0.98)[0]
    set_effort(index, lowered)
    passed, recall, reason = verify_index(index, vectors, queries, 10, 0.98)
    assert not passed
    assert recall < 0.9
    assert "is below 0.98" in reason


@pytest.mark.parametrize("spec", [IndexSpec(factory="Flat"), HNSW, IVF])
def test_recall_check_fails_on_corrupted_vectors(spec: IndexSpec) -> None:
    vectors, queries = low_dimensional(2000), low_dimensional(50, seed=1)
    rng = np.random.default_rng(2)
    assert verify_index(build_index(vectors, spec), vectors, queries, 10, 0.98)[0]
    permuted = vectors[rng.permutation(len(vectors))]
    noisy = vectors + rng.normal(scale=vectors.std(), size=vectors.shape).astype(np.float32)
    some = vectors.copy()
    some[rng.random(len(vectors)) < 0.1] *= -1
    for corrupt in (permuted, noisy, some):
        passed, recall, reason = verify_index(build_index(corrupt, spec), vectors, queries, 10, 0.98)
        assert (passed, reason) == (False, f"recall@10 {recall:.4f} is below 0.98")
    short = build_index(vectors[:400], IndexSpec(factory="Flat"))
    assert verify_index(short, vectors, queries, 10, 0.9) == (
        False,
        0.0,
        "index holds 400 vectors, the catalogue 2000",
    )


def test_tuning_takes_the_fastest_that_reaches_the_target() -> None:
    vectors, queries = low_dimensional(3000), low_dimensional(80, seed=1)
    index, spec, trials = tune_index(vectors, queries, k=50, target=0.99, exact_below=0)
    kinds = {trial.spec.factory for trial in trials}
    assert kinds == {"Flat", "HNSW16", "HNSW32", "IVF64,PQ16x4fs,RFlat"}
    assert len({str(trial.spec) for trial in trials}) == len(trials) == 1 + 12 + 20
    reaching = [trial for trial in trials if trial.recall >= 0.99]
    assert spec == min(reaching, key=lambda trial: trial.latency_ms).spec
    # The index that comes back searches as hard as its setting says, although others were tried after it.
    assert recall_against_exact(index, vectors, queries, 50) == next(
        trial.recall for trial in trials if trial.spec == spec
    )
    assert [Trial.from_dict(trial.as_dict()) for trial in trials] == trials


def test_harder_search_finds_more() -> None:
    vectors, queries = low_dimensional(3000), low_dimensional(80, seed=1)
    _, _, trials = tune_index(vectors, queries, k=50, target=2, exact_below=0)
    graph = [trial.recall for trial in trials if trial.spec.factory == "HNSW16"]
    assert graph == sorted(graph)
    lists = [trial.recall for trial in trials if trial.spec.refine == 16]
    assert lists == sorted(lists)
    assert lists[0] < 0.9 < lists[-1]


def test_nothing_but_an_exact_scan_reaches_what_is_beyond_reach() -> None:
    vectors, queries = low_dimensional(500), low_dimensional(20, seed=1)
    _, spec, _ = tune_index(vectors, queries, k=50, target=1.1, exact_below=0)
    assert str(spec) == "Flat"


def test_odd_width_has_no_product_codes() -> None:
    assert [str(family[-1]) for family in families(1000, 7)] == ["HNSW16 ef=2048", "HNSW32 ef=2048"]


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
    assert folder.name == index_version(spec, vectors, {"model": "abc"})


@pytest.mark.parametrize("how", ["truncated", "changed", "other", "gone"])
@pytest.mark.parametrize("name", ["index.faiss", "vectors.safetensors"])
def test_damaged_file_is_noticed_and_published_again(tmp_path: Path, name: str, how: str) -> None:
    vectors, spec = low_dimensional(200), IndexSpec(factory="Flat")
    folder = publish_index(tmp_path, build_index(vectors, spec), spec, vectors, {}, {})
    file = folder / name
    before = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "other":
        save_file({"other": vectors}, file)
    else:
        file.write_bytes(before[:-10] + (b"" if how == "truncated" else bytes(10)))
    with pytest.raises(ArtifactError, match=rf"{name} is missing or differs from what was published$"):
        load_index(folder)
    assert publish_index(tmp_path, build_index(vectors, spec), spec, vectors, {}, {}) == folder
    assert file.read_bytes() == before
    assert load_index(folder)[0].ntotal == 200


def test_effort_is_published_with_the_index(tmp_path: Path) -> None:
    vectors = low_dimensional(2000)
    folder = publish_index(tmp_path, build_index(vectors, IVF), IVF, vectors, {}, {})
    loaded, _, manifest = load_index(folder)
    np.testing.assert_array_equal(
        search(loaded, vectors[:50], 10)[0], search(build_index(vectors, IVF), vectors[:50], 10)[0]
    )
    assert IndexSpec.model_validate(manifest.recipe) == IVF


@pytest.mark.parametrize("bad", [np.full((3, 2), np.nan, np.float32), np.zeros((0, 4), np.float32)])
def test_bad_vectors_are_refused(bad: NDArray[np.float32]) -> None:
    with pytest.raises(ArtifactError, match="cannot index"):
        build_index(bad, IndexSpec(factory="Flat"))
