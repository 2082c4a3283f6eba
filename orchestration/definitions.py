"""What Dagster loads: everything below ``defs/``, and the policy that holds for all of it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Load one folder per stage."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
