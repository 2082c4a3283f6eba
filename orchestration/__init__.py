"""The Dagster project: assets, checks, jobs, schedules and sensors. The only package that may import every other one."""

from __future__ import annotations

import os

# The one place where telemetry, update checks and model downloads are switched off, for this process and its children.
QUIET = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DAGSTER_DG_UPDATE_CHECK_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
