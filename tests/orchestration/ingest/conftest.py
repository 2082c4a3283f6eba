from __future__ import annotations

from pathlib import Path

import pytest
from landed import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "landing").mkdir()
    return Home(tmp_path)
