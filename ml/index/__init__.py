"""The item index: build with FAISS, tune to a recall target, verify against exact search, publish as a version."""

from __future__ import annotations

from ml.index.build import IndexSpec, build_index, exact_search, search, set_effort
from ml.index.item_search import Allowed, ItemSearch
from ml.index.publish import index_version, load_index, make_live, publish_index
from ml.index.tune import Trial, tune_index
from ml.index.verify import recall_against_exact, verify_index

__all__ = [
    "Allowed",
    "IndexSpec",
    "ItemSearch",
    "Trial",
    "build_index",
    "exact_search",
    "index_version",
    "load_index",
    "make_live",
    "publish_index",
    "recall_against_exact",
    "search",
    "set_effort",
    "tune_index",
    "verify_index",
]
