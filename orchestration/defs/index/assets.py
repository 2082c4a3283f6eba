"""Champion to what is served."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from ml.index import Trial
from orchestration.defs.models.assets import champion
from orchestration.defs.semantic_ids.assets import semantic_ids
from orchestration.defs.vectors.assets import (
    item_behaviour_vectors,
    item_fused_vectors,
    item_text_vectors,
)
from orchestration.defs.warehouse.assets import marts
from orchestration.failures import RETRY, one_line_failures
from orchestration.index import build_item_index, build_trie, publish_recommendations
from orchestration.metadata import curve_plot, table
from orchestration.newcomers import publish_newcomers
from orchestration.settings import get_settings


@dg.asset(
    group_name="index",
    kinds={"faiss"},
    # In the nightly job `champion` does not run, and what it is applied to does.
    deps=[champion, marts, item_behaviour_vectors],
    retry_policy=RETRY,
    check_specs=[dg.AssetCheckSpec("recall_against_exact", asset="item_index", blocking=True)],
)
def item_index() -> dg.MaterializeResult:
    """FAISS over the champion's item vectors; live only once its recall against exact search has passed."""
    settings = get_settings()
    with one_line_failures():
        built = build_item_index(settings)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": built.items,
            "setting": str(built.spec),
            "trials": table(
                [{"setting": str(t.spec), "recall": t.recall, "ms": t.latency_ms} for t in built.trials]
            ),
            "plot": recall_curve(built.trials, settings.index_recall, settings.index_k),
            "path": dg.MetadataValue.path(str(built.folder)),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="recall_against_exact",
                passed=built.passed,
                metadata={"recall": built.recall, "target": settings.index_recall, "reason": built.reason},
            )
        ],
        data_version=dg.DataVersion(built.folder.name),
    )


def recall_curve(trials: Sequence[Trial], target: float, k: int) -> dg.MetadataValue:
    """Return what each type of index costs at which recall."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for trial in trials:
        refine = trial.spec.refine
        name = trial.spec.factory if refine is None else f"{trial.spec.factory} refine={refine}"
        curves.setdefault(name, []).append((trial.recall, trial.latency_ms))
    return curve_plot(curves, "Recall and latency", (f"recall@{k}", "ms, one query"), target)


@dg.asset(group_name="index", kinds={"torch"}, deps=[champion, semantic_ids], retry_policy=RETRY)
def id_trie() -> dg.MaterializeResult:
    """The trie of valid semantic IDs of the champion's catalogue."""
    with one_line_failures():
        folder, nodes = build_trie(get_settings())
    return dg.MaterializeResult(
        metadata={"dagster/row_count": nodes, "path": dg.MetadataValue.path(str(folder))},
        data_version=dg.DataVersion(folder.name),
    )


@dg.asset(
    group_name="index",
    kinds={"parquet"},
    deps=[champion, marts, item_text_vectors, item_fused_vectors],
    retry_policy=RETRY,
)
def newcomers() -> dg.MaterializeResult:
    """Items that landed after the champion's snapshot: served as latest, similar and found items until the next retrain."""
    with one_line_failures():
        folder, items = publish_newcomers(get_settings())
    return dg.MaterializeResult(
        metadata={"dagster/row_count": items, "path": dg.MetadataValue.path(str(folder))},
        data_version=dg.DataVersion(folder.name),
    )


@dg.asset(
    group_name="index",
    kinds={"parquet"},
    # The service reads the newcomers when it sees that lists were published.
    deps=[item_index, id_trie, marts, newcomers],
    retry_policy=RETRY,
)
def recommendations() -> dg.MaterializeResult:
    """Tonight's list for every user; with it, model, index and trie go live together."""
    with one_line_failures():
        published = publish_recommendations(get_settings())
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": published.rows,
            "users": published.users,
            "champion": published.champion,
            "path": dg.MetadataValue.path(str(published.folder)),
        },
        data_version=dg.DataVersion(published.folder.name),
    )
