"""Training that goes on after the first: what a stage is given, and going on with another learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from torch import nn

from ml.evaluation.splits import Split
from ml.recommenders.batches import Plans
from ml.recommenders.generative.parts import PartParams
from ml.recommenders.training import Batch, train_network

if TYPE_CHECKING:
    from ml.recommenders.generative.model import Generative
    from ml.snapshot import Catalogue


class StageParams(PartParams):
    """Parameters that stages share; those of the first training hold where a stage says nothing else.

    Parameters
    ----------
    learning_rate
        Of the stage.
    epochs, patience
        As in `ml.recommenders.training.TrainingParams`; no epoch is better than what was there before, or that
        stays.
    """

    learning_rate: float = Field(default=3e-4, gt=0)
    epochs: int = Field(default=1, ge=0)
    patience: int = Field(default=1, ge=1)

    def run(self, course: Course) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train on; return a report, and parameters of the stage that do without validation what it did with it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Course:
    """What a stage of training may use.

    Parameters
    ----------
    recommender
        What is trained; its network is what the stages before have left.
    split, catalogue, seed
        As given to `Generative.fit`.
    plans
        Batches of the first training.
    score
        See `ml.recommenders.training.train_network`.
    checkpoints
        Of the first training; a stage has a folder of its own beside it.
    """

    recommender: Generative
    split: Split
    catalogue: Catalogue
    seed: int
    plans: Plans
    score: Callable[[], float] | None
    checkpoints: Path | None

    def train(
        self,
        name: str,
        stage: StageParams,
        network: nn.Module,
        batches: Callable[[np.random.Generator], Iterable[Batch]],
        steps: int,
    ) -> dict[str, Any]:
        """Train by the parameters of a stage; see `ml.recommenders.training.train_network`."""
        shared = {"learning_rate": stage.learning_rate, "epochs": stage.epochs, "patience": stage.patience}
        params = self.recommender.params.model_copy(update={**shared, "evaluate_every": 1})
        folder = self.checkpoints.with_name(f"{self.checkpoints.name}-{name}") if self.checkpoints else None
        return train_network(network, batches, steps, params, self.seed, self.score, folder, look_first=True)


class FineTuningParams(StageParams):
    """Go on with the objective of the first training, on the IDs that are served; see `StageParams`."""

    kind: Literal["fine_tuning"] = "fine_tuning"

    def run(self, course: Course) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `StageParams.run`."""
        plans = course.plans
        report = course.train(self.kind, self, course.recommender.fitted(), plans.batches, len(plans))
        return report, report.pop("refit")
