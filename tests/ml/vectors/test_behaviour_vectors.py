from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from ml.artifacts import read_manifest
from ml.histories import Histories
from ml.vectors.behaviour import ppmi, ppmi_svd, transition_counts, update_behaviour_vectors
from ml.vectors.fused import load_vectors

_START = datetime(2025, 3, 1, tzinfo=UTC)


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


def _write_marts(folder: Path, rows: list[tuple[str, int, str, int]]) -> Path:
    folder.mkdir()
    columns = {
        "user_id": [r[0] for r in rows],
        "position": pa.array([r[1] for r in rows], pa.int32()),
        "item_id": [r[2] for r in rows],
        "event_type": ["view"] * len(rows),
        "event_ts": pa.array([_START + timedelta(hours=r[3]) for r in rows], pa.timestamp("us", tz="UTC")),
        "value": pa.array([None] * len(rows), pa.float64()),
    }
    pq.write_table(pa.table(columns), folder / "user_histories.parquet")
    items = sorted({r[2] for r in rows} | {"never"})
    pq.write_table(pa.table({"item_id": items}), folder / "dim_items.parquet")
    return folder


def test_validation_and_test_events_leave_no_trace(tmp_path: Path) -> None:
    rows, late = [], []
    for user in range(12):
        seen = [f"i{(user + step) % 4}" for step in range(4)]
        rows += [(f"u{user:02}", step + 1, item, step) for step, item in enumerate(seen)]
        late += [(f"u{user:02}", step + 5, f"secret{step}", 100 + user * 2 + step) for step in range(2)]
    planted = _write_marts(tmp_path / "planted", sorted(rows + late))
    folder = update_behaviour_vectors(planted, tmp_path / "behaviour", dim=3)
    ids, vectors = load_vectors(folder)
    assert ids == ["i0", "i1", "i2", "i3"]
    assert vectors.shape == (4, 3)
    assert read_manifest(folder).metrics["events_counted"] == len(rows)
    assert update_behaviour_vectors(planted, tmp_path / "behaviour", dim=3) == folder
    assert update_behaviour_vectors(planted, tmp_path / "behaviour", dim=2) != folder
