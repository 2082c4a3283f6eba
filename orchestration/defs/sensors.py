"""What starts a run besides the clock."""

# Dagster compares the annotation of `context` with its classes, so annotations must not be strings here.

import dagster as dg

from ml.artifacts import MANIFEST, hash_json, read_json
from orchestration.defs.jobs import backfill
from orchestration.ingest.errors import IngestError
from orchestration.ingest.files import LandedFile, find_files
from orchestration.partitions import landing_partitions, partition_keys_of, source_spec
from orchestration.settings import get_settings


@dg.sensor(job=backfill, minimum_interval_seconds=60)
def landing_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Start a backfill of each partition with a daily file that has landed, or was replaced, since it was read.

    A file that failed is tried again once it changes.
    """
    settings, spec = get_settings(), source_spec()
    if not spec.events.daily:
        return dg.SkipReason(f"{spec.name} lands as one file of many days: run backfill by hand")
    try:
        landed = find_files(spec.events.path, settings.landing)
    except IngestError as error:
        return dg.SkipReason(str(error))
    known = set(landing_partitions().get_partition_keys())
    waiting: dict[str, list[object]] = {}
    for file in landed:
        if file.day is not None and not _is_read(file):
            key = partition_keys_of([file.day])[0]
            waiting.setdefault(key, []).append((file.name, file.bytes, file.path.stat().st_mtime_ns))
    requests = [
        dg.RunRequest(run_key=f"{key} {hash_json(files)}", partition_key=key)
        for key, files in sorted(waiting.items())
        if key in known
    ]
    return dg.SensorResult(requests) if requests else dg.SkipReason(f"nothing new below {settings.landing}")


def _is_read(file: LandedFile) -> bool:
    """Tell whether the lake day was made from a file of this name and size."""
    manifest = get_settings().lake / "events" / f"day={file.day}" / MANIFEST
    if not manifest.is_file():
        return False
    return {"name": file.name, "bytes": file.bytes} in read_json(manifest)["files"]
