"""SETRec: an item as a set of tokens in no order, one of its behaviour and several of its text.

Lin et al., "Order-agnostic Identifier for Large Language Model-based Generative Recommendation" (SETRec, SIGIR 2025),
section 3.1. An autoencoder splits the text into token vectors, another makes one of the behaviour. The paper scores with
the vectors as they are (`SETRec.token_vectors`, `set_scores`); each token has a code book of its own besides, so that
the set can be an identifier like any other. An item without history takes the behaviour token that its text leads one
to expect.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ml.tokenizers.base import TokenizerParams
from ml.tokenizers.items import ItemData
from ml.tokenizers.kmeans import kmeans, nearest
from ml.tokenizers.networks import mlp
from ml.tokenizers.paired import PairedNetwork, PairedParams, PairedTokenizer, Views
from ml.tokenizers.paired_residual import masked_mse


class SETRecParams(PairedParams):
    """Parameters of `SETRec`.

    Parameters
    ----------
    levels
        Tokens of an item: the first is of its behaviour, the others are of its text.
    """

    levels: Annotated[int, Field(ge=2, le=64)] = 5


class _Network(PairedNetwork):
    """Autoencoders of both spaces, what the text expects of the behaviour token, and code books."""

    def __init__(self, widths: tuple[int, int], params: SETRecParams) -> None:
        super().__init__()
        self.tokens, self.width = params.levels - 1, params.latent
        wide = self.tokens * params.latent
        back = params.hidden[::-1]
        self.from_text = mlp([widths[0], *params.hidden, wide])
        self.to_text = mlp([wide, *back, widths[0]])
        self.from_behaviour = mlp([widths[1], *params.hidden, params.latent])
        self.to_behaviour = mlp([params.latent, *back, widths[1]])
        self.expect = mlp([widths[0], *params.hidden, params.latent])
        self.register_buffer("books", torch.zeros(params.levels, params.code_size, params.latent))
        self.books: Tensor

    def vectors(self, views: Views) -> Tensor:
        """Return token vectors [n, tokens, latent], the behaviour's first."""
        behaviour = torch.where(
            views.known[:, None], self.from_behaviour(views.behaviour), self.expect(views.text)
        )
        text = self.from_text(views.text).view(-1, self.tokens, self.width)
        return torch.cat([behaviour[:, None], text], dim=1)

    def codes(self, views: Views) -> Tensor:
        """Return the nearest code of each token, int64 [n, tokens]."""
        halves = 0.5 * self.books.square().sum(dim=2)
        return (torch.einsum("ntd,tkd->ntk", self.vectors(views), self.books) - halves).argmax(dim=2)

    def code_vectors(self, codes: Tensor) -> Tensor:
        """Return the tokens' code vectors end to end, [n, tokens * latent]."""
        return self.books[torch.arange(len(self.books), device=codes.device), codes].flatten(start_dim=1)

    def text_of(self, codes: Tensor) -> Tensor:
        """Return what the decoder makes of the text's tokens."""
        decoded: Tensor = self.to_text(self.code_vectors(codes)[:, self.width :])
        return decoded


class SETRec(PairedTokenizer):
    """Tokenizer of two spaces into an unordered set of codes."""

    kind: ClassVar[str] = "setrec"
    Params: ClassVar[type[TokenizerParams]] = SETRecParams
    ordered: ClassVar[bool] = False

    @torch.inference_mode()
    def token_vectors(self, items: ItemData) -> NDArray[np.float32]:
        """Return the vectors that the codes round, float32 [n, tokens, latent], the behaviour's first."""
        network, views = self._trained(), self._views(self._scaled(items), items)
        assert isinstance(network, _Network)
        vectors: NDArray[np.float32] = network.vectors(views).numpy()
        return vectors

    def _build(self, widths: tuple[int, int]) -> PairedNetwork:
        return _Network(widths, self.params)

    def _learn(
        self, network: PairedNetwork, views: Views, items: ItemData, rng: np.random.Generator, warm: bool
    ) -> dict[str, Any]:
        """Train the autoencoders, then lay a code book over each token.

        Returns
        -------
        dict[str, Any]
            ``residual`` and ``residual_behaviour``: share of each space's variance that the vectors miss, last pass;
            ``expected_behaviour``: share of the behaviour token's variance that the text does not foretell;
            ``rounding``: of each token, the share of its variance that its code misses.
        """
        assert isinstance(network, _Network)
        report = _train(network, views, self.params, rng)
        with torch.no_grad():
            vectors = network.vectors(views)
            foretold = network.expect(views.text)[views.known]
            behaviour = vectors[views.known, 0]
            report["expected_behaviour"] = _missed(behaviour, foretold)
            report["rounding"] = []
            for token, book in enumerate(network.books):
                values = vectors[:, token].cpu().numpy()
                start = book.cpu().numpy() if warm else None
                fitted = kmeans(values, len(book), rng, start=start)
                book.copy_(torch.from_numpy(fitted))
                rounded = torch.from_numpy(fitted[nearest(values, fitted)[0]]).to(book.device)
                report["rounding"].append(_missed(vectors[:, token], rounded))
        return report


def set_scores(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score items by the sum of the similarities of their tokens, each with the query that asks for it.

    Parameters
    ----------
    queries
        What a model expects of each token, float32 [m, tokens, d].
    vectors
        `SETRec.token_vectors` of the items, float32 [n, tokens, d].

    Returns
    -------
    NDArray[np.float32]
        [m, n]. The order of the tokens, if it is the same in both, makes no difference.
    """
    scores: NDArray[np.float32] = queries.reshape(len(queries), -1) @ vectors.reshape(len(vectors), -1).T
    return scores


def _train(network: _Network, views: Views, params: SETRecParams, rng: np.random.Generator) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    n, device = len(views.text), views.text.device
    missed = np.zeros(2)
    for _ in range(params.epochs):
        missed[:] = 0
        for rows in torch.from_numpy(rng.permutation(n)).to(device).split(params.batch):
            batch = views.take(rows)
            behaviour = network.from_behaviour(batch.behaviour)
            text_loss = nn.functional.mse_loss(network.to_text(network.from_text(batch.text)), batch.text)
            behaviour_loss = masked_mse(network.to_behaviour(behaviour), batch.behaviour, batch.known)
            foretold = masked_mse(network.expect(batch.text), behaviour.detach(), batch.known)
            optimizer.zero_grad(set_to_none=True)
            (text_loss + behaviour_loss + foretold).backward()
            optimizer.step()
            missed += [float(value.detach()) * len(rows) / n for value in (text_loss, behaviour_loss)]
    return {"residual": float(missed[0]), "residual_behaviour": float(missed[1])}


def _missed(truth: Tensor, found: Tensor) -> float:
    """Return the share of the variance of vectors [n, d] that others miss."""
    variance = (truth - truth.mean(dim=0)).square().mean()
    return float((truth - found).square().mean() / variance.clamp_min(1e-12))
