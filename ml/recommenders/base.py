"""What every recommender is to the rest of Tessera, and the few functions that all of them share.

A recommender is a class with three class attributes, made from validated parameters alone (``cls(params)``):

``kind``
    its name in a recipe;
``Params``
    the pydantic model (``extra="forbid"``) of its parameters;
``training_free``
    whether it only counts. Such a recommender is a baseline, and can be champion without passing a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import save_file
from torch.nn.functional import pad

from ml.artifacts import ArtifactError, read_json, write_json
from ml.evaluation.splits import Split
from ml.histories import NO_ITEM, Histories
from ml.tensors import read_tensors

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

CONFIG = "recommender.json"
WEIGHTS = "weights.safetensors"
#: Rows of dense scores made at once: 512 x 100,000 items x 8 bytes is 400 MB.
_ROWS = 512


class RecommenderParams(BaseModel):
    """Base of all parameters: unknown names are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=RecommenderParams)


class Recommender(Protocol):
    """Histories in, items out."""

    kind: ClassVar[str]
    Params: ClassVar[type[RecommenderParams]]
    training_free: ClassVar[bool]
    params: Any

    def __init__(self, params: Any) -> None: ...

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Learn from ``split.train``; ``split.valid`` may only decide when to stop.

        Parameters
        ----------
        checkpoints
            Folder of state from which a training that was killed goes on; None keeps none.

        Returns
        -------
        A JSON-able report. Its key ``refit``, where present, maps parameters to what this fit found for them
        (for example the number of epochs): protocol ``full``, which has no validation, is trained with them.
        """
        ...

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the ``k`` best items of each history, best first, equal scores by lower item index.

        Returns
        -------
        Items int32 [n, k] and scores float32 [n, k]; -1 and -inf where there are fewer than ``k``.
        """
        ...

    def item_vectors(self) -> NDArray[np.float32] | None:
        """Return float32 [n_items, d], or None.

        The inner product with a query vector is the score. Where there are no query vectors, they only tell which
        items are alike.
        """
        ...

    def query_vectors(self, histories: Histories) -> NDArray[np.float32] | None:
        """Return float32 [n, d], or None where the score is no inner product."""
        ...

    def save(self, folder: Path) -> None:
        """Write into an existing folder: `write_config`, and tensors as safetensors."""
        ...

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """Read what `save` wrote."""
        ...


def write_config(folder: Path, recommender: Recommender) -> None:
    """Write the kind and parameters that `ml.recommenders.load_recommender` dispatches on."""
    write_json(
        folder / CONFIG, {"kind": recommender.kind, "params": recommender.params.model_dump(mode="json")}
    )


def read_params(folder: Path, params: type[P]) -> P:
    """Read the parameters that `write_config` wrote."""
    return params.model_validate(read_json(folder / CONFIG)["params"])


def write_weights(folder: Path, tensors: dict[str, NDArray[Any]]) -> None:
    """Write arrays as ``weights.safetensors``."""
    save_file(tensors, folder / WEIGHTS)


def read_weights(folder: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_weights` wrote.

    Raises
    ------
    ArtifactError
        If the file is missing or damaged.
    """
    try:
        return read_tensors(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{folder / WEIGHTS} cannot be read: {error}") from None


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seed torch and ask it for deterministic kernels inside the block; what stood before comes back after it.

    Bytes repeat for the same seed on the same machine and number of threads.
    """
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory costs a fifth of a training step, and guards only against reading it unwritten.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def item_counts(histories: Histories, n_items: int) -> NDArray[np.int64]:
    """Return how often each item occurs, int64 [n_items]."""
    return np.bincount(histories.items, minlength=n_items)


def mask_history(scores: torch.Tensor, histories: Histories) -> None:
    """Set the scores [n, n_items] of each row's history items to -inf, in place."""
    rows = torch.from_numpy(histories.users).to(scores.device)
    columns = torch.from_numpy(histories.items.astype(np.int64)).to(scores.device)
    scores[rows, columns] = -torch.inf


def best_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ``k`` best columns of each row, best first, equal scores by lower column.

    Parameters
    ----------
    scores
        float [n, n_items]; -inf means never.
    k
        May exceed n_items.

    Returns
    -------
    Items int64 [n, k] and scores [n, k]; -1 and -inf where there are fewer than ``k``.
    """
    width = scores.shape[1]
    wide = min(k + 1, width)
    values, index = torch.topk(scores, wide, dim=1)
    if wide > k > 0:
        # `topk` may keep any of several equal scores at the border: only those rows need a full stable sort.
        tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
        if bool(tied.any()):
            order = torch.sort(scores[tied], dim=1, descending=True, stable=True)
            values[tied], index[tied] = order.values[:, :wide], order.indices[:, :wide]
    values, index = values[:, :k], index[:, :k]
    index, by_index = torch.sort(index, dim=1)
    values, by_value = torch.sort(values.gather(1, by_index), dim=1, descending=True, stable=True)
    index = index.gather(1, by_value).masked_fill(values == -torch.inf, NO_ITEM)
    missing = (0, k - values.shape[1])
    return pad(index, missing, value=NO_ITEM), pad(values, missing, value=-torch.inf)


def top_k(scores: torch.Tensor, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return what `best_k` does, as int32 and float32 arrays."""
    items, values = best_k(scores, k)
    return items.cpu().numpy().astype(np.int32), values.float().cpu().numpy()


def alike(histories: Histories, most: int = _ROWS) -> list[NDArray[np.int64]]:
    """Return rows to answer together: at most so many, and of like length, as most histories are short."""
    order = np.argsort(histories.lengths, kind="stable")
    return np.split(order, range(most, len(order), most)) if len(order) else []


def rank_dense(
    score: Callable[[Histories], torch.Tensor | NDArray[np.float32]],
    histories: Histories,
    k: int,
    exclude_history: bool,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rank with a function that scores every item, float [n, n_items]; see `Recommender.recommend`."""
    items = np.empty((len(histories), k), dtype=np.int32)
    scores = np.empty((len(histories), k), dtype=np.float32)
    for rows in alike(histories):
        some = histories.rows(rows)
        dense = torch.as_tensor(score(some))
        if exclude_history:
            mask_history(dense, some)
        items[rows], scores[rows] = top_k(dense, k)
    return items, scores


def encode(
    queries: Callable[[Histories], torch.Tensor], histories: Histories, width: int
) -> NDArray[np.float32]:
    """Return the query vectors, float32 [n, width], of a function that gives those of some histories."""
    vectors = np.empty((len(histories), width), dtype=np.float32)
    for rows in alike(histories):
        vectors[rows] = queries(histories.rows(rows)).cpu().numpy()
    return vectors
