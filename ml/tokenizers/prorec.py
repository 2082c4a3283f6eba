"""PRORec: one code for what an item says and for how it is used, without the one drowning the other.

Xiao et al., "Progressive Collaborative and Semantic Knowledge Fusion for Generative Recommendation" (PRORec, 2025).
Stage 1 aligns the two spaces across items; stage 2 distils the structure within each space into the code. In the paper
both stages ride on training a recommender; here the vectors are given, so stage 1 keeps what they hold by
reconstruction, and stage 2 ends in the code books.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ml.tokenizers.auxiliary import info_nce
from ml.tokenizers.base import TokenizerParams
from ml.tokenizers.domination import semantic_domination
from ml.tokenizers.items import ItemData
from ml.tokenizers.kmeans import kmeans, nearest
from ml.tokenizers.networks import mlp
from ml.tokenizers.paired import PairedNetwork, PairedTokenizer, Views
from ml.tokenizers.paired_residual import (
    ResidualPairNetwork,
    ResidualPairParams,
    masked_mse,
    quantisation_loss,
    train,
)
from ml.tokenizers.quantizers import Quantised, straight_through


class PRORecParams(ResidualPairParams):
    """Parameters of `PRORec`.

    Parameters
    ----------
    align
        Weight of cross-modality alignment (InfoNCE between an item's two adapted vectors); 0 switches it off.
    distil
        Weight of in-modality distillation of neighbourhoods; 0 switches it off.
    temperature
        Of both.
    """

    align: Annotated[float, Field(ge=0)] = 0.3
    distil: Annotated[float, Field(ge=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 0.1


class _Network(ResidualPairNetwork):
    """An adapter for each space; an item's latent vector is the mean of what is known of it."""

    def __init__(self, widths: tuple[int, int], params: PRORecParams) -> None:
        super().__init__(widths, params)
        self.from_text, self.from_behaviour = (
            nn.Sequential(mlp([width, *params.hidden, params.latent]), nn.LayerNorm(params.latent))
            for width in widths
        )

    def adapted(self, views: Views) -> tuple[Tensor, Tensor]:
        """Return both adapted vectors, [n, latent] each."""
        return self.from_text(views.text), self.from_behaviour(views.behaviour)

    def latent(self, views: Views) -> Tensor:
        """Return the mean of both, or the text's alone where behaviour knows nothing."""
        return self.join(*self.adapted(views), views.known)

    @staticmethod
    def join(text: Tensor, behaviour: Tensor, known: Tensor) -> Tensor:
        """Return the latent vectors of adapted vectors."""
        return torch.where(known[:, None], 0.5 * (text + behaviour), text)


class PRORec(PairedTokenizer):
    """Tokenizer of two spaces that are aligned first and distilled into one code after."""

    kind: ClassVar[str] = "prorec"
    Params: ClassVar[type[TokenizerParams]] = PRORecParams

    def _build(self, widths: tuple[int, int]) -> PairedNetwork:
        return _Network(widths, self.params)

    def _learn(
        self, network: PairedNetwork, views: Views, items: ItemData, rng: np.random.Generator, warm: bool
    ) -> dict[str, Any]:
        """Train.

        Returns
        -------
        dict[str, Any]
            ``residual`` and ``residual_behaviour``: share of each space's variance that the codes miss;
            ``semantic_domination`` of the code (``unified``), and of residual k-means of the same shape on the two
            vectors end to end (``concatenated``); ``reset`` and ``loss``.
        """
        assert isinstance(network, _Network)
        params: PRORecParams = self.params

        def loss(
            shown: Views, whole: Views, rows: Tensor, with_codes: bool
        ) -> tuple[Tensor, Quantised | None]:
            return _loss(network, shown, whole, params, with_codes)

        report = train(network, views, params, rng, loss, warm=warm)
        return {**report, **_figures(network, views, params)}


def _loss(
    network: _Network, shown: Views, whole: Views, params: PRORecParams, with_codes: bool
) -> tuple[Tensor, Quantised | None]:
    text, behaviour = network.adapted(shown)
    latent = network.join(text, behaviour, shown.known)
    quantised = network.quantizer(latent) if with_codes else None
    code = straight_through(latent, quantised.chosen.sum(dim=0)) if quantised is not None else latent
    total = nn.functional.mse_loss(network.to_text(code), whole.text)
    total = total + masked_mse(network.to_behaviour(code), whole.behaviour, whole.known)
    known = torch.nonzero(whole.known).squeeze(1)
    if params.align and len(known) > 1:
        pair = text[known], behaviour[known]
        both_ways = info_nce(*pair, params.temperature) + info_nce(*pair[::-1], params.temperature)
        total = total + params.align * 0.5 * both_ways
    if quantised is not None:
        total = total + quantisation_loss(quantised, params.beta)
        if params.distil:
            in_text = neighbourhood_loss(code, whole.text, params.temperature)
            in_behaviour = neighbourhood_loss(code[known], whole.behaviour[known], params.temperature)
            total = total + params.distil * (in_text + in_behaviour)
    return total, quantised


def neighbourhood_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return how far each row's neighbours among the other rows differ from those in the teacher's space.

    Parameters
    ----------
    student
        [n, d1], trained.
    teacher
        [n, d2], fixed.
    temperature
        Cosines are divided by it before the softmax over the other rows.

    Returns
    -------
    Tensor
        Mean Kullback-Leibler divergence; 0 where there are fewer than three rows, and so no choice of neighbours.
    """
    if len(student) < 3:
        return student.sum() * 0
    goal = _neighbour_log_probs(teacher, temperature).detach()
    found = _neighbour_log_probs(student, temperature)
    return nn.functional.kl_div(found, goal, log_target=True, reduction="batchmean")


def _neighbour_log_probs(vectors: Tensor, temperature: float) -> Tensor:
    unit = nn.functional.normalize(vectors)
    # Not minus infinity: its difference to itself is not a number.
    itself = 1e4 * torch.eye(len(unit), device=unit.device)
    return torch.log_softmax(unit @ unit.T / temperature - itself, dim=1)


@torch.no_grad()
def _figures(network: _Network, views: Views, params: PRORecParams) -> dict[str, Any]:
    code = network.code_vectors(network.quantizer(network.latent(views)).codes)
    both = views.known
    text, behaviour, unified = (values[both].cpu().numpy() for values in (views.text, views.behaviour, code))
    return {
        "residual": float(nn.functional.mse_loss(network.to_text(code), views.text)),
        "residual_behaviour": float(masked_mse(network.to_behaviour(code), views.behaviour, both)),
        "semantic_domination": {
            "unified": semantic_domination(unified, text, behaviour),
            "concatenated": semantic_domination(
                _residual_kmeans(np.concatenate([text, behaviour], axis=1), params), text, behaviour
            ),
        },
    }


def _residual_kmeans(vectors: NDArray[np.float32], params: PRORecParams) -> NDArray[np.float32]:
    """Return vectors rounded to the same number of codes."""
    rng = np.random.default_rng(0)
    rest = vectors
    for _ in range(params.levels):
        book = kmeans(rest, min(params.code_size, len(rest)), rng)
        rest = rest - book[nearest(rest, book)[0]]
    return vectors - rest
