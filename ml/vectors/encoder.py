"""A text encoder tuned to what is met together: contrastive learning on pairs of items from histories.

After BLaIR (Hou et al., "Bridging Language and Items for Retrieval and Recommendation", arXiv:2403.03952), which pairs
texts by InfoNCE with in-batch negatives, and beeFormer (Vancura et al., "Bridging the Gap Between Semantic and
Interaction Similarity in Recommender Systems", arXiv:2409.10309), whose supervision is interactions, as here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ml.artifacts import (
    ArtifactError,
    Manifest,
    hash_bytes,
    hash_inputs,
    hash_json,
    is_complete,
    package_versions,
    publish,
    set_current,
    write_manifest,
)
from ml.evaluation.splits import training_histories
from ml.histories import Histories, read_histories
from ml.vectors.behaviour import transition_counts
from ml.vectors.store import read_catalogue
from ml.vectors.text import (
    CARRIED_ENCODER,
    Precision,
    document_prompt,
    encoder_identity,
    load_encoder,
    read_texts,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

KIND = "text_encoder"


class TuningParams(BaseModel):
    """Parameters of :func:`tune`; the defaults keep it within reach of a CPU.

    Parameters
    ----------
    steps, pairs
        Steps, and pairs of texts in each.
    max_tokens
        Tokens of a text that are read while tuning.
    trained_layers
        Upper layers that learn; those below and the word embeddings stay as they are. All of it learns where the
        model has no more layers than that.
    temperature
        Divides the cosines.
    learning_rate, warm_up
        AdamW; the rate rises over that share of the steps and falls linearly to zero.
    window, decay
        Which items of a history are a pair, and how much one weighs: see
        :func:`ml.vectors.behaviour.transition_counts`.
    precision
        ``bfloat16`` computes in it where that is safe (autocast); what is saved is ``float32`` either way.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=300, ge=1)
    pairs: int = Field(default=64, ge=2)
    max_tokens: int = Field(default=32, ge=4)
    trained_layers: int = Field(default=2, ge=1)
    temperature: float = Field(default=0.05, gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    warm_up: float = Field(default=0.1, ge=0, lt=1)
    window: int = Field(default=3, ge=1)
    decay: float = Field(default=0.7, gt=0, le=1)
    precision: Precision = "float32"


def text_pairs(
    train: Histories, item_texts: NDArray[np.int64], n_texts: int, window: int, decay: float
) -> csr_array:
    """Count which texts stand near each other in histories.

    Parameters
    ----------
    train
        Histories, every event of which counts.
    item_texts
        int64 [n_items], the text of each item; -1 where it has none.
    n_texts
        How many texts there are.
    window, decay
        As in :func:`ml.vectors.behaviour.transition_counts`.

    Returns
    -------
    csr_array
        Float64 [n_texts, n_texts], symmetric, with an empty diagonal: two items of one text are no pair.
    """
    texts = item_texts[train.items]
    read = Histories(train.offsets, texts.astype(np.int32), train.event_types, train.times)
    counts = transition_counts(read, texts >= 0, n_texts, window, decay)
    return (counts + counts.T).tocsr()


def tune(
    encoder: SentenceTransformer,
    texts: Sequence[str],
    pairs: csr_array,
    params: TuningParams,
    seed: int,
    prompt: str | None = None,
) -> list[float]:
    """Train an encoder, in place, to put the texts of a pair close to each other.

    A step draws pairs by their weight. Each text of a pair is to find the other among all texts of the step by
    softmax over cosines (InfoNCE: van den Oord et al., arXiv:1807.03748). Texts that are a pair with it as well are
    no negatives and are left out.

    Parameters
    ----------
    encoder
        Loaded by :func:`ml.vectors.text.load_encoder`.
    texts
        Distinct.
    pairs
        As :func:`text_pairs` gives them.
    params, seed
        What to do, and the seed of every random choice; bytes repeat on one machine and number of threads.
    prompt
        As in :func:`ml.vectors.text.encode_texts`.

    Returns
    -------
    The loss of each step.

    Raises
    ------
    ArtifactError
        If there is no pair, or if the loss is no longer finite.
    """
    if pairs.nnz == 0:
        raise ArtifactError("no two items with a text are near each other in training: nothing to tune on")
    import torch

    from ml.recommenders.base import reproducible

    longest, encoder.max_seq_length = encoder.max_seq_length, params.max_tokens
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(pairs.data)
    left_of = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr))
    losses: list[float] = []
    with reproducible(seed):
        learning = _thaw(encoder, params.trained_layers)
        optimizer = torch.optim.AdamW(learning, lr=params.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, params))
        encoder.train()
        for step in range(params.steps):
            drawn = np.searchsorted(cumulative, rng.random(params.pairs) * cumulative[-1], side="right")
            left, right = left_of[drawn], pairs.indices[drawn]
            asked, wanted = np.concatenate([left, right]), np.concatenate([right, left])
            nodes, place = np.unique(asked, return_inverse=True)
            with torch.autocast(encoder.device.type, torch.bfloat16, params.precision == "bfloat16"):
                vectors = _embed(encoder, [texts[node] for node in nodes], prompt)
            targets = np.searchsorted(nodes, wanted)
            negative = ~_related(pairs, nodes)[place]
            loss = _info_nce(vectors, place, targets, negative, params.temperature)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise ArtifactError(f"the loss is {losses[-1]} at step {step + 1}: lower the learning rate")
    encoder.eval()
    encoder.max_seq_length = longest
    return losses


def update_text_encoder(
    marts: Path,
    out: Path,
    encoder: str = CARRIED_ENCODER,
    params: TuningParams | None = None,
    seed: int = 0,
    prompt: str | None = None,
) -> Path:
    """Tune an encoder to the marts and make the result live.

    Only events that are training data under both protocols count, for the reason that
    :func:`ml.vectors.behaviour.update_behaviour_vectors` gives. Tuning starts from ``encoder`` every time, so that
    a version does not depend on the ones before it.

    Parameters
    ----------
    marts
        Folder with ``user_histories.parquet`` and ``dim_items.parquet``.
    out
        Folder of versions, for example ``encoders``.
    encoder, prompt
        As in :func:`ml.vectors.text.encode_texts`.
    params, seed
        As in :func:`tune`.

    Returns
    -------
    Path
        ``out/VERSION``, a folder that :func:`ml.vectors.text.encode_texts` and sentence-transformers can load.

    Raises
    ------
    ArtifactError
        As for :func:`tune` and :func:`ml.vectors.text.load_encoder`.
    """
    params = params or TuningParams()
    catalogue = read_catalogue(marts / "dim_items.parquet")
    _, histories, _ = read_histories(marts / "user_histories.parquet", catalogue)
    train = training_histories(histories)
    texts, item_texts = distinct_texts(catalogue, *read_texts(marts / "dim_items.parquet"))
    recipe = {"name": "text_encoder", "encoder": encoder_identity(encoder), "prompt": prompt}
    recipe |= params.model_dump(mode="json")
    seen = hash_bytes(train.offsets.tobytes(), item_texts[train.items].tobytes())
    version = hash_json([recipe, seed, texts, seen])
    if is_complete(out / version):
        set_current(out, version)
        return out / version
    pairs = text_pairs(train, item_texts, len(texts), params.window, params.decay)
    model = load_encoder(encoder)
    losses = tune(model, texts, pairs, params, seed, prompt)
    tail = max(len(losses) // 10, 1)
    manifest = Manifest(
        kind=KIND,
        version=version,
        inputs=hash_inputs({name: marts / f"{name}.parquet" for name in ("user_histories", "dim_items")}),
        recipe=recipe,
        seed=seed,
        packages=package_versions("sentence-transformers", "transformers", "torch"),
        metrics={
            "texts": len(texts),
            "pairs": int(pairs.nnz) // 2,
            "events_counted": len(train.items),
            "first_loss": float(np.mean(losses[:tail])),
            "last_loss": float(np.mean(losses[-tail:])),
        },
    )
    with publish(out / version) as folder:
        model.save(str(folder), create_model_card=False)
        write_manifest(folder, manifest)
    set_current(out, version)
    return out / version


def distinct_texts(
    item_ids: Sequence[str], described: Sequence[str], texts: Sequence[str]
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct texts, sorted, and which of them each item has, int64 [n_items]; -1 where it has none."""
    of_item = dict(zip(described, texts, strict=True))
    distinct = sorted(set(of_item.values()))
    place = {text: n for n, text in enumerate(distinct)}
    return distinct, np.array([place.get(of_item.get(item, ""), -1) for item in item_ids], np.int64)


def _thaw(encoder: SentenceTransformer, trained_layers: int) -> list[nn.Parameter]:
    """Freeze all but the upper layers and what comes after them; return what learns."""
    from torch import nn

    # The stack of layers is the longest list of modules, whatever an architecture calls it.
    stacks = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    stack = max(stacks, key=len, default=nn.ModuleList())
    if len(stack) > trained_layers:
        encoder.requires_grad_(False)
        for module in (*stack[-trained_layers:], *list(encoder.children())[1:]):
            module.requires_grad_(True)
    else:
        encoder.requires_grad_(True)
    return [parameter for parameter in encoder.parameters() if parameter.requires_grad]


def _embed(encoder: SentenceTransformer, texts: list[str], prompt: str | None) -> Tensor:
    """Return unit vectors, float [n, width], that gradients flow through."""
    import torch

    features = encoder.preprocess(texts, prompt=document_prompt(encoder, prompt))
    moved = {
        name: value.to(encoder.device) if isinstance(value, torch.Tensor) else value
        for name, value in features.items()
    }
    return torch.nn.functional.normalize(encoder(moved)["sentence_embedding"].float(), dim=1)


def _related(pairs: csr_array, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which of some texts are a pair or the same, bool [n, n]."""
    related: NDArray[np.bool_] = pairs[nodes][:, nodes].toarray() > 0
    np.fill_diagonal(related, True)
    return related


def _info_nce(
    vectors: Tensor,
    asked: NDArray[np.int64],
    targets: NDArray[np.int64],
    negative: NDArray[np.bool_],
    temperature: float,
) -> Tensor:
    """Return the mean loss of finding ``targets`` [m] by ``asked`` [m] among all of ``vectors`` [n, width].

    ``negative``, bool [m, n], says which vectors compete with the target.
    """
    import torch

    rows = torch.arange(len(asked), device=vectors.device)
    place = torch.from_numpy(targets).to(vectors.device)
    competes = torch.from_numpy(negative).to(vectors.device)
    competes[rows, place] = True
    scores = vectors[torch.from_numpy(asked).to(vectors.device)] @ vectors.T / temperature
    return torch.nn.functional.cross_entropy(scores.masked_fill(~competes, -torch.inf), place)


def _rate(step: int, params: TuningParams) -> float:
    """Return the share of the learning rate at a step."""
    warm_up = params.warm_up * params.steps
    return min((step + 1) / (warm_up + 1), 1.0) * (1 - step / params.steps)
