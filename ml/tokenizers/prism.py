"""PRISM's quantiser: behaviour is believed as far as it deserves, and codes follow the catalogue's own tree.

Fang et al., "PRISM: Purified Representation and Integrated Semantic Modeling for Generative Sequential Recommendation"
(2026), section 3.3: adaptive collaborative denoising and hierarchical semantic anchoring. In the paper the gate scales
every dimension of the behaviour vector and anchors come from the text of category names; here the gate is one number
an item, what it takes from behaviour it gives to what the text leads one to expect, and an anchor is where the items
of a category are.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.tokenizers.base import TokenizerParams
from ml.tokenizers.items import ItemData
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

_GATE_HIDDEN = 32


class PRISMParams(ResidualPairParams):
    """Parameters of `PRISM`.

    Parameters
    ----------
    denoise
        Whether behaviour goes through the gate; needs transitions, whose number is what the gate learns from.
    gate
        Weight of that lesson.
    anchor
        Weight of the pull towards categories; 0 switches it off, and then no categories are needed.
    temperature
        Of the choice among anchors: the smaller, the harder the pull.
    """

    denoise: bool = True
    gate: Annotated[float, Field(ge=0)] = 1.0
    anchor: Annotated[float, Field(ge=0)] = 0.1
    temperature: Annotated[float, Field(gt=0)] = 0.1


class _Network(ResidualPairNetwork):
    """An encoder of text and of gated behaviour."""

    def __init__(self, widths: tuple[int, int], params: PRISMParams) -> None:
        super().__init__(widths, params)
        self.expect = mlp([widths[0], *params.hidden, widths[1]])
        self.doubt = mlp([3 * widths[1], _GATE_HIDDEN, 1]) if params.denoise else None
        self.encoder = mlp([sum(widths), *params.hidden, params.latent])

    def parts(self, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """Return the behaviour expected of the text [n, w2], the gate [n] between 0 and 1, and latent vectors."""
        expected = self.expect(views.text)
        gate = views.known.float()
        if self.doubt is not None:
            surprise = (views.behaviour - expected).detach()
            seen = torch.cat([views.behaviour, expected.detach(), surprise.square()], dim=1)
            gate = gate * torch.sigmoid(self.doubt(seen).squeeze(1))
        purified = expected + gate[:, None] * (views.behaviour - expected)
        return expected, gate, self.encoder(torch.cat([views.text, purified], dim=1))

    def latent(self, views: Views) -> Tensor:
        """Return latent vectors [n, latent]."""
        return self.parts(views)[2]


class PRISM(PairedTokenizer):
    """Tokenizer of two spaces with a gate on behaviour and code prefixes that are pulled towards categories."""

    kind: ClassVar[str] = "prism"
    Params: ClassVar[type[TokenizerParams]] = PRISMParams

    def _build(self, widths: tuple[int, int]) -> PairedNetwork:
        return _Network(widths, self.params)

    def _learn(
        self, network: PairedNetwork, views: Views, items: ItemData, rng: np.random.Generator, warm: bool
    ) -> dict[str, Any]:
        """Train.

        Returns
        -------
        dict[str, Any]
            ``residual`` and ``residual_behaviour``: share of each space's variance that the codes miss; ``gate``: its
            mean over the known items with more and with less evidence than the median; ``anchors`` of each level;
            ``reset`` and ``loss``.
        """
        assert isinstance(network, _Network)
        params: PRISMParams = self.params
        device = views.text.device
        trust = torch.from_numpy(evidence(items)).to(device) if params.denoise else None
        pull = _Pull(network, views, items, params) if params.anchor else None

        def loss(
            shown: Views, whole: Views, rows: Tensor, with_codes: bool
        ) -> tuple[Tensor, Quantised | None]:
            expected, gate, latent = network.parts(shown)
            quantised = network.quantizer(latent) if with_codes else None
            code = straight_through(latent, quantised.chosen.sum(dim=0)) if quantised is not None else latent
            weights = trust[rows] if trust is not None else None
            known, behaviour = whole.known, whole.behaviour
            total = nn.functional.mse_loss(network.to_text(code), whole.text)
            total = total + masked_mse(network.to_behaviour(code), behaviour, known, weights)
            total = total + masked_mse(expected, behaviour, known, weights)
            if weights is not None and shown.known.any():
                goal = weights[shown.known]
                lesson = nn.functional.binary_cross_entropy(gate[shown.known].clamp(1e-6, 1 - 1e-6), goal)
                total = total + params.gate * lesson
            if quantised is not None:
                total = total + quantisation_loss(quantised, params.beta)
                if pull is not None:
                    total = total + params.anchor * pull.loss(quantised, rows)
            return total, quantised

        extra = pull.anchors if pull is not None else []
        before_codes = pull.place if pull is not None else None
        report = train(network, views, params, rng, loss, warm=warm, extra=extra, before_codes=before_codes)
        return {
            **report,
            **_figures(network, views, trust),
            "anchors": [len(anchors) for anchors in extra],
        }


class _Pull:
    """Anchors of categories in the latent space, and the pull of code prefixes towards them."""

    def __init__(self, network: _Network, views: Views, items: ItemData, params: PRISMParams) -> None:
        nodes, sizes = category_nodes(items, params.levels)
        device = views.text.device
        self.network, self.views, self.temperature = network, views, params.temperature
        self.nodes = torch.from_numpy(nodes).to(device)
        self.anchors = [nn.Parameter(torch.zeros(size, params.latent, device=device)) for size in sizes]

    @torch.no_grad()
    def place(self) -> None:
        """Put every anchor where the items of its category are on average."""
        latent = self.network.latent(self.views)
        for level, anchors in enumerate(self.anchors):
            member = self.nodes[:, level] >= 0
            node = self.nodes[member, level]
            counts = torch.bincount(node, minlength=len(anchors)).clamp_min(1)
            anchors.zero_().index_add_(0, node, latent[member])
            anchors.div_(counts[:, None])

    def loss(self, quantised: Quantised, rows: Tensor) -> Tensor:
        """Return the loss of telling an item's category at each depth from the prefix of as many codes."""
        total = quantised.chosen.sum() * 0
        # Codes are moved by what they stand for, the encoder by what it asked for: rounding passes no gradient.
        asked = quantised.chosen.detach() + quantised.residuals - quantised.residuals.detach()
        for vectors in (quantised.chosen, asked):
            for level, prefix in enumerate(vectors.cumsum(dim=0)):
                node = self.nodes[rows, level]
                member = node >= 0
                if member.any() and len(self.anchors[level]) > 1:
                    anchors = nn.functional.normalize(self.anchors[level])
                    near = nn.functional.normalize(prefix[member]) @ anchors.T / self.temperature
                    total = total + 0.5 * nn.functional.cross_entropy(near, node[member])
        return total


def evidence(items: ItemData) -> NDArray[np.float32]:
    """Return how far an item's behaviour is founded, between 0 and 1: ``w / (w + mean)`` of its transitions' weight ``w``.

    Raises
    ------
    ArtifactError
        If there are no transitions.
    """
    if items.pairs is None:
        raise ArtifactError("there are no transitions of the items")
    weight = np.asarray(items.pairs.sum(axis=0) + items.pairs.sum(axis=1), np.float64).ravel()
    middle = float(np.mean(weight[weight > 0])) if (weight > 0).any() else 1.0
    return (weight / (weight + middle)).astype(np.float32)


def category_nodes(items: ItemData, levels: int) -> tuple[NDArray[np.int64], list[int]]:
    """Return a number for every node of the category tree, depth by depth.

    Depths at which all items agree tell nothing and are passed over, so that the first code meets the first choice.

    Returns
    -------
    nodes
        int64 [n, levels]: the node of each item at each depth, -1 where its path ends before.
    sizes
        Nodes of each depth.

    Raises
    ------
    ArtifactError
        If there are no categories.
    """
    if items.categories is None:
        raise ArtifactError("there are no categories of the items")
    paths = [tuple(path) for path in items.categories]
    told = [path for path in paths if path]
    depth = 0
    while told and len(told[0]) > depth and len({path[: depth + 1] for path in told}) == 1:
        depth += 1
    nodes = np.full((len(paths), levels), -1, np.int64)
    sizes = []
    for level in range(levels):
        length = depth + level + 1
        names = {
            path: node for node, path in enumerate(sorted({p[:length] for p in paths if len(p) >= length}))
        }
        nodes[:, level] = [names.get(path[:length], -1) if len(path) >= length else -1 for path in paths]
        sizes.append(len(names))
    return nodes, sizes


@torch.no_grad()
def _figures(network: _Network, views: Views, trust: Tensor | None) -> dict[str, Any]:
    _, gate, latent = network.parts(views)
    code = network.code_vectors(network.quantizer(latent).codes)
    figures: dict[str, Any] = {
        "residual": float(nn.functional.mse_loss(network.to_text(code), views.text)),
        "residual_behaviour": float(masked_mse(network.to_behaviour(code), views.behaviour, views.known)),
    }
    if trust is not None:
        told, trusted = trust[views.known], gate[views.known]
        much = told > told.median()
        figures["gate"] = {
            name: float(trusted[part].mean()) if part.any() else None
            for name, part in (("more_evidence", much), ("less_evidence", ~much))
        }
    return figures
