from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.artifacts import ArtifactError
from ml.tokenizers.pieces import LearntParams, LearntPieces, NGramParams, NGramPieces, load_pieces, piece_hash

_ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=25)
_WORD = (1 << 64) - 1


def _mix(key: int) -> int:
    key = (key + 0x9E3779B97F4A7C15) & _WORD
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & _WORD
    return key ^ (key >> 31)


def _slow_hash(piece: tuple[int, ...], start: int, seed: int) -> int:
    key = _mix((seed * 0x9E3779B97F4A7C15 + start + 1) & _WORD)
    for code in piece:
        key = _mix((key + code + 1) & _WORD)
    return key


def _slow_pairs(
    rows: list[tuple[int, ...]], weights: list[int], merges: int
) -> list[tuple[tuple[int, int], ...]]:
    """Merge the commonest neighbours again and again, as long as a pair is there; ties are not resolved but refused."""
    words = [[((level, code),) for level, code in enumerate(row)] for row in rows]
    made = []
    for _ in range(merges):
        pairs: Counter[tuple] = Counter()
        for word, weight in zip(words, weights, strict=True):
            for left, right in itertools.pairwise(word):
                pairs[left, right] += weight
        (best, count), *others = pairs.most_common()
        assert not others or others[0][1] < count, "the example has a tie"
        made.append(best[0] + best[1])
        words = [_merge(word, best) for word in words]
    return made


def _merge(word: list, pair: tuple) -> list:
    out: list = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] = out[-1] + piece
        else:
            out.append(piece)
    return out


@given(_ROWS, st.integers(0, 5), st.integers(0, 1 << 40))
def test_hash_equals_plain_integers(rows: list[tuple[int, ...]], start: int, seed: int) -> None:
    found = piece_hash(np.array(rows, np.int32), start, seed)
    assert [int(key) for key in found] == [_slow_hash(row, start, seed) for row in rows]


@given(
    _ROWS,
    st.sampled_from([("prefix", None), ("prefix", 2), ("groups", None), ("groups", 2)]),
    st.integers(0, 9),
)
def test_ngrams_equal_plain_loops(
    rows: list[tuple[int, ...]], how: tuple[str, int | None], seed: int
) -> None:
    style, n = how
    pieces = NGramPieces(NGramParams(table=1000, style=style, n=n))  # type: ignore[arg-type]
    codes = np.array(rows, np.int32)
    pieces.fit(codes, np.ones(len(rows)), seed)
    offsets, ids = pieces.pieces(codes)
    spans = {
        ("prefix", None): [(0, 1), (0, 2), (0, 3)],
        ("prefix", 2): [(0, 1), (0, 2)],
        ("groups", None): [(0, 1), (1, 2), (2, 3)],
        ("groups", 2): [(0, 2), (2, 3)],
    }[how]
    assert offsets.tolist() == [place * len(spans) for place in range(len(rows) + 1)]
    assert ids.tolist() == [_slow_hash(row[a:b], a, seed) % 1000 for row in rows for a, b in spans]


def test_learnt_pieces_are_what_merging_by_hand_gives() -> None:
    rows = [(0, 1, 2), (0, 1, 3), (1, 1, 2), (2, 0, 0), (0, 2, 3)]
    weights = [7, 4, 2, 1, 0]
    pieces = LearntPieces(LearntParams(table=1 << 20, vocabulary=3 + 3 + 4 + 3))
    codes = np.array(rows, np.int32)
    report = pieces.fit(codes, np.array(weights), seed=3)
    merged = _slow_pairs(rows, weights, 3)
    assert merged == [((0, 0), (1, 1)), ((0, 0), (1, 1), (2, 2)), ((0, 0), (1, 1), (2, 3))]
    learnt = [(start, piece) for start, piece in pieces.vocabulary() if len(piece) > 1]
    assert learnt == [(0, (0, 1)), (0, (0, 1, 2)), (0, (0, 1, 3))]
    offsets, ids = pieces.pieces(codes)
    expected = [
        [(0, (0, 1, 2))],
        [(0, (0, 1, 3))],
        [(0, (1,)), (1, (1,)), (2, (2,))],
        [(0, (2,)), (1, (0,)), (2, (0,))],
        [(0, (0,)), (1, (2,)), (2, (3,))],
    ]
    hashed = [[_slow_hash(piece, start, 3) % (1 << 20) for start, piece in row] for row in expected]
    assert ids.tolist() == list(itertools.chain(*hashed))
    assert offsets.tolist() == [0, 1, 2, 5, 8, 11]
    assert report["pieces"] == report["rows"] == len(set(itertools.chain(*hashed)))
    assert report["per_item"] == pytest.approx((7 + 4 + 2 * 3 + 1 * 3) / 14)


@given(_ROWS, _ROWS)
def test_learnt_pieces_cover_every_code_once_and_in_order(
    rows: list[tuple[int, ...]], unseen: list[tuple[int, ...]]
) -> None:
    pieces = LearntPieces(LearntParams(table=1 << 30, vocabulary=20))
    pieces.fit(np.array(rows, np.int32), np.arange(len(rows)), 0, code_sizes=(4, 4, 4))
    names = {_slow_hash(piece, start, 0) % (1 << 30): (start, piece) for start, piece in pieces.vocabulary()}
    assert len(names) == len(pieces.vocabulary()) >= 12
    codes = np.array(rows + unseen, np.int32)
    offsets, ids = pieces.pieces(codes)
    for row, first, last in zip(codes.tolist(), offsets[:-1], offsets[1:], strict=True):
        found: list[int] = []
        for place in ids[first:last].tolist():
            start, piece = names[place]
            assert start == len(found)
            found += piece
        assert found == row


def test_popular_items_keep_a_piece_of_their_own() -> None:
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(16, size=(400, 4)), axis=0).astype(np.int32)
    weights = np.where(np.arange(len(codes)) < 20, 1000, 1)
    pieces = LearntPieces(LearntParams(vocabulary=64 + 60))
    report = pieces.fit(codes, weights, 0)
    counts = np.diff(pieces.pieces(codes)[0])
    assert (counts[:20] == 1).all()
    assert counts[20:].mean() > 2.5
    assert report["per_item"] < 1.1


_SCRIPT = """
import numpy as np
from pathlib import Path
from ml.tokenizers.pieces import LearntParams, LearntPieces
rng = np.random.default_rng(0)
codes = (rng.zipf(1.4, (2000, 3)) % 32).astype(np.int32)
pieces = LearntPieces(LearntParams(vocabulary=400))
pieces.fit(codes, rng.integers(3, size=2000), 5)
pieces.save(Path("."))
np.save("ids.npy", np.concatenate(pieces.pieces(codes)))
"""


def test_other_processes_and_threads_learn_the_same_bytes(tmp_path: Path) -> None:
    seen = set()
    for run, threads in enumerate(["1", "2", "2"]):
        folder = tmp_path / str(run)
        folder.mkdir()
        root = str(Path(__file__).parents[3])
        settings = {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": str(run), "PYTHONPATH": root}
        subprocess.run(
            [sys.executable, "-c", _SCRIPT], cwd=folder, env={**os.environ, **settings}, check=True
        )
        content = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
        seen.add(hashlib.sha256(content).hexdigest())
    assert len(seen) == 1


@pytest.mark.parametrize(
    "pieces", [NGramPieces(NGramParams(table=77, style="groups", n=2)), LearntPieces(LearntParams(table=77))]
)
def test_saved_and_loaded_is_the_same(pieces: NGramPieces | LearntPieces, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(8, size=(200, 3)).astype(np.int32)
    pieces.fit(codes, np.ones(200), seed=4)
    pieces.save(tmp_path)
    loaded = load_pieces(tmp_path)
    assert type(loaded) is type(pieces)
    assert loaded.params == pieces.params
    for left, right in zip(loaded.pieces(codes), pieces.pieces(codes), strict=True):
        np.testing.assert_array_equal(left, right)
    assert pieces.pieces(codes)[1].max() < 77
    offsets, ids = pieces.pieces(codes[:0])
    assert (offsets.tolist(), ids.tolist()) == ([0], [])


@pytest.mark.parametrize("made", [NGramPieces(NGramParams()), LearntPieces(LearntParams())])
def test_what_is_wrong_is_said(made: NGramPieces | LearntPieces) -> None:
    codes = np.zeros((3, 2), np.int32)
    with pytest.raises(ArtifactError, match="not fitted"):
        made.pieces(codes)
    with pytest.raises(ArtifactError, match=r"weights \(2,\) do not fit"):
        made.fit(codes, np.ones(2), 0)
    with pytest.raises(ArtifactError, match="not negative"):
        made.fit(codes, np.array([1.0, -1.0, 1.0]), 0)
    with pytest.raises(ArtifactError, match=r"beyond the sizes of its levels, \(4, 0\)"):
        made.fit(codes, np.ones(3), 0, code_sizes=(4, 0))
    made.fit(codes, np.ones(3), 0, code_sizes=(4, 4))
    with pytest.raises(ArtifactError, match="beyond the sizes"):
        made.pieces(np.array([[0, 4]], np.int32))
    with pytest.raises(ArtifactError, match="2 levels are known"):
        made.pieces(np.zeros((3, 3), np.int32))
