"""Ours: ``python -m benchmarks.peers.run_tessera DATA SETTING OUT``."""

from __future__ import annotations

from typing import Any

import lightning.fabric  # noqa: F401  (so that training does not wait for its import)
import numpy as np

from benchmarks.peers.side import Clock, Task
from ml.evaluation.splits import Queries, Split, split
from ml.histories import Histories, ranges
from ml.recommenders import build
from ml.recommenders.batches import Plans, windows
from ml.snapshot import Catalogue


def recommender(setting: dict[str, Any]) -> dict[str, Any]:
    """Return the recommender that a setting asks for: as a peer trains it, at a constant rate and to the last epoch."""
    loss = {"sampled": {"kind": "sampled", "negatives": setting["negatives"]}, "full": {"kind": "full"}}
    return {
        "kind": "sequential",
        "d": setting["d"],
        "blocks": setting["blocks"],
        "block": {"kind": "attention", "heads": setting["heads"]},
        "max_length": setting["max_length"],
        "dropout": setting["dropout"],
        "loss": loss[setting["loss"]],
        "batch_tokens": setting["batch_tokens"],
        "learning_rate": setting["learning_rate"],
        "warmup": 0,
        "decay": "constant",
        "epochs": setting["epochs"],
    } | setting.get("ours", {})


def main() -> None:
    """Train, then answer every history."""
    task = Task.read()
    setting = task.setting
    lengths = np.diff(task.offsets)
    zeros = np.zeros(len(task.items), np.int8)
    times = ranges(np.zeros_like(lengths), lengths)
    parts = split(Histories(task.offsets, task.items, zeros, times), "leave_one_out")
    nothing = np.zeros(0, np.int64)
    # No look at validation while the clock runs: the peers take none.
    unseen = Split(
        parts.protocol,
        parts.train,
        Queries(nothing.astype(np.int32), parts.train.rows(nothing), nothing.astype(np.int32)),
        parts.test,
    )
    made = build(recommender(setting))
    clock = Clock()
    report = made.fit(unseen, Catalogue.unknown(task.n_items), setting["seed"])
    _, cpu = clock.read()
    epochs = [report["seconds"] / setting["epochs"]] * setting["epochs"]
    steps = len(Plans(windows(parts.train, setting["max_length"]), setting["batch_tokens"]))
    task.trained(epochs, cpu, steps)
    clock = Clock()
    items, scores = made.recommend(parts.test.histories, setting["k"])
    task.write(items, scores, clock.read()[0], "tessera", "torch", "numpy")


if __name__ == "__main__":
    main()
