from __future__ import annotations

from pathlib import Path

import pytest
from vector_samples import make_encoder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder of two random layers, 16 wide, that knows `WORDS`."""
    return make_encoder(tmp_path_factory.mktemp("encoders") / "tiny")
