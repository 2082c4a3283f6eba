"""One training loop for every network: steps, validation, early stop, checkpoints, one process or several."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ml.artifacts import ArtifactError, hash_json, is_complete, publish, read_json, write_json
from ml.evaluation.evaluate import evaluate
from ml.evaluation.splits import Split
from ml.recommenders.base import Recommender, RecommenderParams, reproducible

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger("ml.train")

#: Tensors with one row an example, so that several processes can share a batch.
Batch = tuple[Tensor, ...]

_STATE, _TENSORS = "manifest.json", "tensors.safetensors"
_CHECKPOINT_S = 30.0
_PROGRESS_S = 30.0


class TrainingParams(RecommenderParams):
    """Parameters of :func:`train_network`, among those of each recommender that is trained by it.

    Parameters
    ----------
    learning_rate, weight_decay
        Of AdamW.
    warmup, decay
        The rate rises over so many steps, and falls over all epochs: to a tenth (``linear``), to 0 (``cosine``), or
        not (``constant``).
    clip
        Greatest norm of the gradient; None for any.
    epochs, patience, evaluate_every, valid_users
        Most epochs; looks at NDCG@10 on a fixed sample of validation users, one every so many epochs, that may pass
        without a better one.
    precision
        As Lightning Fabric names it.
    compile
        Let torch compile the network.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=50, ge=0)
    decay: Literal["constant", "linear", "cosine"] = "linear"
    clip: float | None = Field(default=None, gt=0)
    epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=3, ge=1)
    evaluate_every: int = Field(default=1, ge=1)
    valid_users: int = Field(default=1000, ge=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    compile: bool = False


@dataclass
class _Progress:
    """What the loop has come to: all that a checkpoint holds beside tensors."""

    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    looks: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    targets: int = 0

    @property
    def best(self) -> int:
        """Epoch of the best look; that of the last epoch where nobody looked."""
        return int(max(self.looks, key=lambda epoch: self.looks[epoch])) if self.looks else self.epoch

    @property
    def looks_since_best(self) -> int:
        return list(self.looks).index(str(self.best)) - len(self.looks) + 1 if self.looks else 0


def train_network(
    network: nn.Module,
    batches: Callable[[np.random.Generator], Iterable[Batch]],
    steps: int,
    params: TrainingParams,
    seed: int,
    score: Callable[[], float] | None = None,
    checkpoints: Path | None = None,
    checkpoint_s: float = _CHECKPOINT_S,
    look_first: bool = False,
) -> dict[str, Any]:
    """Train ``network`` in place; the weights kept are those of the best look, of the last epoch without looks.

    An epoch's random choices follow from seed and number of the epoch alone, so a run that was killed and is
    resumed ends as one that was not. Under ``torchrun`` every process takes its share of the rows of each batch,
    weighted by their targets. The step is that of one process where the loss is a mean over targets, each told by its
    own row alone. It is another where rows of a batch are compared (cobra's rivals are the targets of a process's own
    rows, apao weighs prefixes by its own rows' losses), and in whatever is drawn: dropout, negatives, masks.

    Parameters
    ----------
    network
        Called with a batch, it returns the mean loss of the batch's targets and their number (a scalar tensor each).
        Where it has a method ``begin_epoch(rng)``, that is called before the batches of every epoch are drawn.
    batches
        One epoch of batches, in an order drawn from the generator; the same in every process.
    steps
        Batches of an epoch.
    params
        What to do.
    seed
        Of every random choice.
    score
        How good the network is now, larger being better; called in evaluation mode, without gradients.
    checkpoints
        Folder of resumable state; what is there of the same parameters and shapes is taken up. None keeps nothing.
    checkpoint_s
        Seconds that pass between two checkpoints, at least.
    look_first
        Look before the first epoch too: what was there stays, as epoch 0, unless training makes it better.

    Returns
    -------
    A JSON-able report; see `ml.recommenders.base.Recommender.fit`.

    Raises
    ------
    ValueError
        If the loss is no longer finite.
    ArtifactError
        If a checkpoint cannot be read.
    """
    with reproducible(seed):
        fabric = _fabric(params)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay, fused=True
        )
        model, optimizer = fabric.setup(torch.compile(network) if params.compile else network, optimizer)
        run = _Run(fabric, network, model, optimizer, params, steps, seed)
        if checkpoints is not None:
            run.resume(checkpoints)
        if look_first and score is not None and not run.progress.epoch:
            run.look(score)
        run.go(batches, score, checkpoints, checkpoint_s)
    return run.report()


def validation_score(
    recommender: Recommender, split: Split, n_items: int, users: int, seed: int
) -> Callable[[], float] | None:
    """Return what tells the recommender's NDCG@10 on a fixed sample of validation users; None without any."""
    sample = split.valid.draw(users, seed)
    if not len(sample):
        return None
    exclude = split.exclude_history
    return lambda: evaluate(recommender, sample, split.train, n_items, k=10, exclude_history=exclude).metrics[
        "ndcg@10"
    ]


def is_main_process() -> bool:
    """Tell whether this process writes: the only one, or the first of those that ``torchrun`` started."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    """Wait until every process is here; at once where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def rate(step: int, steps: int, warmup: int, decay: str) -> float:
    """Return the share of the learning rate at a step, from 0."""
    rising = min(1.0, (step + 1) / (warmup + 1))
    if decay == "constant":
        return rising
    done = step / steps
    return rising * (1 - 0.9 * done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


class _Run:
    """A network on its way."""

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        model: Callable[[Batch], tuple[Tensor, Tensor]],
        optimizer: torch.optim.Optimizer,
        params: TrainingParams,
        steps: int,
        seed: int,
    ) -> None:
        self.fabric, self.network, self.model, self.optimizer = fabric, network, model, optimizer
        self.params, self.steps, self.seed = params, steps, seed
        self.progress = _Progress()
        self.kept: dict[str, Tensor] = {}
        # What must be equal for a checkpoint to be of this run; epochs count, as the rate falls over them.
        shapes = [[name, list(tensor.shape)] for name, tensor in network.state_dict().items()]
        self.identity = hash_json([params.model_dump(mode="json"), shapes, steps, seed])

    def go(
        self,
        batches: Callable[[np.random.Generator], Iterable[Batch]],
        score: Callable[[], float] | None,
        checkpoints: Path | None,
        checkpoint_s: float,
    ) -> None:
        progress, params = self.progress, self.params
        saved = time.monotonic()
        while progress.epoch < params.epochs and progress.looks_since_best > -params.patience:
            began = time.perf_counter()
            self._epoch(batches)
            if score is not None and (
                progress.epoch % params.evaluate_every == 0 or progress.epoch == params.epochs
            ):
                self.look(score)
            progress.seconds += time.perf_counter() - began
            self._tell()
            if checkpoints is not None and time.monotonic() - saved >= checkpoint_s:
                self._save(checkpoints)
                saved = time.monotonic()
        if self.kept:
            self.network.load_state_dict(self.kept)
        self.network.eval()

    def _epoch(self, batches: Callable[[np.random.Generator], Iterable[Batch]]) -> None:
        progress, params = self.progress, self.params
        rng = np.random.default_rng([self.seed, progress.epoch])
        torch.manual_seed(int(rng.integers(2**63)))
        begin = getattr(self.network, "begin_epoch", None)
        if begin is not None:
            begin(rng)
        self.network.train()
        total, targets, told = 0.0, 0, time.monotonic()
        for step, batch in enumerate(batches(rng)):
            for group in self.optimizer.param_groups:
                group["lr"] = params.learning_rate * rate(
                    progress.epoch * self.steps + step,
                    params.epochs * self.steps,
                    params.warmup,
                    params.decay,
                )
            loss, n = self._step(batch)
            total, targets = total + n * loss, targets + n
            if time.monotonic() - told > _PROGRESS_S:
                told = time.monotonic()
                log.info(
                    "epoch %d, step %d of %d: loss %.4f",
                    progress.epoch + 1,
                    step + 1,
                    self.steps,
                    total / targets,
                )
        progress.epoch += 1
        progress.targets += targets
        progress.losses.append(total / max(targets, 1))
        if not math.isfinite(progress.losses[-1]):
            raise ValueError(
                f"the loss is {progress.losses[-1]} after epoch {progress.epoch}: lower the learning rate"
            )

    def _step(self, batch: Batch) -> tuple[float, int]:
        """Learn from one batch; return its mean loss and its number of targets, over all processes."""
        fabric = self.fabric
        mine, real = _share(batch, fabric.global_rank, fabric.world_size)
        loss, count = self.model(tuple(tensor.to(fabric.device, non_blocking=True) for tensor in mine))
        count = count.float() * real
        if fabric.world_size == 1:
            fabric.backward(loss)
        else:
            both = fabric.all_reduce(torch.stack([loss.detach().float() * count, count]), reduce_op="sum")
            # Gradients are averaged over the processes.
            fabric.backward(loss * (count * fabric.world_size / both[1].clamp(min=1)))
            loss, count = both[0] / both[1].clamp(min=1), both[1]
        if self.params.clip is not None:
            fabric.clip_gradients(self.network, self.optimizer, max_norm=self.params.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach()), int(count)

    @torch.no_grad()
    def look(self, score: Callable[[], float]) -> None:
        """See how good the network is now; keep the best."""
        self.network.eval()
        value = score() if self.fabric.global_rank == 0 else 0.0
        value = float(self.fabric.broadcast(value))
        if value > max(self.progress.looks.values(), default=-math.inf):
            self.kept = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.progress.looks[str(self.progress.epoch)] = value

    def _tell(self) -> None:
        progress = self.progress
        seen = progress.looks.get(str(progress.epoch))
        looked = (
            ""
            if seen is None
            else f", score {seen:.4f}, best {max(progress.looks.values()):.4f} at {progress.best}"
        )
        log.info(
            "epoch %d of %d: loss %.4f%s, %.1f s",
            progress.epoch,
            self.params.epochs,
            progress.losses[-1],
            looked,
            progress.seconds,
        )

    def report(self) -> dict[str, Any]:
        """Return what `train_network` returns."""
        progress = self.progress
        return {
            "losses": progress.losses,
            "valid_ndcg@10": progress.looks,
            "epochs": progress.best,
            "refit": {"epochs": progress.best},
            "targets_per_second": round(progress.targets / max(progress.seconds, 1e-9)),
            "device": str(self.fabric.device),
            "seconds": round(progress.seconds, 3),
        }

    def _save(self, folder: Path) -> None:
        """Write a checkpoint; it appears whole, or the one before it stays."""
        if self.fabric.global_rank != 0:
            return
        tensors = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"kept/{name}": tensor for name, tensor in self.kept.items()}
        for place, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{place}/{name}": torch.as_tensor(value) for name, value in state.items()}
        with publish(folder) as staging:
            save_file(
                {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, staging / _TENSORS
            )
            write_json(staging / _STATE, {"identity": self.identity, "progress": vars(self.progress)})

    def resume(self, folder: Path) -> None:
        """Take up a checkpoint of this run, where there is one."""
        if not is_complete(folder):
            return
        told = read_json(folder / _STATE)
        if told.get("identity") != self.identity:
            return
        try:
            tensors = load_file(folder / _TENSORS)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{folder / _TENSORS} cannot be read: {error}") from None
        self.progress = _Progress(**told["progress"])
        # JSON orders keys as text, and patience counts looks in their order.
        self.progress.looks = dict(sorted(self.progress.looks.items(), key=lambda look: int(look[0])))
        self.network.load_state_dict(_below("network/", tensors))
        device = self.fabric.device
        self.kept = {name: tensor.to(device) for name, tensor in _below("kept/", tensors).items()}
        states: dict[int, dict[str, Tensor]] = {}
        for path, tensor in _below("optimizer/", tensors).items():
            place, name = path.split("/")
            states.setdefault(int(place), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        log.info("resumed after epoch %d", self.progress.epoch)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _share(batch: Batch, rank: int, world: int) -> tuple[Batch, bool]:
    """Return the rows of one process, and whether they are real: it takes a row of another's where it has none."""
    if world == 1:
        return batch, True
    mine = tuple(tensor[rank::world] for tensor in batch)
    return (mine, True) if len(mine[0]) else (tuple(tensor[:1] for tensor in batch), False)


def _fabric(params: TrainingParams) -> Fabric:
    # Lightning takes seconds to import and is needed only here.
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if world == 1:
        return Fabric(accelerator="auto", devices=1, precision=params.precision)
    # A step need not use every parameter: a batch may lack what one of them is for.
    fabric = Fabric(
        accelerator="auto",
        devices=local,
        num_nodes=world // local,
        strategy=DDPStrategy(find_unused_parameters=True),
        precision=params.precision,
    )
    fabric.launch()
    return fabric
