"""RecBole: ``python -m benchmarks.peers.run_recbole DATA SETTING OUT`` in its own environment."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

from benchmarks.peers.side import Clock, Task


class Timed(Trainer):
    """RecBole's trainer, which notes how long every epoch took."""

    epochs_seconds: list[float]
    steps = 0

    def _train_epoch(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        loss = super()._train_epoch(train_data, *args, **kwargs)
        self.epochs_seconds = [*getattr(self, "epochs_seconds", []), time.perf_counter() - began]
        self.steps = len(train_data)
        return loss


def main() -> None:
    """Train, then answer every history."""
    task = Task.read()
    # RecBole writes logs below the working directory.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        config = configure(task, Path(folder))
        init_seed(config["seed"], config["reproducibility"])
        data = create_dataset(config)
        train, _, test = data_preparation(config, data)
        model = SASRec(config, train.dataset)
        trainer = Timed(config, model)
        clock = Clock()
        trainer.fit(train, valid_data=None, saved=False, show_progress=False)
        task.trained(trainer.epochs_seconds, clock.read()[1], trainer.steps)
        clock = Clock()
        items, scores = answer(model, test.dataset, task)
        task.write(items, scores, clock.read()[0], "recbole", "torch", "numpy")


def configure(task: Task, folder: Path) -> Config:
    """Write the histories as RecBole reads them, and say what to do with them."""
    setting = task.setting
    users, items = task.without_last(0)
    (folder / "task").mkdir()
    with (folder / "task" / "task.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        file.writelines(f"{user}\t{item}\t{place}\n" for place, (user, item) in enumerate(zip(users, items)))  # noqa: B905
    told = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        "MAX_ITEM_LIST_LENGTH": setting["max_length"],
        "n_layers": setting["blocks"],
        "n_heads": setting["heads"],
        "hidden_size": setting["d"],
        "inner_size": setting["d"],
        "hidden_act": "relu",
        "hidden_dropout_prob": setting["dropout"],
        "attn_dropout_prob": setting["dropout"],
        "loss_type": {"full": "CE"}[setting["loss"]],
        "train_neg_sample_args": None,
        "train_batch_size": setting["batch"],
        "learning_rate": setting["learning_rate"],
        "epochs": setting["epochs"],
        "seed": setting["seed"],
        "use_gpu": False,
        "state": "ERROR",
    }
    return Config(model="SASRec", dataset="task", config_dict=told)


@torch.no_grad()
def answer(model: Any, test: Any, task: Task) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the best items of every user, not those of the history.

    RecBole does not exclude the history of sequential models, so it is done here.
    """
    model.eval()
    k, n = task.setting["k"], len(task.offsets) - 1
    token = test.field2id_token["item_id"]
    index = np.array([-1, *(int(one) for one in token[1:])])
    place = torch.zeros(task.n_items, dtype=torch.int64)
    place[torch.from_numpy(index[1:])] = torch.arange(1, len(index))
    rows = np.array([int(one) for one in test.field2id_token["user_id"][test.inter_feat["user_id"].numpy()]])
    users, seen = task.without_last(1)
    first = np.searchsorted(users, np.arange(n + 1))
    items, scores = np.full((n, k), -1), np.full((n, k), -np.inf)
    for start in range(0, len(rows), 1024):
        some = rows[start : start + 1024]
        dense = model.full_sort_predict(test.inter_feat[torch.arange(start, start + len(some))])
        dense[:, 0] = -torch.inf
        history = [seen[first[user] : first[user + 1]] for user in some]
        row = np.repeat(np.arange(len(some)), [len(one) for one in history])
        dense[torch.from_numpy(row), place[torch.from_numpy(np.concatenate(history)).long()]] = -torch.inf
        best = torch.topk(dense, k)
        items[some], scores[some] = index[best.indices.numpy()], best.values.numpy()
    return items, scores


if __name__ == "__main__":
    main()
