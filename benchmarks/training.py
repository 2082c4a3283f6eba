"""SASRec trained by us, by RecTools and by RecBole: seconds an epoch, what it is worth, memory, seconds to answer.

``python -m benchmarks.training`` (``make bench-training``) makes a virtual environment for each peer of
``peers.txt``, trains the same SASRec on both sides of every case, one process at a time on the same cores, and writes
``results/training.json``. A side writes lists of 50 items, which are judged here by `ml.evaluation`: leave-one-out,
the whole catalogue ranked, history excluded. The sides are the scripts in ``peers/``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.record import RESULTS, Row, write
from benchmarks.vectors import read
from ml.evaluation.evaluate import Evaluation, evaluate
from ml.evaluation.metrics import ndcg
from ml.evaluation.significance import paired_bootstrap
from ml.evaluation.splits import Split, split
from ml.histories import NO_ITEM, Histories

PEERS = Path(__file__).with_name("peers.txt")
METRIC = "ndcg@10"
#: Of every side. ``batch`` counts as the peer counts.
SETTING: dict[str, Any] = {
    "d": 64,
    "blocks": 2,
    "heads": 1,
    "max_length": 50,
    "batch": 256,
    "dropout": 0.2,
    "learning_rate": 1e-3,
    "negatives": 256,
    "k": 50,
}


@dataclass(frozen=True)
class Case:
    """A loss on our side and on a peer's.

    Parameters
    ----------
    peer
        Section of ``peers.txt``.
    name
        The peer, for a reader.
    loss
        ``sampled`` or ``full``.
    whole_histories
        Whether an example of the peer is a history with a target at every place, rather than one target with what
        came before it: 256 of them are 256 histories, or 256 targets.
    mismatch
        Where the two sides do not do the same.
    """

    peer: str
    name: str
    loss: str
    whole_histories: bool
    mismatch: tuple[str, ...]

    @property
    def title(self) -> str:
        """What is measured, for a reader."""
        loss = (
            f"sampled softmax, {SETTING['negatives']} negatives" if self.loss == "sampled" else "full softmax"
        )
        return f"SASRec, {loss}, batches of {SETTING['batch']} {'histories' if self.whole_histories else 'targets'}"


_RECTOOLS = (
    "peer: Adam with betas .9 and .98, Xavier start; ours: betas .9 and .999, normal start of deviation .02",
    "ours fills batches to as many targets as 256 mean histories have, so that similar lengths can share one",
)
CASES = (
    Case(
        "rectools",
        "RecTools",
        "sampled",
        True,
        (
            "peer draws 256 negatives for every place, ours 256 for the batch",
            "ours corrects scores by -log(256 q) and takes out draws of the own target, the peer neither",
            *_RECTOOLS,
        ),
    ),
    Case("rectools", "RecTools", "full", True, _RECTOOLS),
    Case(
        "recbole",
        "RecBole",
        "full",
        False,
        (
            "RecBole has no sampled softmax: both train the full one",
            "peer encodes every prefix of a history anew, ours reads a history once with a target at every place; "
            "both take 256 targets a step",
            "peer normalises after each branch and after the embedding, ours before each branch",
        ),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What one side came to; ``told`` is what `benchmarks.peers.side` notes."""

    told: dict[str, Any]
    judged: Evaluation

    @property
    def epoch(self) -> float:
        """Mean seconds of an epoch."""
        return float(np.mean(self.told["epoch_seconds"]))


class Lists:
    """Lists that were made elsewhere, as a recommender that is asked once, for all of them."""

    def __init__(self, items: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        self.items, self.scores = items, scores

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the lists, as far as they go; see `ml.recommenders.base.Recommender.recommend`."""
        if len(histories) != len(self.items):
            raise ValueError(f"{len(self.items)} lists for {len(histories)} histories")
        beyond = ((0, 0), (0, max(k - self.items.shape[1], 0)))
        items = np.pad(self.items[:, :k], beyond, constant_values=NO_ITEM)
        return items, np.pad(self.scores[:, :k], beyond, constant_values=-np.inf)


def main(
    dataset: Annotated[str, typer.Option(help="Folder of real logs.")] = "amazon-beauty-2014",
    root: Annotated[Path, typer.Option(envvar="TESSERA_DATASETS", help="Where they are.")] = Path("datasets"),
    epochs: Annotated[int, typer.Option(help="Of both sides of every case.")] = 3,
    users: Annotated[int | None, typer.Option(help="Take only so many.")] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Only this one; may be given more than once.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of every side.")] = os.cpu_count() or 1,
    environments: Annotated[Path, typer.Option(help="Where those of the peers are.")] = Path(".venv-peers"),
    results: Annotated[Path, typer.Option(help="Where the record goes.")] = RESULTS,
    seed: int = 0,
) -> None:
    """Run every case and write the record."""
    histories, texts = read(root / dataset, users)
    parts = split(histories, "leave_one_out")
    if len(parts.test) < len(histories):
        raise SystemExit("a history is too short for leave-one-out, and the peers would see another split")
    needed = sections(PEERS.read_text(encoding="utf-8"))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tessera-training-") as folder:
        data = Path(folder) / "histories.npz"
        np.savez(data, offsets=histories.offsets, items=histories.items, n_items=len(texts))
        for case in CASES:
            if peer and case.peer not in peer:
                continue
            python = environment(case.peer, needed[case.peer], environments)
            asked = setting(case, parts.train, epochs, seed)
            found = []
            for interpreter, module in ((Path(sys.executable), "tessera"), (python, case.peer)):
                told, lists = run(interpreter, module, data, asked, threads)
                found.append(Outcome(told, judge(lists, parts, len(texts))))
            ours, theirs = found
            told = {"dataset": dataset, "threads": threads, "setting": asked}
            rows += compare(case, ours, theirs, told)

            def longer(epochs: int, asked: dict[str, Any] = asked) -> Outcome:
                made, lists = run(Path(sys.executable), "tessera", data, asked | {"epochs": epochs}, threads)
                return Outcome(made, judge(lists, parts, len(texts)))

            rows.append(until_as_good(case, ours, theirs, longer))
    path = write("training", rows, seed, results)
    sys.stdout.write(f"{path}\n")


def sections(text: str) -> dict[str, str]:
    """Return what stands below each ``[name]``."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("["):
            name = line.strip("[] ")
            found[name] = ""
        elif name:
            found[name] += f"{line}\n"
    return found


def environment(name: str, requirements: str, root: Path) -> Path:
    """Make a virtual environment, or take the one that was made of the same requirements; return its interpreter."""
    folder = (root / name).absolute()
    python, made_of = folder / "bin" / "python", folder / "requirements.txt"
    told = folder / "complete"
    if not told.is_file() or made_of.read_text(encoding="utf-8") != requirements:
        sys.stdout.write(f"installing {name} into {folder}\n")
        sys.stdout.flush()
        venv.create(folder, with_pip=True, clear=True)
        made_of.write_text(requirements, encoding="utf-8")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", made_of], check=True)
        told.touch()
    return python


def setting(case: Case, train: Histories, epochs: int, seed: int) -> dict[str, Any]:
    """Return what both sides of a case are told.

    ``batch_tokens`` is the peer's batch in targets, by which ours counts: so both take as many steps an epoch.
    """
    targets = np.maximum(train.lengths - 1, 0)
    mean = float(targets.sum() / max((targets > 0).sum(), 1))
    tokens = round(SETTING["batch"] * mean) if case.whole_histories else SETTING["batch"]
    return SETTING | {"loss": case.loss, "batch_tokens": tokens, "epochs": epochs, "seed": seed}


def run(
    python: Path, module: str, data: Path, asked: dict[str, Any], threads: int
) -> tuple[dict[str, Any], Lists]:
    """Run one side in a process of its own; return what it noted and its lists."""
    out = data.with_name("answers.npz")
    out.unlink(missing_ok=True)
    command = [str(python), "-W", "ignore", "-m", f"benchmarks.peers.run_{module}"]
    command += [str(data), json.dumps(asked), str(out)]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        env=own | dict.fromkeys(names, str(threads)),
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{module} failed:\n{done.stdout[-4000:]}")
    with np.load(out) as arrays:
        return json.loads(str(arrays["told"])), Lists(arrays["items"], arrays["scores"])


def judge(lists: Lists, parts: Split, n_items: int) -> Evaluation:
    """Evaluate lists, a row for every test query."""
    return evaluate(lists, parts.test, parts.train, n_items, lists.items.shape[1], batch=len(parts.test))


def compare(case: Case, ours: Outcome, peer: Outcome, told: dict[str, Any]) -> list[Row]:
    """Return and print the rows of a case."""
    sides = {"ours": ours, "peer": peer}
    gain = paired_bootstrap(ndcg(ours.judged.ranks, 10), ndcg(peer.judged.ranks, 10))
    extra = {
        "epoch": told
        | {f"{name}_told": side.told for name, side in sides.items()}
        | {"mismatch": list(case.mismatch)},
        METRIC: {
            "epochs": told["setting"]["epochs"],
            "difference": round(gain.mean, 5),
            "interval": [round(gain.low, 5), round(gain.high, 5)],
        }
        | {name: {**side.judged.metrics, "faults": side.judged.invalid} for name, side in sides.items()},
    }
    name, queries = case.name, len(ours.judged.ranks)
    rows = [
        Row(f"{case.title}: an epoch", ours.epoch, peer.epoch, name, "seconds", "lower", extra["epoch"]),
        Row(
            f"{case.title}: {METRIC} after {told['setting']['epochs']} epochs",
            ours.judged.metrics[METRIC],
            peer.judged.metrics[METRIC],
            name,
            METRIC,
            "higher",
            extra[METRIC],
        ),
        _told(f"{case.title}: peak memory of training", "peak_mb", ours, peer, name, "MB"),
        _told(f"{case.title}: top 50 of {queries:,} users", "score_seconds", ours, peer, name, "seconds"),
    ]
    for row in rows:
        sys.stdout.write(f"{row.case}: {row.ours:.4g}, {name}: {row.peer:.4g}, ratio {row.ratio}\n")
    sys.stdout.flush()
    return rows


def until_as_good(case: Case, ours: Outcome, peer: Outcome, longer: Callable[[int], Outcome]) -> Row:
    """Train our side for twice as many epochs until its lists are as good as the peer's; return and print the row.

    Raises
    ------
    SystemExit
        If they are not after 16 times the peer's epochs: then the two did not train the same.
    """
    epochs = most = len(peer.told["epoch_seconds"])
    while ours.judged.metrics[METRIC] < peer.judged.metrics[METRIC]:
        epochs *= 2
        if epochs > 16 * most:
            raise SystemExit(f"{case.title}: {METRIC} stays below the peer's after {epochs // 2} epochs")
        ours = longer(epochs)
    row = Row(
        f"{case.title}: training until {METRIC} is at least the peer's",
        round(float(np.sum(ours.told["epoch_seconds"])), 3),
        round(float(np.sum(peer.told["epoch_seconds"])), 3),
        case.name,
        "seconds",
        "lower",
        {
            "epochs": {"ours": epochs, "peer": most},
            METRIC: {"ours": ours.judged.metrics[METRIC], "peer": peer.judged.metrics[METRIC]},
        },
    )
    sys.stdout.write(f"{row.case}: {row.ours:.4g} ({epochs} epochs), {case.name}: {row.peer:.4g}\n")
    sys.stdout.flush()
    return row


def _told(title: str, key: str, ours: Outcome, peer: Outcome, name: str, unit: str) -> Row:
    return Row(title, round(ours.told[key], 3), round(peer.told[key], 3), name, unit, "lower")


if __name__ == "__main__":
    typer.run(main)
