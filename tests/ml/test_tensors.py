from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ml.tensors import read_tensors


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([], np.int64),
        "c": np.array([1, 2], np.int8),
        "in parts, the last of them smaller": np.arange(300_001, dtype=np.int32),
        "rows in parts": np.arange(3 * 200_003, dtype=np.float16).reshape(-1, 3),
        "a row longer than a part": np.ones((2, 2**20), np.int8),
        "a number": np.array(5.0, np.float32),
    }
    save_file(arrays, tmp_path / "x.safetensors")
    found = read_tensors(tmp_path / "x.safetensors")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        # Whoever reads them may change them.
        found[name][...] = 0


def test_a_file_that_is_lost_or_cut_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        read_tensors(tmp_path / "none.safetensors")
    save_file({"a": np.ones(100)}, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:200])
    with pytest.raises(SafetensorError):
        read_tensors(tmp_path / "x.safetensors")
