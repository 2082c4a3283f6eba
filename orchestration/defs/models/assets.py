"""Snapshot to champion."""

# Dagster compares the annotation of `context` with its classes, so annotations must not be strings here.

from collections.abc import Sequence

import dagster as dg

from ml.artifacts import current, read_manifest, set_current
from ml.evaluation.gates import METRIC, Gate
from ml.snapshot import write_snapshot
from orchestration.defs.semantic_ids.assets import semantic_ids
from orchestration.failures import RETRY, one_line_failures
from orchestration.metadata import bar_plot, table
from orchestration.models import (
    audit_dataset,
    compare,
    decide,
    leaderboard_rows,
    register,
    train_candidates,
)
from orchestration.partitions import recipe_partitions
from orchestration.settings import get_settings

GATES = {
    "valid_output": "No unknown, repeated or seen item, no list too short.",
    "beats_bar": "NDCG@10 above the best recipe that needs no training, beyond luck.",
    "slices": "No slice worse than the bar by more than the margin.",
    "beats_incumbent": "NDCG@10 above the live champion's recipe, beyond luck.",
    "slices_of_incumbent": "No slice worse than the live champion's recipe by more than the margin.",
    "latency": "Milliseconds for one user's list.",
    "size": "Megabytes of the model.",
    "id_churn": "Share of items whose semantic ID is not the live champion's.",
    "audited": "What the data can show at all has been measured.",
}


@dg.asset(group_name="models", kinds={"parquet"}, deps=[semantic_ids], retry_policy=RETRY)
def training_snapshot() -> dg.MaterializeResult:
    """Histories, catalogue and semantic IDs, cut once: the one thing that training reads."""
    settings = get_settings()
    with one_line_failures():
        folder = write_snapshot(
            settings.marts,
            current(settings.semantic_ids),
            current(settings.vectors / "fused"),
            settings.snapshots,
            current(settings.vectors / "text"),
        )
        set_current(settings.snapshots, folder.name)
    manifest = read_manifest(folder)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": manifest.metrics["events"],
            **manifest.metrics,
            "version": manifest.version,
        },
        data_version=dg.DataVersion(manifest.version),
    )


@dg.asset(group_name="models", kinds={"numpy"}, deps=[training_snapshot], retry_policy=RETRY)
def dataset_audit() -> dg.MaterializeResult:
    """What the live snapshot can show at all: local transitions, alike neighbours, or long histories."""
    settings = get_settings()
    with one_line_failures():
        found = audit_dataset(settings)
    return dg.MaterializeResult(
        metadata={
            "verdict": found.verdict,
            "measures": table(found.rows()),
            "plot": bar_plot(
                {f"last {depth}" if depth != "all" else "all": value for depth, value in found.depth.items()},
                "Heuristic, by items of the history that it reads",
                METRIC,
            ),
            "params": dg.MetadataValue.json(found.heuristic["params"]),
        },
        data_version=dg.DataVersion(found.data_hash),
    )


@dg.asset(
    group_name="models",
    kinds={"torch", "mlflow"},
    deps=[training_snapshot],
    partitions_def=recipe_partitions(),
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=RETRY,
)
def candidates(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Each recipe, trained and evaluated under both protocols, and registered."""
    settings = get_settings()
    with one_line_failures():
        folders = train_candidates(settings, context.partition_keys)
    for recipe, folder in folders.items():
        with one_line_failures():
            version = register(settings, recipe, folder)
        context.add_asset_metadata(
            {"model": dg.MetadataValue.path(str(folder)), "registry_version": version.number},
            partition_key=recipe,
        )
    return dg.MaterializeResult()


@dg.asset(group_name="models", kinds={"numpy"}, deps=[candidates], retry_policy=RETRY)
def evaluation() -> dg.MaterializeResult:
    """All candidates of the live snapshot side by side, under both protocols."""
    settings = get_settings()
    with one_line_failures():
        results = compare(settings)
    temporal = {r.recipe: r.test.metrics[METRIC] for r in results if r.protocol == "temporal"}
    return dg.MaterializeResult(
        metadata={
            "leaderboard": table(leaderboard_rows(results)),
            "plot": bar_plot(temporal, "Temporal split", METRIC),
            "results": len(results),
        }
    )


@dg.asset(
    group_name="models",
    kinds={"mlflow"},
    deps=[evaluation, dataset_audit],
    retry_policy=RETRY,
    check_specs=[dg.AssetCheckSpec(name, asset="champion", description=told) for name, told in GATES.items()],
)
def champion(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The best candidate that passes its gates, refitted on every event and promoted."""
    settings = get_settings()
    with one_line_failures():
        decision = decide(settings)
    for gate in decision.verdict.gates:
        context.log.info(f"{gate.recipe} {gate.name}: {'passed' if gate.passed else 'FAILED'}, {gate.reason}")
    winner = decision.verdict.champion
    return dg.MaterializeResult(
        metadata={
            "champion": winner,
            "model": dg.MetadataValue.path(str(decision.model)),
            "registry_version": decision.version.number,
            "gates": table([vars(g) for g in decision.verdict.gates]),
        },
        check_results=[_check(name, winner, decision.verdict.gates) for name in GATES],
    )


def _check(name: str, winner: str, gates: Sequence[Gate]) -> dg.AssetCheckResult:
    """Tell how a gate ended for the recipe that serves, and for every other that it was put to."""
    tried = {gate.recipe: gate for gate in gates if gate.name == name}
    own = tried.get(winner)
    return dg.AssetCheckResult(
        check_name=name,
        passed=own is None or own.passed,
        description=f"{winner}: {own.reason}" if own else f"not asked of {winner}",
        metadata={
            gate.recipe: f"{'passed' if gate.passed else 'FAILED'}: {gate.reason}" for gate in tried.values()
        },
    )
