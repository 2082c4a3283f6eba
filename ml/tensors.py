"""Arrays in safetensors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the arrays of a file by name, read one at a time.

    `safetensors.numpy.load_file` holds the interpreter until it has copied them all, which threads that answer
    requests would wait for.

    Raises
    ------
    OSError, safetensors.SafetensorError
        If the file is missing or damaged.
    """
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
