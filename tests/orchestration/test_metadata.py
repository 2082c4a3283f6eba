"""Plots of assets are pictures that a browser shows."""

from __future__ import annotations

import base64
import re

from ml.index import IndexSpec, Trial
from orchestration.defs.index.assets import recall_curve


def test_recall_curve_is_a_picture_of_every_type() -> None:
    trials = [Trial(IndexSpec(factory="Flat"), 1.0, 2.0)]
    trials += [
        Trial(IndexSpec(factory="HNSW32", effort=e), r, ms) for e, r, ms in ((64, 0.9, 0.1), (256, 0.99, 0.4))
    ]
    shown = str(recall_curve(trials, 0.99, 100).value)
    found = re.fullmatch(r"!\[Recall and latency\]\(data:image/png;base64,(.+)\)", shown)
    assert found is not None
    assert base64.b64decode(found[1])[:8] == b"\x89PNG\r\n\x1a\n"
    assert shown != str(recall_curve(trials[:2], 0.99, 100).value)
