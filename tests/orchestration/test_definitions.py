"""What Dagster is told: assets, checks, jobs, schedules, sensors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from orchestration.definitions import defs

SNAPSHOT = Path(__file__).with_name("asset_graph.json")


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return defs()


def test_asset_graph_is_as_recorded(definitions: dg.Definitions) -> None:
    """A renamed asset loses its history: change the record on purpose or not at all."""
    graph = definitions.resolve_asset_graph()
    found = {
        "assets": {
            key.to_user_string(): {
                "group": graph.get(key).group_name,
                "parents": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            }
            for key in sorted(graph.get_all_asset_keys())
        },
        "checks": sorted(f"{key.asset_key.to_user_string()}: {key.name}" for key in graph.asset_check_keys),
    }
    assert found == json.loads(SNAPSHOT.read_text())


def test_one_writer_for_warehouse_and_registry(definitions: dg.Definitions) -> None:
    pools = {}
    for assets in definitions.resolve_asset_graph().assets_defs:
        if assets.keys:
            pools[assets.node_def.name] = assets.op.pool
    assert {name for name, pool in pools.items() if pool == "warehouse"} == {"warehouse", "marts"}
    assert {name for name, pool in pools.items() if pool == "feast_registry"} == {
        "feature_definitions",
        "online_features",
        "online_semantic_ids",
    }


def test_jobs_hold_what_their_names_say(definitions: dg.Definitions) -> None:
    def steps(job: str) -> set[str]:
        return {node.name for node in definitions.resolve_job_def(job).nodes}

    assert {"raw_events", "warehouse", "online_features", "semantic_ids", "recommendations"} <= steps(
        "nightly"
    )
    assert steps("nightly").isdisjoint({"tokenizer", "candidates", "champion"})
    assert {"tokenizer", "candidates", "champion", "item_index", "recommendations"} <= steps("retrain")
    assert steps("retrain").isdisjoint({"raw_events", "warehouse"})
    assert steps("backfill").isdisjoint({"semantic_ids", "champion", "item_index"})


def test_the_encoder_changes_with_the_tokenizer_alone(definitions: dg.Definitions) -> None:
    """Codebooks that were fitted to one encoder's vectors must not meet another's."""
    for job in ("backfill", "nightly"):
        assert "text_encoder" not in {node.name for node in definitions.resolve_job_def(job).nodes}
    retrain = definitions.resolve_job_def("retrain").graph.dependency_structure
    order = ("text_encoder", "item_text_vectors", "item_fused_vectors", "tokenizer")
    for before, after in pairwise(order):
        outputs = retrain.input_to_upstream_outputs_for_node(after).values()
        assert before in {output.node_name for some in outputs for output in some}


def test_nightly_builds_the_index_after_what_it_reads(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def("nightly")
    inputs = job.graph.dependency_structure.input_to_upstream_outputs_for_node("item_index")
    upstream = {output.node_name for outputs in inputs.values() for output in outputs}
    assert {"marts", "item_behaviour_vectors"} <= upstream


def tick(definitions: dg.Definitions, name: str, at: datetime) -> tuple[dg.ScheduleDefinition, dg.RunRequest]:
    schedule = definitions.resolve_schedule_def(name)
    repository = definitions.get_repository_def()
    context = dg.build_schedule_context(scheduled_execution_time=at, repository_def=repository)
    requests = schedule.evaluate_tick(context).run_requests
    assert requests is not None
    return schedule, requests[0]


def test_nightly_schedule_takes_the_last_complete_day(definitions: dg.Definitions) -> None:
    schedule, request = tick(definitions, "nightly_at_two", datetime(2025, 3, 10, 2, tzinfo=UTC))
    assert (schedule.cron_schedule, request.partition_key) == ("0 2 * * *", "2025-03-09")


def test_retrain_schedule_asks_for_all_recipes_in_one_run(definitions: dg.Definitions) -> None:
    schedule, request = tick(definitions, "retrain_on_sunday", datetime(2025, 3, 9, 4, tzinfo=UTC))
    assert schedule.cron_schedule == "0 4 * * 0"
    tags = request.tags
    assert (tags[ASSET_PARTITION_RANGE_START_TAG], tags[ASSET_PARTITION_RANGE_END_TAG]) == (
        "popularity",
        "tiger",
    )


def test_late_day_is_watched(definitions: dg.Definitions) -> None:
    checks = {key.name for key in definitions.resolve_asset_graph().asset_check_keys}
    assert any(name.startswith("freshness_check") for name in checks)
