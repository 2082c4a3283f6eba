"""Items withdrawn from what is served, and served again."""

from __future__ import annotations

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml.artifacts import ArtifactError, consistently
from orchestration.settings import Settings
from serving.withdrawn import WithdrawnItems


def withdraw(settings: Settings, items: list[str]) -> None:
    """Withdraw items, all or none.

    Raises
    ------
    ArtifactError
        If the catalogue of this home lacks one: a mistyped ID must not pass for a withdrawn item.
    """
    file = settings.marts / "dim_items.parquet"
    known = consistently(settings.marts, lambda: pq.read_table(file, columns=["item_id"])["item_id"])
    if missing := [item for item in items if not pc.any(pc.equal(known, item)).as_py()]:
        raise ArtifactError(f"{file} has no item {missing[0]!r}; nothing was withdrawn")
    WithdrawnItems(settings.home).add(items)


def restore(settings: Settings, items: list[str]) -> None:
    """Serve items again, all or none.

    Raises
    ------
    ArtifactError
        If one is not withdrawn.
    """
    withdrawn = WithdrawnItems(settings.home)
    if missing := [item for item in items if item not in withdrawn.now()]:
        raise ArtifactError(f"the item {missing[0]!r} is not withdrawn; nothing was restored")
    withdrawn.remove(items)
