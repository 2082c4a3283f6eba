"""The simulation as a whole: from a configuration to landing files, their truth, and a report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ml.artifacts import ArtifactError, Manifest, hash_json, package_versions, read_json, write_json
from orchestration.simulate.catalogue import build_catalogue
from orchestration.simulate.config import SimulationConfig, SimulationError
from orchestration.simulate.events import EVENT_TYPES, Events, World, day_chunks
from orchestration.simulate.faults import DAMAGES, damaged, deliver
from orchestration.simulate.truth import truth_stands, write_truth
from orchestration.simulate.users import build_users
from orchestration.simulate.write import Queue, atomic_file, day_name, event_lines, item_lines

MANIFEST = "simulation.json"
_FILES = "files.json"
_FORMAT = 1  # to be raised by whoever changes what a configuration produces


class FileReport(BaseModel):
    """Size of a landing file."""

    lines: int
    bytes: int


class SimulationReport(BaseModel):
    """What a simulation produced.

    Parameters
    ----------
    events
        Events that happened.
    types
        Events of each type among them, damaged ones included.
    faults
        Events that were late, duplicated, out of order or broken.
    damages
        Broken lines by what is wrong with them.
    files
        Path below the landing folder to its size.
    """

    model_config = ConfigDict(extra="forbid")

    events: int
    types: dict[str, int]
    faults: dict[str, int]
    damages: dict[str, int]
    files: dict[str, FileReport]


def simulate(config: SimulationConfig, landing: Path, truth: Path) -> SimulationReport:
    """Write the logs of a simulated shop, day by day, and the truth behind them.

    Memory holds the catalogue, the users, one chunk of a day, and the lines that are late. Where the same simulation
    already stands complete, nothing is written; files of an earlier, different one are replaced.

    Parameters
    ----------
    config
        What to simulate.
    landing
        Receives ``events/YYYY-MM-DD.jsonl``, one per day, and ``items/YYYY-MM-DD.jsonl``, one per day on which an
        item was launched or changed its price.
    truth
        Receives ``users.parquet``, ``items.parquet`` and, last, ``simulation.json``.

    Raises
    ------
    SimulationError
        If a file cannot be written.
    """
    version = hash_json([_FORMAT, config.model_dump(mode="json")])
    if (report := _standing(version, landing, truth)) is not None:
        return report
    world = build_world(config)
    try:
        _clear(world, landing, truth)
    except OSError as error:
        raise SimulationError(f"{truth} cannot be prepared: {error}") from None
    report = SimulationReport(
        events=0,
        types=dict.fromkeys(EVENT_TYPES, 0),
        faults=dict.fromkeys(("late", "duplicated", "out_of_order", "broken"), 0),
        damages=dict.fromkeys(DAMAGES, 0),
        files={},
    )
    queue = Queue()
    for day in range(config.days):
        _write_items(world, day, landing, report)
        _write_events(world, day, landing, queue, report)
    write_truth(world, truth)
    manifest = Manifest(
        kind="simulation",
        version=version,
        recipe=config.model_dump(mode="json"),
        seed=config.seed,
        packages=package_versions("numpy", "orjson", "pyarrow"),
        metrics=report.model_dump(),
    )
    _write_json(truth / MANIFEST, manifest.model_dump(mode="json"))
    return report


def build_world(config: SimulationConfig) -> World:
    """Build the catalogue and the audience of a simulation."""
    catalogue = build_catalogue(config, np.random.default_rng([config.seed, 0, 0]))
    return World(
        config, catalogue, build_users(config, catalogue, np.random.default_rng([config.seed, 0, 1]))
    )


def _standing(version: str, landing: Path, truth: Path) -> SimulationReport | None:
    """Return the report of the simulation that stands complete, if it is this one and all its files are there."""
    try:
        manifest = Manifest.model_validate(read_json(truth / MANIFEST))
        report = SimulationReport.model_validate(manifest.metrics)
        sizes = {name: (landing / name).stat().st_size for name in report.files}
    except (ArtifactError, ValidationError, OSError):
        return None
    complete = sizes == {name: file.bytes for name, file in report.files.items()} and truth_stands(truth)
    return report if complete and manifest.version == version else None


def _clear(world: World, landing: Path, truth: Path) -> None:
    """Withdraw the old simulation: its manifest, then those of its files that this one will not replace.

    ``files.json`` names all files that may be ours, at any moment, so that a killed run leaves no stray ones.
    """
    config = world.config
    touched = {0, *world.catalogue.launch_day.tolist(), *world.catalogue.reprice_day.tolist()} - {-1}
    planned = {f"events/{day_name(config, day)}" for day in range(config.days)}
    planned |= {f"items/{day_name(config, day)}" for day in touched}
    (truth / MANIFEST).unlink(missing_ok=True)
    try:
        old = set(read_json(truth / _FILES))
    except ArtifactError:
        old = set()
    write_json(truth / _FILES, sorted(planned | old))
    for name in old - planned:
        (landing / name).unlink(missing_ok=True)
    write_json(truth / _FILES, sorted(planned))


def _write_items(world: World, day: int, landing: Path, report: SimulationReport) -> None:
    lines = list(item_lines(day, world.config, world.catalogue))
    if lines:
        _write_file(landing, f"items/{day_name(world.config, day)}", iter([lines]), report)


def _write_events(world: World, day: int, landing: Path, queue: Queue, report: SimulationReport) -> None:
    def batches() -> Iterator[list[bytes]]:
        for part, (end, events) in enumerate(day_chunks(world, day)):
            _enqueue(world, events, np.random.default_rng([world.config.seed, 2, day, part]), queue, report)
            yield queue.take(before=end)

    _write_file(landing, f"events/{day_name(world.config, day)}", batches(), report)


def _enqueue(
    world: World, events: Events, rng: np.random.Generator, queue: Queue, report: SimulationReport
) -> None:
    """Turn events into lines, faults included, and count them."""
    deliveries = deliver(events, world.config, rng)
    written = event_lines(events, world.config, world.catalogue)
    lines = [written[row] for row in deliveries.row.tolist()]
    for i in np.flatnonzero(deliveries.damage >= 0).tolist():
        damage = DAMAGES[deliveries.damage[i]]
        lines[i] = damaged(lines[i], damage, rng)
        report.damages[damage] += 1
    queue.put(deliveries.arrival, lines)
    report.events += len(events)
    for kind, count in zip(
        EVENT_TYPES, np.bincount(events.kind, minlength=len(EVENT_TYPES)).tolist(), strict=True
    ):
        report.types[kind] += count
    for fault, count in deliveries.counts.items():
        report.faults[fault] += count


def _write_file(landing: Path, name: str, batches: Iterator[list[bytes]], report: SimulationReport) -> None:
    lines = size = 0
    with atomic_file(landing / name) as file:
        for batch in batches:
            size += file.write(b"".join(batch))
            lines += len(batch)
    report.files[name] = FileReport(lines=lines, bytes=size)


def _write_json(path: Path, value: object) -> None:
    try:
        write_json(path, value)
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error.strerror or error}") from None
