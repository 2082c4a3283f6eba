"""Full-size runs that wait for a GPU: ``python -m benchmarks.run_queue`` runs what stands in ``queue/`` and moves what is done.

A run is a YAML file: what it is for, the files it needs, its command, and the result that it writes.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

QUEUE = Path(__file__).parent / "queue"


class Waiting(BaseModel):
    """A run that waits.

    Parameters
    ----------
    title
        What it is to show.
    needs
        Paths that must exist, relative to where the queue is run.
    command
        Of a shell without a shell: ``python`` is the one that runs the queue.
    writes
        The result; the run is done when the command has succeeded and this is there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    needs: tuple[Path, ...] = ()
    command: str
    writes: Path


def waiting(queue: Path = QUEUE) -> dict[Path, Waiting]:
    """Read every run of the queue, by file.

    Raises
    ------
    ValueError
        If a file is not such a run; the message is one line.
    """
    found = {}
    for path in sorted(queue.glob("*.yaml")):
        try:
            found[path] = Waiting.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (ValidationError, yaml.YAMLError) as error:
            raise ValueError(f"{path} is no run: {' '.join(str(error).split())}") from None
    return found


def run(path: Path, asked: Waiting) -> str | None:
    """Do one run, and move its file to ``done/`` beside it; return why it was not done, or None."""
    if missing := [str(need) for need in asked.needs if not need.exists()]:
        return f"needs {', '.join(missing)}"
    words = shlex.split(asked.command)
    if words[0] == "python":
        words[0] = sys.executable
    ended = subprocess.run(words, check=False)
    if ended.returncode:
        return f"ended with {ended.returncode}"
    if not asked.writes.is_file():
        return f"did not write {asked.writes}"
    done = path.parent / "done" / path.name
    done.parent.mkdir(exist_ok=True)
    path.rename(done)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 if something could not be done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_queue", description=__doc__)
    parser.add_argument(
        "names", nargs="*", help="of files in the queue, without their ending; all by default"
    )
    parser.add_argument("--cpu", action="store_true", help="run without a GPU too")
    parser.add_argument("--queue", type=Path, default=QUEUE)
    options = parser.parse_args(argv)
    try:
        asked = waiting(options.queue)
    except ValueError as error:
        parser.error(str(error))
    if unknown := set(options.names) - {path.stem for path in asked}:
        parser.error(
            f"nothing called {sorted(unknown)[0]!r} waits; waiting: {', '.join(p.stem for p in asked)}"
        )
    if not options.cpu and not torch.cuda.is_available():
        parser.error("there is no GPU here; --cpu runs the queue all the same")
    failed = 0
    for path, one in asked.items():
        if options.names and path.stem not in options.names:
            continue
        sys.stderr.write(f"{path.stem}: {one.title}\n")
        if why := run(path, one):
            failed += 1
            sys.stderr.write(f"{path.stem}: {why}\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
