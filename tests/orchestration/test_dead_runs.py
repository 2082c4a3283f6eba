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
