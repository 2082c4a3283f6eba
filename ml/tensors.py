"""Arrays in safetensors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

_BYTES = 2**19


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the arrays of a file by name, read half a megabyte at a time.

    safetensors holds the interpreter while it copies, which threads that answer requests would wait for.

    Raises
    ------
    OSError, safetensors.SafetensorError
        If the file is missing or damaged.
    """
    with safe_open(path, framework="numpy") as file:
        return {name: _read(file, name) for name in file.keys()}  # noqa: SIM118


def _read(file: Any, name: str) -> Any:
    part = file.get_slice(name)
    shape = part.get_shape()
    if not shape or not shape[0]:
        return file.get_tensor(name)
    first = part[:1]
    rows = max(1, _BYTES // max(1, first.nbytes))
    if shape[0] <= rows:
        return part[:]
    whole = np.empty(shape, first.dtype)
    for begin in range(0, shape[0], rows):
        end = min(begin + rows, shape[0])
        whole[begin:end] = part[begin:end]
    return whole
