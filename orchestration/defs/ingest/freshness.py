"""Whether the last complete day has landed."""

from __future__ import annotations

import dagster as dg

from orchestration.defs.ingest.assets import raw_events
from orchestration.partitions import source_spec


@dg.definitions
def freshness() -> dg.Definitions:
    """Return the freshness check of the daily asset with the sensor that evaluates it; a log that ended has none."""
    if source_spec().end_date is not None:
        return dg.Definitions()
    checks = dg.build_time_partition_freshness_checks(assets=[raw_events], deadline_cron="0 4 * * *")
    return dg.Definitions(
        asset_checks=checks, sensors=[dg.build_sensor_for_freshness_checks(freshness_checks=checks)]
    )
