"""What an item's neighbours in histories say about it, by one of three methods.

``ppmi``, the default, is a truncated SVD of shifted positive PMI: Levy and Goldberg, "Neural Word Embedding as Implicit
Matrix Factorization" (NIPS 2014); smoothing and the square root of the singular values after Levy, Goldberg and Dagan,
"Improving Distributional Similarity" (TACL 2015). ``als`` and ``sasrec`` are in `ml.vectors.learned`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import (
    Manifest,
    hash_bytes,
    hash_inputs,
    hash_json,
    is_complete,
    package_versions,
    set_current,
)
from ml.evaluation.splits import training_histories
from ml.histories import Histories, read_histories
from ml.vectors.store import KIND, if_like, read_catalogue, save_vectors, turned

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Method = Literal["ppmi", "als", "sasrec"]
WINDOW = 5
DECAY = 0.7
SHIFT = 1.0
SMOOTHING = 0.75


def transition_counts(
    histories: Histories,
    mask: NDArray[np.bool_],
    n_items: int | None = None,
    window: int = WINDOW,
    decay: float = DECAY,
) -> csr_array:
    """Count how often one item follows another within a window.

    Parameters
    ----------
    histories
        Users' events, oldest first.
    mask
        ``[n_events]``: the events that count. Those left out are passed over, as if they had never happened.
    n_items
        Size of the catalogue; one more than the largest item seen if not given.
    window
        Largest distance, in events, between two items of a pair.
    decay
        A pair at distance ``d`` weighs ``decay ** (d - 1)``.

    Returns
    -------
    csr_array
        Float64 ``[n_items, n_items]``; entry ``(i, j)`` is the weight of "j after i". The diagonal is zero.
    """
    from scipy.sparse import coo_array

    items = histories.items[mask]
    users = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))[mask]
    size = n_items if n_items is not None else int(histories.items.max(initial=-1)) + 1
    rows, columns, weights = [], [], []
    for distance in range(1, window + 1):
        left, right = items[:-distance], items[distance:]
        pair = (users[:-distance] == users[distance:]) & (left != right)
        rows.append(left[pair])
        columns.append(right[pair])
        weights.append(np.full(int(pair.sum()), decay ** (distance - 1)))
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    counts = coo_array(entries, shape=(size, size)).tocsr()
    counts.sum_duplicates()
    return counts


def ppmi(counts: csr_array, shift: float = SHIFT, smoothing: float = SMOOTHING) -> csr_array:
    """Return the shifted positive PMI of the symmetric counts.

    Parameters
    ----------
    counts
        Non-negative ``[n, n]``; its transpose is added to it, since a vector is to say what an item keeps company
        with on either side.
    shift
        Number of negatives ``k`` of the word2vec view: ``log k`` is subtracted.
    smoothing
        Power of the context distribution; below 1 it keeps rare contexts from winning.

    Returns
    -------
    csr_array
        ``max(0, log(p(i, j) / (p(i) p_s(j))) - log(shift))``, without stored zeros.
    """
    pairs = (counts + counts.T).tocsr()
    total = pairs.sum()
    if total == 0:
        return pairs
    degree = np.asarray(pairs.sum(axis=1)).ravel()
    context = degree**smoothing
    context /= context.sum()
    rows = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr))
    information = np.log(pairs.data / (degree[rows] * context[pairs.indices])) - np.log(shift)
    pairs.data = np.maximum(information, 0.0)
    pairs.eliminate_zeros()
    return pairs


def ppmi_svd(
    counts: csr_array, dim: int, seed: int, shift: float = SHIFT, smoothing: float = SMOOTHING
) -> NDArray[np.float32]:
    """Factorise the PPMI of transition counts.

    Parameters
    ----------
    counts
        As :func:`transition_counts` gives them.
    dim
        Width. Where the matrix has fewer dimensions, the remaining columns are zero.
    seed
        Seed of the solver's starting vector.
    shift, smoothing
        As in :func:`ppmi`.

    Returns
    -------
    NDArray[np.float32]
        ``[n_items, dim]``: left singular vectors times the square root of their singular values, strongest first,
        each with its largest entry positive. Rows of items without any pair are zero.
    """
    from scipy.sparse.linalg import svds

    matrix = ppmi(counts, shift, smoothing)
    vectors = np.zeros((matrix.shape[0], dim), np.float32)
    known = np.flatnonzero(np.diff(matrix.indptr))
    rank = min(dim, len(known) - 1)
    if rank < 1:
        return vectors
    # Only rows with an entry take part: the matrix is symmetric, so the same columns are the only ones with any.
    core = matrix[known][:, known]
    start = np.random.default_rng(seed).standard_normal(len(known))
    left, singular, _ = svds(core, k=rank, v0=start, solver="arpack")
    order = np.argsort(-singular, kind="stable")
    left, singular = left[:, order], singular[order]
    peak = left[np.abs(left).argmax(axis=0), np.arange(rank)]
    vectors[known, :rank] = left * np.where(peak < 0, -1.0, 1.0) * np.sqrt(singular)
    return vectors


def update_behaviour_vectors(
    marts: Path, out: Path, dim: int = 64, seed: int = 0, method: Method = "ppmi", anchor: Path | None = None
) -> Path:
    """Learn vectors from the ``user_histories`` mart and make them live.

    Only events that are training data under both protocols count, whatever the method. Vectors become semantic IDs,
    and semantic IDs are what models of both protocols train on and are tested with: a transition into a validation
    or test event, once in the vectors, would tell the model its answers.

    Parameters
    ----------
    marts
        Folder with ``user_histories.parquet`` and ``dim_items.parquet``.
    out
        Folder of versions, for example ``vectors/behaviour``.
    dim
        Width of a vector.
    seed
        Seed of the method's random choices.
    method
        ``ppmi`` (:func:`ppmi_svd`), ``als`` or ``sasrec`` (`ml.vectors.learned`).
    anchor
        A version of ``out`` to turn onto if it is of the same method and width (`ml.vectors.store.turned`): what the
        live tokenizer was fitted to.

    Returns
    -------
    Path
        ``out/VERSION``. Items that the training events say nothing about have no row.

    Raises
    ------
    ArtifactError
        If a mart cannot be read, if there is too little to learn from, or if a package that the method needs is
        missing.
    """
    catalogue = read_catalogue(marts / "dim_items.parquet")
    _, histories, _ = read_histories(marts / "user_histories.parquet", catalogue)
    train = training_histories(histories)
    recipe = {"name": "behaviour", "method": method, "width": dim} | _settings(method, dim, len(train.items))
    seen = hash_bytes(train.offsets.tobytes(), train.items.tobytes())
    recipe["learned"] = hash_json([recipe, seed, hash_json(catalogue), seen])
    anchor = if_like(anchor, method=method, width=dim)
    recipe["turned_to"] = anchor.name if anchor else None
    same = if_like(anchor, learned=recipe["learned"])
    version = same.name if same else hash_json(recipe)
    if is_complete(out / version):
        set_current(out, version)
        return out / version
    vectors = behaviour_vectors(train, len(catalogue), dim, seed, method)
    vectors = turned(anchor, catalogue, vectors)
    known = np.flatnonzero(np.any(vectors != 0, axis=1))
    manifest = Manifest(
        kind=KIND,
        version=version,
        inputs=hash_inputs({name: marts / f"{name}.parquet" for name in ("user_histories", "dim_items")}),
        recipe=recipe,
        seed=seed,
        packages=package_versions("numpy", *_PACKAGES[method]),
        metrics={"rows": len(known), "events_counted": len(train.items)},
    )
    return save_vectors(out, manifest, [catalogue[i] for i in known], vectors[known])


def behaviour_vectors(
    train: Histories, n_items: int, dim: int, seed: int, method: Method = "ppmi"
) -> NDArray[np.float32]:
    """Learn item vectors from histories, every event of which counts.

    Returns
    -------
    NDArray[np.float32]
        ``[n_items, dim]``; rows of zeros where the histories say nothing about an item.
    """
    if method == "ppmi":
        counts = transition_counts(train, np.ones(len(train.items), bool), n_items)
        return ppmi_svd(counts, dim, seed)
    from ml.vectors.learned import als, sasrec

    return (als if method == "als" else sasrec)(train, n_items, dim, seed)


_PACKAGES = {"ppmi": ("scipy",), "als": ("implicit", "scipy"), "sasrec": ("torch", "lightning")}


def _settings(method: Method, dim: int, n_events: int) -> dict[str, Any]:
    """Return all that determines the result beside data, width and seed."""
    if method == "ppmi":
        return {"window": WINDOW, "decay": DECAY, "shift": SHIFT, "smoothing": SMOOTHING}
    from ml.vectors.learned import ALS, sasrec_params

    return dict(ALS) if method == "als" else sasrec_params(dim, n_events).model_dump(mode="json")
