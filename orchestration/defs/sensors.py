"""What starts a run besides the clock."""

# Dagster compares the annotation of `context` with its classes, so annotations must not be strings here.

from datetime import date

import dagster as dg

from ml.artifacts import MANIFEST
from orchestration.defs.jobs import backfill
from orchestration.ingest.errors import IngestError
from orchestration.ingest.events import available_days
from orchestration.partitions import landing_partitions, partition_keys_of, source_spec
from orchestration.settings import get_settings


@dg.sensor(job=backfill, minimum_interval_seconds=60)
def landing_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Start a backfill for each day whose file has landed and is not in the lake yet."""
    settings = get_settings()
    try:
        landed = available_days(source_spec(), settings.landing)
    except IngestError as error:
        return dg.SkipReason(str(error))
    waiting = [day for day in landed if not _in_lake(day)]
    known = set(landing_partitions().get_partition_keys())
    keys = sorted({partition_keys_of([day])[0] for day in waiting} & known)
    if not keys:
        return dg.SkipReason(f"nothing new below {settings.landing}")
    return dg.SensorResult([dg.RunRequest(run_key=f"landed {key}", partition_key=key) for key in keys])


def _in_lake(day: date) -> bool:
    return (get_settings().lake / "events" / f"day={day.isoformat()}" / MANIFEST).is_file()
