from __future__ import annotations

import dagster as dg

from orchestration.demo import release_dead_runs


def test_pool_of_a_killed_run_is_free_again() -> None:
    with dg.instance_for_test() as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("warehouse", 1)
        run = instance.run_storage.add_run(
            dg.DagsterRun(
                "backfill", run_id="11111111-1111-1111-1111-111111111111", status=dg.DagsterRunStatus.STARTED
            )
        )
        assert storage.claim_concurrency_slot("warehouse", run.run_id, "step").is_claimed
        assert not storage.claim_concurrency_slot("warehouse", "another", "step").is_claimed
        release_dead_runs(instance)
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        assert storage.claim_concurrency_slot("warehouse", "next", "step").is_claimed


def test_pool_that_was_promised_to_a_killed_run_is_free_again() -> None:
    """A run that died after the pool was assigned to its step, and before it took it, holds it as well."""
    with dg.instance_for_test() as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("warehouse", 1)
        first, dead = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
        for run_id in (first, dead):
            instance.run_storage.add_run(
                dg.DagsterRun("backfill", run_id=run_id, status=dg.DagsterRunStatus.STARTED)
            )
            storage.claim_concurrency_slot("warehouse", run_id, "step")
        storage.free_concurrency_slots_for_run(first)
        assert storage.get_concurrency_info("warehouse").assigned_run_ids == {dead}
        release_dead_runs(instance)
        assert storage.claim_concurrency_slot("warehouse", "next", "step").is_claimed
