"""Which part of the warehouse a build must redo: the lake days whose content it has not seen yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ml.artifacts import MANIFEST, ArtifactError, hash_file, hash_folder, hash_json, read_json, write_json


class LoadedDays(BaseModel):
    """What the warehouse was last built from.

    Parameters
    ----------
    project
        Hash of the dbt project and of the variables it was built with.
    days
        Lake day to content hash.
    event_dates
        Lake day to the first and last event date it held; null where it held no event.
    """

    project: str
    days: dict[str, str]
    event_dates: dict[str, tuple[str | None, str | None]]


@dataclass(frozen=True)
class BuildPlan:
    """What to hand to dbt.

    Parameters
    ----------
    full
        Rebuild everything, because the warehouse is new, the project changed, or a day vanished.
    min_date, max_date
        Event dates to redo, inclusive; ``None`` with a full build.
    changed
        Lake days that differ from what the warehouse holds.
    loaded
        What to remember once the build has succeeded.
    """

    full: bool
    min_date: str | None
    max_date: str | None
    changed: tuple[str, ...]
    loaded: LoadedDays


def plan_build(lake: Path, warehouse: Path, project_dir: Path, variables: dict[str, Any]) -> BuildPlan:
    """Compare the lake with what the warehouse was built from.

    Parameters
    ----------
    lake
        Folder with ``events/day=*/manifest.json``.
    warehouse
        The DuckDB file; only its existence matters here.
    project_dir
        The dbt project.
    variables
        Variables that change the meaning of the tables.

    Raises
    ------
    ArtifactError
        If the lake holds no events.
    """
    manifests = {
        p.parent.name.removeprefix("day="): read_json(p) for p in (lake / "events").glob(f"day=*/{MANIFEST}")
    }
    if not manifests:
        raise ArtifactError(f"{lake / 'events'} holds no events: materialize raw_events first")
    now = LoadedDays(
        project=hash_json([_project_hash(project_dir), variables]),
        days={day: manifest["content_hash"] for day, manifest in sorted(manifests.items())},
        event_dates={day: (m["min_event_date"], m["max_event_date"]) for day, m in sorted(manifests.items())},
    )
    before = read_loaded(warehouse)
    if before is None or before.project != now.project or before.days.keys() - now.days.keys():
        return BuildPlan(True, None, None, tuple(now.days), now)
    changed = tuple(day for day, content in now.days.items() if before.days.get(day) != content)
    # A day that changed may have lost events of dates it no longer holds, so its own date is always redone;
    # with nothing new, one day is redone, since dbt has to be told some window.
    dates = [
        date
        for day in changed or (max(now.days),)
        for date in (manifests[day]["min_event_date"], manifests[day]["max_event_date"], day)
        if date is not None
    ]
    lost = [date for day in changed for date in before.event_dates.get(day, ()) if date is not None]
    return BuildPlan(False, min(dates + lost), max(dates + lost), changed, now)


def read_loaded(warehouse: Path) -> LoadedDays | None:
    """Return what the warehouse was built from, or ``None`` where it never was."""
    path = _state_file(warehouse)
    if not warehouse.is_file() or not path.is_file():
        return None
    return LoadedDays.model_validate(read_json(path))


def remember(warehouse: Path, loaded: LoadedDays) -> None:
    """Record, after a build that succeeded, what it was made from."""
    write_json(_state_file(warehouse), loaded.model_dump())


def failures_of(run_results: Path) -> str:
    """Return, on one line, which nodes of a dbt build failed and why.

    Parameters
    ----------
    run_results
        The file that dbt writes at the end of a build.
    """
    if not run_results.is_file():
        return "dbt ended before it built anything; its log says why"
    failed = [
        f"{node['unique_id'].split('.')[2]}: {' '.join(str(node['message']).split())}"
        for node in read_json(run_results)["results"]
        if node["status"] in ("error", "fail")
    ]
    return "; ".join(failed) or "dbt failed; its log says why"


def _state_file(warehouse: Path) -> Path:
    return warehouse.with_suffix(".loaded.json")


def _project_hash(project_dir: Path) -> str:
    folders = [hash_folder(project_dir / name) for name in ("models", "macros")]
    return hash_json([*folders, hash_file(project_dir / "dbt_project.yml")])
