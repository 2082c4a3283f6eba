"""What histories say about items, learned: matrix factorisation (ALS), and the item table of a SASRec.

Both see every event of the histories that they are given; `ml.vectors.behaviour` gives them training events only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import ArtifactError
from ml.evaluation.splits import split
from ml.histories import Histories

if TYPE_CHECKING:
    from ml.recommenders.sequential.model import SequentialParams

#: Hu, Koren and Volinsky set alpha to 40: n events make alpha * n sure of an item, against 1 for one never met.
ALS = {"iterations": 15, "regularization": 0.05, "alpha": 40.0}
_LEAST_STEPS = 300


def als(train: Histories, n_items: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Factorise who met what by alternating least squares; return the items' factors.

    Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets" (ICDM 2008), by the package
    ``implicit``. On one machine the same input and seed give the same bytes.

    Returns
    -------
    NDArray[np.float32]
        ``[n_items, dim]``; zero for items without an event.

    Raises
    ------
    ArtifactError
        If ``implicit`` is not installed, or if there is no event.
    """
    from ml.recommenders.collaborative.als import factorise

    if len(train.items) == 0:
        raise ArtifactError("no training history has an event: nothing to factorise")
    return factorise(train, n_items, dim, seed, int(ALS["iterations"]), ALS["regularization"], ALS["alpha"])


def sasrec_params(dim: int, n_events: int) -> SequentialParams:
    """Return the SASRec that :func:`sasrec` trains: attention with full softmax, in the asked width.

    Few events make few batches: they are gone through more often, until the vectors have left their random start.
    """
    from ml.recommenders.sequential.model import SequentialParams

    params = SequentialParams(d=dim, learning_rate=3e-3, epochs=12)
    batches = -(-max(n_events, 1) // params.batch_tokens)
    return params.model_copy(update={"epochs": max(params.epochs, -(-_LEAST_STEPS // batches))})


def sasrec(train: Histories, n_items: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Train a SASRec (Kang and McAuley, ICDM 2018, arXiv:1808.09781) and return its table of items.

    It is trained for a fixed number of epochs: stopping by the validation events of a protocol would let them into
    the vectors.

    Returns
    -------
    NDArray[np.float32]
        ``[n_items, dim]``; zero for items without an event.

    Raises
    ------
    ArtifactError
        If no history has two events, or if the loss is no longer finite.
    """
    from ml.recommenders.sequential.model import Sequential
    from ml.snapshot import Catalogue

    model = Sequential(sasrec_params(dim, len(train.items)))
    try:
        model.fit(split(train, "full"), Catalogue.unknown(n_items), seed)
    except ValueError as error:
        raise ArtifactError(f"SASRec as item vectors: {error}") from None
    # The last column only keeps items without an event below all others.
    return model.item_vectors()[:, :-1]
