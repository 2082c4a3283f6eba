from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tokenizer_speed
from benchmarks.tokenizer_speed import LATENT, Case, Outcome, cases, compare, draw


def test_vectors_have_the_dimension_that_is_told() -> None:
    vectors = draw(2000, 60, 0)
    variances = np.linalg.svd(vectors, compute_uv=False) ** 2
    share = variances[:LATENT].sum() / variances.sum()
    # A twentieth is noise, and the first directions hold their part of that.
    assert share == pytest.approx(0.95 + 0.05 * LATENT / 60, abs=0.02)
    np.testing.assert_array_equal(draw(2000, 60, 0), vectors)


def test_large_sizes_have_mini_batches_too() -> None:
    small, large = cases(12_000, [8]), cases(1_000_000, [8])
    assert [case.name for case in small] == [case.name for case in large if "mini" not in case.name]
    assert len(large) == len(small) + 1


@pytest.mark.parametrize("rotation", [False, True])
def test_both_sides_do_the_same_work(rotation: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(run: Callable[..., Outcome], *arguments: Any) -> Outcome:
        return run(*arguments)

    monkeypatch.setattr(tokenizer_speed, "_apart", here)
    monkeypatch.setattr(tokenizer_speed, "CODE_BITS", 4)
    path = tmp_path / "vectors.npy"
    np.save(path, draw(700, 32, 0))
    peer = ("rotated" if rotation else "product", {"levels": 4})
    params = {"levels": 4, "code_size": 16, "rotation": rotation}
    case = Case("product", "product_quantization", params, {"faiss": peer})
    fit, encode, error = compare(case, 700, path, 1, {})
    assert fit.peer is not None
    assert fit.better == "lower"
    assert encode.better == "higher"
    assert error.ratio == pytest.approx(1, abs=0.05)
