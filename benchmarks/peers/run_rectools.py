"""RecTools: ``python -m benchmarks.peers.run_rectools DATA SETTING OUT`` in its own environment."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from benchmarks.peers.side import NOTHING, Clock, Task


class Seconds(Callback):
    """Notes how long every epoch took."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.steps = 0

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop it."""
        self.epochs.append(time.perf_counter() - self.began)
        self.steps = trainer.num_training_batches


def main() -> None:
    """Train, then answer every history."""
    task = Task.read()
    setting = task.setting
    seed_everything(setting["seed"], verbose=False)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=setting["epochs"],
            min_epochs=setting["epochs"],
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Seconds()],
        )

    model = SASRecModel(
        n_blocks=setting["blocks"],
        n_heads=setting["heads"],
        n_factors=setting["d"],
        dropout_rate=setting["dropout"],
        session_max_len=setting["max_length"],
        loss={"sampled": "sampled_softmax", "full": "softmax"}[setting["loss"]],
        n_negatives=setting["negatives"],
        lr=setting["learning_rate"],
        batch_size=setting["batch"],
        epochs=setting["epochs"],
        get_trainer_func=trainer,
        recommend_torch_device="cpu",
    )
    data = dataset(*task.without_last(2))
    clock = Clock()
    model.fit(data)
    # The trainer that fits is a copy of the one that was made above.
    seconds = next(one for one in model.fit_trainer.callbacks if isinstance(one, Seconds))
    task.trained(seconds.epochs, clock.read()[1], seconds.steps)
    users = np.arange(len(task.offsets) - 1)
    asked = dataset(*task.without_last(1))
    clock = Clock()
    answers = model.recommend(users=users, dataset=asked, k=setting["k"], filter_viewed=True)
    items = np.full((len(users), setting["k"]), NOTHING)
    scores = np.full(items.shape, -np.inf)
    place = answers[Columns.User].to_numpy(), answers[Columns.Rank].to_numpy() - 1
    items[place], scores[place] = answers[Columns.Item], answers[Columns.Score]
    task.write(items, scores, clock.read()[0], "rectools", "pytorch-lightning", "torch", "numpy")


def dataset(users: NDArray[np.int64], items: NDArray[np.int32]) -> Dataset:
    """Make a data set whose order in time is the order of the arrays."""
    # Times only have to rise.
    when = pd.Timestamp("2000-01-01") + pd.to_timedelta(np.arange(len(items)), unit="s")
    frame = {Columns.User: users, Columns.Item: items, Columns.Weight: 1.0, Columns.Datetime: when}
    return Dataset.construct(pd.DataFrame(frame))


if __name__ == "__main__":
    main()
