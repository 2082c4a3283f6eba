from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.collaborative import lightgcn
from ml.recommenders.collaborative.lightgcn import LightGCN, LightGCNParams, Network
from ml.recommenders.collaborative.propagation import normalised_adjacency
from ml.recommenders.sequential.parts import Facts
from ml.recommenders.training import train_network
from ml.snapshot import Catalogue

BLOCKS, WIDTH = 4, 10
SMALL = {"d": 16, "batch_size": 128, "epochs": 20, "learning_rate": 0.02, "warmup": 2, "patience": 20}
VARIANTS: dict[str, dict[str, Any]] = {
    "bpr-mf": {"layers": 0},
    "lightgcn": {"layers": 2},
    "full": {"loss": {"kind": "full"}, "temperature": 0.2},
    "sampled": {"loss": {"kind": "sampled", "negatives": 16}, "temperature": 0.2},
    "simgcl": {"first_layer": 1, "fold_in": "propagate", "contrast": {"kind": "two_views", "weight": 0.02}},
    "xsimgcl": {
        "first_layer": 1,
        "fold_in": "propagate",
        "contrast": {"kind": "cross_layer", "weight": 0.02},
    },
    "ncl": {"fold_in": "solve", "contrast": {"kind": "neighbours", "prototypes": 8}},
}


def catalogue(n: int = BLOCKS * WIDTH) -> Catalogue:
    nothing = np.zeros((n, 0), np.float32)
    return Catalogue([str(i) for i in range(n)], [""] * n, [[]] * n, nothing, nothing.astype(np.int32), ())


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, Histories]:
    """Users meet seven of the ten items of one of four blocks."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(BLOCKS, size=200)
    rows = [(WIDTH * block + rng.permutation(WIDTH)[:7]).tolist() for block in blocks]
    return blocks, Histories.of(rows)


@pytest.mark.parametrize("name", VARIANTS)
def test_blocks_are_found(name: str, planted: tuple[np.ndarray, Histories]) -> None:
    blocks, histories = planted
    model = LightGCN(LightGCNParams.model_validate({**SMALL, **VARIANTS[name]}))
    report = model.fit(split(histories, "leave_one_out"), catalogue(), 0)
    items, _ = model.recommend(histories, 3)
    assert (items // WIDTH == blocks[:, None]).mean() > 0.95
    assert report["losses"][-1] < report["losses"][0]
    assert report["edges"] == 5 * 200
    assert report["users"] == 200


def network(**params: Any) -> Network:
    """Three users, four items, five pairs."""
    users, items = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 3])
    facts = Facts(catalogue(4), torch.from_numpy(np.bincount(items)), 3, 50, 0.0)
    torch.manual_seed(0)
    made = LightGCNParams.model_validate({"d": 3, **params})
    return Network(made, normalised_adjacency(users, items, 3, 4), facts)


@torch.no_grad()
def test_the_mean_of_layers_is_scored() -> None:
    made = network(layers=2, first_layer=1)
    dense, x = made.adjacency.to_dense(), made.nodes
    expected = (dense @ x + dense @ dense @ x) / 2
    user, item = made.scored(made.layers())
    torch.testing.assert_close(torch.cat([user, item]), expected)
    user, item = network(layers=2, first_layer=1, temperature=0.5).scored(made.layers())
    torch.testing.assert_close(torch.cat([user, item]).norm(dim=1), torch.ones(7))


@torch.no_grad()
def test_a_history_of_training_becomes_its_users_vector() -> None:
    """Without free vectors in the sum, a user is what their items send."""
    users, items = [0, 0, 1, 2, 2], [0, 1, 1, 2, 3]
    made = network(layers=3, first_layer=1)
    model = LightGCN(LightGCNParams(fold_in="propagate", source_norm=0.5))
    histories = Histories.of(
        [[i for u, i in zip(users, items, strict=True) if u == user] for user in range(3)]
    )
    model.serve(*made.settled(), torch.arange(4), histories, 4)
    queries = torch.from_numpy(model.query_vectors(histories))[:, :-1]
    torch.testing.assert_close(
        torch.nn.functional.normalize(queries, dim=1),
        torch.nn.functional.normalize(made.scored(made.layers())[0], dim=1),
    )


@torch.no_grad()
def test_softmax_by_hand() -> None:
    made = network(layers=1, loss={"kind": "full"}, temperature=0.5)
    batch = (torch.tensor([0, 2]), torch.tensor([1, 3]), torch.zeros(2, 0, dtype=torch.int64))
    loss, count = made(batch)
    user, item = made.scored(made.layers())
    logits = (user[[0, 2]] @ item.T / 0.5).double()
    expected = -(logits.log_softmax(dim=1)[[0, 1], [1, 3]]).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert count.item() == 2


@torch.no_grad()
def test_contrast_is_added_and_noise_only_where_it_is_scored() -> None:
    batch = (torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([[2], [0]]))
    plain, _ = network(layers=2)(batch)
    two = network(layers=2, contrast={"kind": "two_views", "weight": 0.0})(batch)[0]
    assert two.item() == pytest.approx(plain.item(), rel=1e-6)
    cross = network(layers=2, contrast={"kind": "cross_layer", "weight": 0.0})(batch)[0]
    assert cross.item() != pytest.approx(plain.item(), rel=1e-6)


def test_a_killed_training_goes_on_to_the_same(
    planted: tuple[np.ndarray, Histories], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prototypes and noise, too, follow from the weights and the epoch."""
    parts = split(planted[1], "leave_one_out")
    params = LightGCNParams.model_validate({**SMALL, **VARIANTS["ncl"], "epochs": 4})
    whole = LightGCN(params)
    whole.fit(parts, catalogue(), 0)

    class Killed(LightGCN):
        looks = 0

        def serve(self, *arguments: Any) -> None:
            super().serve(*arguments)
            self.looks += 1
            if self.looks == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(lightgcn, "train_network", partial(train_network, checkpoint_s=0.0))
    with pytest.raises(KeyboardInterrupt):
        Killed(params).fit(parts, catalogue(), 0, tmp_path / "last")
    again = LightGCN(params)
    report = again.fit(parts, catalogue(), 0, tmp_path / "last")
    assert len(report["losses"]) == 4
    np.testing.assert_array_equal(again.item_vectors(), whole.item_vectors())


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"layers": 1, "first_layer": 2}, "first_layer (2) is beyond layers (1)"),
        ({"layers": 1, "contrast": {"kind": "neighbours"}}, "contrast.layer (2) is beyond layers (1)"),
    ],
)
def test_layers_must_be_there(params: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as error:
        LightGCNParams.model_validate(params)
    assert told in str(error.value)


def test_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="nothing to learn from"):
        LightGCN(LightGCNParams()).fit(split(Histories.of([[], []]), "full"), catalogue(3), 0)
