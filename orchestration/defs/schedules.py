"""When the jobs run, UTC."""

# Dagster compares the annotation of `context` with its classes, so annotations must not be strings here.

import dagster as dg

from orchestration.defs.jobs import nightly, retrain
from orchestration.partitions import landing_partitions, range_tags, recipe_partitions


@dg.schedule(job=nightly, cron_schedule="0 2 * * *", execution_timezone="UTC")
def nightly_at_two(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Run the last partition that is complete."""
    keys = landing_partitions().get_partition_keys(current_time=context.scheduled_execution_time)
    if not keys:
        return dg.SkipReason("no partition is complete yet")
    return dg.RunRequest(
        run_key=f"{keys[-1]} {context.scheduled_execution_time:%Y-%m-%d}", partition_key=keys[-1]
    )


@dg.schedule(job=retrain, cron_schedule="0 4 * * 0", execution_timezone="UTC")
def retrain_on_sunday() -> dg.RunRequest:
    """Train every recipe in one run."""
    recipes = recipe_partitions().get_partition_keys()
    return dg.RunRequest(tags=range_tags(recipes[0], recipes[-1]))
