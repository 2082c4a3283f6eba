"""Every test works on a home of its own: none sees the user's."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
DATASETS = Path(os.environ.get("TESSERA_DATASETS") or REPO.parent / "shared" / "datasets")

for _name in [name for name in os.environ if name.startswith("TESSERA_") and name != "TESSERA_DATASETS"]:
    del os.environ[_name]
os.environ["TESSERA_HOME"] = str(Path(tempfile.mkdtemp(prefix="tessera-test-")) / "home")

_TARGET = REPO / "dbt_project" / "target"
if not (_TARGET / "manifest.json").is_file() or not (_TARGET / "column_lineage.json").is_file():
    # Dagster loads both on import; `make test` has made them already.
    subprocess.run(["make", "--silent", "manifest"], check=True, cwd=REPO)


@pytest.fixture(scope="session")
def datasets() -> Path:
    """Return the folder of the real logs, or skip where they are not."""
    if not DATASETS.is_dir():
        pytest.skip(f"no real logs at {DATASETS}; set TESSERA_DATASETS")
    return DATASETS
