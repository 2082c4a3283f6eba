"""``python -m benchmarks.replay --source NAME --data FOLDER --days N --until DATE``: the nights of a log, one by one.

All days before the last ``N`` are loaded and the recipes trained on them once. Then three policies live through the
same nights:

- ``frozen``: model, index and lists stay as they were on the first morning;
- ``nightly``: the model stays, and every night refreshes features, index and lists by the project's ``nightly`` job;
- ``weekly``: that, and the project's ``retrain`` job after every seventh night.

The lists of each night are held against what users met for the first time on the day that follows. Writes
``results/replay-SOURCE.json`` and ``docs/replay/SOURCE.md`` with its picture. What a run that died had finished is kept
in the folder, and the same call goes on from there.
"""

from __future__ import annotations

import os
import platform
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.record import RESULTS, machine
from benchmarks.replay import judge, nights
from benchmarks.replay.page import write_page
from ml.artifacts import hash_file, hash_json, package_versions, read_json, write_json
from ml.evaluation.metrics import accuracy, ndcg
from ml.evaluation.significance import paired_bootstrap
from orchestration.ingest.events import available_days
from orchestration.ingest.spec import SourceSpec, load_spec
from orchestration.settings import REPO, Settings
from orchestration.simulate import simulate
from orchestration.simulate.config import SimulationConfig

POLICIES = ("frozen", "nightly", "weekly")
POPULARITY = "popularity"
RETRAIN_EVERY = 7
RECIPES = "popularity,transitions,graph-heuristic,sasrec"
# Where it runs, how fast, and who is told; and what is asked by arguments.
_NOT_ASKED = {
    *("home", "source", "data", "clock", "recipes"),
    *("training_workers", "duckdb_memory", "duckdb_threads"),
    *("owner", "ui_url", "alert_webhook", "dagster_postgres", "mlflow_uri"),
}


def main(
    source: Annotated[str, typer.Option(help="Name of a source, or a path to your own YAML.")] = "simulator",
    data: Annotated[
        Path | None, typer.Option(help="Its files; the simulator makes its own without it.")
    ] = None,
    days: Annotated[int, typer.Option(min=2, help="Days that are lived through.")] = 14,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The last of them; the log's last day else.")
    ] = None,
    recipes: Annotated[str, typer.Option(help="What is trained, comma-separated.")] = RECIPES,
    folder: Annotated[Path | None, typer.Option(help="Where homes and kept nights go.")] = None,
) -> None:
    """Live through the days, judge them, and write the record and its page."""
    spec = load_spec(source)
    work = (folder or Path(tempfile.gettempdir()) / f"tessera-replay-{spec.name}").resolve()
    os.environ["TESSERA_RECIPES"] = recipes
    logs = data.resolve() if data is not None else _simulated(work)
    known = [day for day in available_days(spec, logs) if until is None or day <= until.date()]
    if len(known) <= days:
        raise SystemExit(f"error: {logs} has {len(known)} days until then, and {days} are to be replayed")
    replayed = [known[-1] - timedelta(days=n) for n in reversed(range(days))]
    asked = what_is_asked(spec, logs, known[0], replayed, recipes.split(","))
    nights.claim(work, asked)
    landing = nights.Landing(spec, logs, work / "landing")
    live(work, landing, known[0], replayed)
    told = judged(work, list(spec.history_event_types), replayed)
    about = {
        "benchmark": f"replay-{spec.name}",
        "machine": machine(),
        "versions": asked["versions"],
        "code": asked["code"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": spec.name,
        "recipes": asked["recipes"],
        "first_day_loaded": asked["first_day_loaded"],
        "start": read_json(work / "start.json"),
    }
    path = RESULTS / f"replay-{spec.name}.json"
    write_json(path, about | told)
    typer.echo(f"{path}\n{write_page(spec.name, read_json(path))}")


def what_is_asked(
    spec: SourceSpec, logs: Path, first: date, days: list[date], recipes: list[str]
) -> dict[str, Any]:
    """Return all that decides what the nights of these days come to, JSON-able, without secrets."""
    return {
        "source": spec.model_dump(mode="json"),
        "data": str(logs),
        "first_day_loaded": str(first),
        "days": [str(days[0]), str(days[-1])],
        "recipes": recipes,
        "retrain_every": RETRAIN_EVERY,
        "settings": Settings().model_dump(mode="json", exclude=_NOT_ASKED),
        "code": code_of_nights(),
        "versions": {"python": platform.python_version(), **package_versions("tessera", "torch", "dagster")},
    }


def code_of_nights() -> str:
    """Return 16 hex digits over the files that jobs and training run by."""
    files = [
        path
        for folder in ("orchestration", "dbt_project", "feature_repo", "ml", "serving")
        for path in sorted((REPO / folder).rglob("*"))
        if path.suffix in (".py", ".sql", ".yaml", ".yml") and "target" not in path.parts
    ]
    return hash_json([(path.relative_to(REPO).as_posix(), hash_file(path)) for path in files])


def live(work: Path, landing: nights.Landing, first: date, days: list[date]) -> None:
    """Load what was before, train once, and run every night of every policy that is not kept yet."""
    start, kept = work / "start", work / "kept"
    before = days[0] - timedelta(days=1)
    if not nights.has_kept(kept / "start"):
        loaded = nights.do(start, landing, "backfill", first, before)
        trained = nights.do(start, landing, "retrain", before, before)
        write_json(work / "start.json", {"backfill": loaded, "retrain": trained})
        nights.keep(start, kept / "start", {})
    for policy in POLICIES[1:]:
        home = work / policy
        nights.begin(start, home)
        for number, day in enumerate(days, 1):
            if nights.has_kept(kept / policy / str(day)):
                continue
            told = {"nightly": nights.do(home, landing, "nightly", day, day)}
            if policy == "weekly" and number % RETRAIN_EVERY == 0:
                told["retrain"] = nights.do(home, landing, "retrain", day, day)
            nights.keep(home, kept / policy / str(day), told)


def judged(work: Path, event_types: list[str], days: list[date]) -> dict[str, Any]:
    """Hold the lists of every policy against every day; return what `benchmarks.replay.page` shows."""
    kept = work / "kept"
    meetings = judge.read_meetings(work / "nightly" / "lake", event_types)
    first = judge.read_lists(kept / "start")
    gains: dict[str, list[NDArray[np.float64]]] = {name: [] for name in (*POLICIES, POPULARITY)}
    before = dict.fromkeys(POLICIES, first)
    rows = []
    for day in days:
        night = str(day - timedelta(days=1))
        row: dict[str, Any] = {"day": str(day), "policies": {}}
        row |= judge.drift_on(day, meetings, days[0]) | judge.newcomers_on(day, meetings, days[0])
        for policy in POLICIES:
            made = kept / policy / night
            lists = judge.read_lists(made) if made.is_dir() else first
            ranks = judge.ranks_on(day, lists, meetings)
            gains[policy].append(ndcg(ranks, judge.DEPTH))
            done = read_json(made / nights.KEPT) if made.is_dir() else {}
            row["policies"][policy] = {
                **accuracy(ranks, judge.DEPTH),
                "champion": lists.recipe,
                "churn": judge.churn(lists, before[policy]),
                "groups": {job: told["groups"] for job, told in done.items()},
                "seconds": {job: told["seconds"] for job, told in done.items()},
                "peak_mb": {job: told["peak_mb"] for job, told in done.items()},
            }
            before[policy] = lists
            if policy == "nightly":
                popular = judge.ranks_on(day, lists, meetings, popular_only=True)
        gains[POPULARITY].append(ndcg(popular, judge.DEPTH))
        row |= {"queries": len(popular), POPULARITY: accuracy(popular, judge.DEPTH)}
        rows.append(row)
    return {"rows": rows, "summary": _summary(gains)}


def _summary(gains: dict[str, list[NDArray[np.float64]]]) -> dict[str, Any]:
    """Return NDCG over all days, and the paired differences between policies."""
    whole = {name: np.concatenate(parts) for name, parts in gains.items()}
    pairs = [("nightly", "frozen"), ("weekly", "nightly"), ("weekly", "frozen"), ("nightly", POPULARITY)]
    return {
        "queries": len(whole["frozen"]),
        f"ndcg@{judge.DEPTH}": {name: float(values.mean()) for name, values in whole.items()},
        "differences": {f"{a} - {b}": paired_bootstrap(whole[a], whole[b])._asdict() for a, b in pairs},
    }


def _simulated(work: Path) -> Path:
    logs = work / "logs"
    if not logs.is_dir():
        simulate(SimulationConfig(), work / "part", work / "truth")
        (work / "part").rename(logs)
    return logs


if __name__ == "__main__":
    typer.run(main)
