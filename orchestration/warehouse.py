"""Which part of the warehouse a build must redo: the lake days whose content it has not seen yet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from pydantic import BaseModel

from ml.artifacts import MANIFEST, ArtifactError, hash_file, hash_folder, hash_json, read_json, write_json

ALWAYS = "always"
EVER = "0001-01-01"
UNFINISHED = "unfinished"


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
    items
        Date from which catalogue entries hold, or ``always``, to a hash of what facts see of these entries.
    catalogue
        Content hash of all that the catalogue says; null where there is none.
    """

    project: str
    days: dict[str, str]
    event_dates: dict[str, tuple[str | None, str | None]]
    items: dict[str, str] = {}
    catalogue: str | None = None


@dataclass(frozen=True)
class BuildPlan:
    """What to hand to dbt.

    Parameters
    ----------
    full
        Rebuild everything: the warehouse is new, the project changed, or the first day of the lake did.
    arrived_from
        First lake day to read again; ``None`` with a full build, as all dates are.
    min_date, max_date
        Event dates to redo, inclusive: no other row of a mart by event date differs.
    known_from
        First known date to redo: no feature row that was known before differs. ``0001-01-01`` stands for all.
    changed
        Lake days that differ from what the warehouse holds, vanished ones among them.
    loaded
        What to remember once the build has succeeded.
    """

    full: bool
    arrived_from: str | None
    min_date: str | None
    max_date: str | None
    known_from: str | None
    changed: tuple[str, ...]
    loaded: LoadedDays

    @property
    def variables(self) -> dict[str, str | None]:
        """The variables that tell dbt what to redo."""
        return {
            "arrived_from": self.arrived_from,
            "min_date": self.min_date,
            "max_date": self.max_date,
            "known_from": self.known_from,
        }

    def command(self, meaning: dict[str, Any]) -> list[str]:
        """Return what dbt is told: every model and its data tests, with ``meaning`` and the window as variables."""
        command = [
            "build",
            "--exclude-resource-type",
            "unit_test",
            "--vars",
            json.dumps(meaning | self.variables),
        ]
        return [*command, "--full-refresh"] if self.full else command


def plan_build(lake: Path, warehouse: Path, project_dir: Path, variables: dict[str, Any]) -> BuildPlan:
    """Compare the lake with what the warehouse was built from.

    Parameters
    ----------
    lake
        Folder with ``events/day=*/manifest.json`` and ``items/items.parquet``.
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
    items = lake / "items" / MANIFEST
    now = LoadedDays(
        project=hash_json([_project_hash(project_dir), variables]),
        days={day: manifest["content_hash"] for day, manifest in sorted(manifests.items())},
        event_dates={day: (m["min_event_date"], m["max_event_date"]) for day, m in sorted(manifests.items())},
        items=_item_hashes(lake / "items" / "items.parquet"),
        catalogue=read_json(items)["content_hash"] if items.is_file() else None,
    )
    return plan_between(read_loaded(warehouse), now)


def plan_between(before: LoadedDays | None, now: LoadedDays) -> BuildPlan:
    """Tell which rows differ between what was built from ``before`` and what is built from ``now``.

    All that arrived since the first changed lake day is redone. An event counts as it was first delivered, so a
    changed day can change no row of an earlier one, but any of a later one that holds an event again; and the
    features of all later days must be redone anyway.

    Parameters
    ----------
    before
        What was loaded; ``None`` where nothing was.
    now
        What the lake holds.

    Returns
    -------
    BuildPlan
        With nothing new, one that redoes the last day, since dbt has to be told some window.
    """
    days = sorted(before.days.keys() | now.days.keys()) if before else sorted(now.days)
    changed = tuple(day for day in days if before is None or before.days.get(day) != now.days.get(day))
    if before is None or before.project != now.project or days[0] in changed:
        return BuildPlan(True, None, None, None, None, changed, now)
    first = min(changed, default=days[-1])
    held = [
        date
        for loaded in (before, now)
        for day, dates in loaded.event_dates.items()
        for date in dates
        if day >= first and date is not None
    ]
    entries = before.items.keys() | now.items.keys()
    described = [
        EVER if date == ALWAYS else date for date in entries if before.items.get(date) != now.items.get(date)
    ]
    return BuildPlan(
        full=False,
        arrived_from=first,
        min_date=min([first, *held]),
        max_date=max([first, *held]),
        known_from=min([first, *described]),
        changed=changed,
        loaded=now,
    )


def read_loaded(warehouse: Path) -> LoadedDays | None:
    """Return what the warehouse was built from, or ``None`` where it never was."""
    path = _state_file(warehouse)
    if not warehouse.is_file() or not path.is_file():
        return None
    return LoadedDays.model_validate(read_json(path))


def begin(warehouse: Path, plan: BuildPlan) -> None:
    """Record, before a build, what it is about to change: should it die, the next one redoes that.

    Without this, a lake that returned to its old content after a build had died would look unchanged, although
    the warehouse holds part of the new.
    """
    before = read_loaded(warehouse)
    if before is None or plan.full or plan.arrived_from is None or plan.known_from is None:
        _state_file(warehouse).unlink(missing_ok=True)
        return
    days = before.days | dict.fromkeys([plan.arrived_from, *plan.changed], UNFINISHED)
    items = before.items | plan.loaded.items
    items = {
        d: h if before.items.get(d) == plan.loaded.items.get(d) else UNFINISHED for d, h in items.items()
    }
    held = {
        day: _hull(before.event_dates.get(day), plan.loaded.event_dates.get(day))
        for day in sorted(before.event_dates.keys() | plan.loaded.event_dates.keys())
    }
    remember(warehouse, before.model_copy(update={"days": days, "event_dates": held, "items": items}))


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


def _item_hashes(items: Path) -> dict[str, str]:
    """Hash what facts see of the catalogue, by the UTC date from which it holds.

    That is an item's coarsest category and its price, of the last entry for a time; anything else of an entry shows
    in tables that are rebuilt whole.
    """
    if not items.is_file():
        return {}
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": False}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(
            """
            SELECT coalesce(CAST(CAST(valid_from AS DATE) AS VARCHAR), ?) AS date,
                CAST(sum(CAST(hash(item_id, valid_from, category, price) AS HUGEINT)) AS VARCHAR)
            FROM (
                SELECT item_id, valid_from, categories[1] AS category, price,
                    row_number() OVER (PARTITION BY item_id, valid_from ORDER BY source_file DESC, source_row DESC) AS n
                FROM read_parquet(?)
            ) WHERE n = 1 GROUP BY date ORDER BY date""",
            [ALWAYS, str(items)],
        ).fetchall()
    return dict(rows)


def _hull(*ranges: tuple[str | None, str | None] | None) -> tuple[str | None, str | None]:
    dates = [date for span in ranges if span for date in span if date is not None]
    return (min(dates), max(dates)) if dates else (None, None)


def _state_file(warehouse: Path) -> Path:
    return warehouse.with_suffix(".loaded.json")


def _project_hash(project_dir: Path) -> str:
    folders = [hash_folder(project_dir / name) for name in ("models", "macros")]
    return hash_json([*folders, hash_file(project_dir / "dbt_project.yml")])
