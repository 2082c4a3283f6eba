from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.evaluation.splits import Split, split
from ml.histories import Histories
from ml.recommenders.batches import Plans
from ml.recommenders.generative.identifiers import Identifiers, IdentifiersParams, hold_out
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.training import _Run
from ml.snapshot import Catalogue

N = 12
TINY: dict[str, Any] = {
    "d": 8,
    "length": 4,
    "dropout": 0.0,
    "batch_tokens": 32,
    "warmup": 2,
    "learning_rate": 0.01,
    "backbone": {"kind": "encoder_decoder", "heads": 1, "head_width": 8, "feed_forward": 8},
    "objective": {"kind": "autoregressive", "beam": N},
}


def catalogue(other: int = 2) -> Catalogue:
    """The served IDs; beside them the same with two items exchanged, and IDs given at random."""
    served = np.array([[item // 4, item % 4] for item in range(N)], np.int32)
    near = served.copy()
    near[[0, 5]] = near[[5, 0]]
    far = served[np.random.default_rng(1).permutation(N)]
    bare = np.zeros((N, 0), np.float32)
    more = np.stack([far, near])[2 - other :]
    return Catalogue([str(i) for i in range(N)], [""] * N, [[]] * N, bare, served, (3, 4), more_codes=more)


def walks(protocol: str = "leave_one_out") -> Split:
    rows = [[(user * 5 + step) % N for step in range(4 + user % 4)] for user in range(40)]
    return split(Histories.of(rows), protocol)


def several(
    held: tuple[torch.Tensor, ...] | None = None, other: int = 2, **params: Any
) -> tuple[Identifiers, Generative, Plans]:
    torch.manual_seed(0)
    recommender = Generative(GenerativeParams.model_validate(TINY))
    given = recommender.params
    network = recommender._take(given.build(given.facts(catalogue(other), (3, 4))), catalogue(other))
    plans = Plans(network.objective.windows(walks().train, 4, True), 32)
    return Identifiers(IdentifiersParams(**params), network, catalogue(other), held), recommender, plans


def test_each_batch_is_told_by_one_identifier_and_the_served_one_comes_back() -> None:
    made, recommender, plans = several(curriculum=False)
    network, known = recommender.fitted(), catalogue()
    assert len(made) == 3
    np.testing.assert_allclose(made.shares, 1 / 3)
    tables = [*known.more_codes, known.codes]
    seen: list[int] = []
    for _ in range(5):
        for _ in made.batches(plans, np.random.default_rng(len(seen))):
            codes = (network.table.item_rows - network.table.offsets).numpy()
            seen.append([np.array_equal(codes, table) for table in tables].index(True))
            # The trie is of the same IDs.
            leaf = int(network.trie.place[7])
            path = [
                int(network.trie.codes[d][network.trie.above(d + 1, torch.tensor(leaf))]) for d in range(2)
            ]
            assert path == codes[7].tolist()
    assert set(seen) == {0, 1, 2}
    np.testing.assert_array_equal((network.table.item_rows - network.table.offsets).numpy(), known.codes)
    fewer, _, _ = several(curriculum=False, count=2)
    np.testing.assert_array_equal(fewer.rows[0] - network.table.offsets, known.more_codes[1])


def test_influence_is_the_product_of_gradients_by_hand() -> None:
    _, held = hold_out(walks().train, 4, 4, seed=0)
    made, recommender, plans = several(held, probes=1)
    network = recommender.fitted().eval()
    probe = next(plans.batches(np.random.default_rng(3)))
    known = catalogue()

    def gradient(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        network.zero_grad()
        network(batch)[0].backward()
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in network.parameters()]
        return torch.cat([part.flatten() for part in parts]).double()

    wanted, products = gradient(held), []
    served = network.use(network.table.item_rows, network.trie)
    for table in [*known.more_codes, known.codes]:
        other = replace(known, codes=table)
        facts = recommender.params.facts(other, (3, 4))
        network.use(network.table.known_rows(torch.from_numpy(table.astype(np.int64))), facts.trie)
        products.append(float(wanted @ gradient(probe)))
    network.use(*served)
    expected = np.array(products) / np.abs(products).mean()
    made._look(plans, np.random.default_rng(3), held)
    np.testing.assert_allclose(made.influence.numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.shares, np.exp(expected) / np.exp(expected).sum(), rtol=1e-3)
    # A second look at the same weights and batches changes no mean.
    before = made.shares
    made._look(plans, np.random.default_rng(3), held)
    np.testing.assert_allclose(made.shares, before, rtol=1e-9)


def test_identifiers_like_the_served_one_teach_more() -> None:
    """A network that learns the served IDs gains from IDs that differ in two items, and not from IDs at random."""
    _, held = hold_out(walks().train, 20, 4, seed=0)
    made, recommender, plans = several(held)
    network, rng = recommender.fitted(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(6):
        for batch in plans.batches(rng):
            network(batch)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
        made._look(plans, rng, held)
    far, near, served = made.shares
    assert 2 * far < near
    assert 2 * far < served


def test_shares_are_told() -> None:
    params = TINY | {"epochs": 4, "patience": 8, "identifiers": {"held_out": 20}}
    report = Generative(GenerativeParams.model_validate(params)).fit(walks(), catalogue(), 0)
    assert sum(report["shares"]) == pytest.approx(1, abs=1e-3)
    assert max(report["shares"]) > 0.34
    assert report["losses"][-1] < report["losses"][0]
    even = params | {"identifiers": {"curriculum": False}}
    shares = Generative(GenerativeParams.model_validate(even)).fit(walks(), catalogue(), 0)["shares"]
    assert shares == [0.3333] * 3


def test_one_identifier_is_plain_training() -> None:
    plain = Generative(GenerativeParams.model_validate(TINY | {"epochs": 2}))
    plain.fit(walks("full"), catalogue(), 0)
    for known, identifiers in ((catalogue(), {"count": 1}), (catalogue(0), {})):
        one = Generative(GenerativeParams.model_validate(TINY | {"epochs": 2, "identifiers": identifiers}))
        assert one.fit(walks("full"), known, 0)["shares"] == [1.0]
        np.testing.assert_array_equal(one.item_vectors(), plain.item_vectors())


@pytest.mark.parametrize("identifiers", [{}, {"curriculum": False}, {"count": 1}], ids=str)
def test_variants_are_trained_on_the_same_events_and_what_is_served_on_all(
    identifiers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on = []
    real = Identifiers.batches

    def noting(self: Identifiers, plans: Plans, rng: np.random.Generator) -> Any:
        trained_on.append(plans.cut.events.items.tolist())
        return real(self, plans, rng)

    monkeypatch.setattr(Identifiers, "batches", noting)
    told = TINY | {"epochs": 1, "identifiers": {"held_out": 9} | identifiers}
    for protocol in ("leave_one_out", "full"):
        report = Generative(GenerativeParams.model_validate(told)).fit(walks(protocol), catalogue(), 0)
        # Influence is measured either way.
        assert (len(set(report["shares"])) > 1) == (not identifiers)
    left, _ = hold_out(walks().train, 9, 4, seed=0)
    assert trained_on == [left.items.tolist(), walks("full").train.items.tolist()]


def test_where_histories_are_too_short_to_hold_out_from_identifiers_are_drawn_alike() -> None:
    rows = Histories.of([[user % N, (user + 1) % N] for user in range(40)])
    model = Generative(GenerativeParams.model_validate(TINY | {"epochs": 1, "identifiers": {"held_out": 9}}))
    shares = model.fit(split(rows, "full"), catalogue(), 0)["shares"]
    assert len(shares) > 1
    assert len(set(shares)) == 1


def test_what_is_held_out_is_not_trained_on() -> None:
    train = Histories.of([[1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11], []])
    left, held = hold_out(train, 10, 4, seed=0)
    assert held is not None
    items, lengths, _, _, targets = held
    assert left.lengths.tolist() == [5, 2, 2, 0]
    assert items.tolist() == [[2, 3, 4, 5], [9, 10, 0, 0]]
    assert lengths.tolist() == [4, 2]
    assert targets.tolist() == [[-1, -1, -1, 6], [-1, 11, -1, -1]]
    left, (items, *_) = hold_out(train, 1, 4, seed=0)
    assert len(items) == 1
    assert left.lengths.sum() == 10


def test_same_seed_same_weights_and_a_killed_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = GenerativeParams.model_validate(
        TINY | {"epochs": 4, "patience": 9, "identifiers": {"held_out": 9}, "fine_tuning": {"epochs": 1}}
    )
    whole = Generative(params)
    told = whole.fit(walks(), catalogue(), 0)
    real, calls = _Run._epoch, []

    def dying(self: _Run, batches: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, batches)

    monkeypatch.setattr(_Run, "_epoch", dying)
    monkeypatch.setattr("ml.recommenders.training.train_network.__defaults__", (None, None, 0.0, False))
    with pytest.raises(KeyboardInterrupt):
        Generative(params).fit(walks(), catalogue(), 0, tmp_path / "last")
    monkeypatch.setattr(_Run, "_epoch", real)
    again = Generative(params)
    report = again.fit(walks(), catalogue(), 0, tmp_path / "last")
    assert report["shares"] == told["shares"]
    np.testing.assert_array_equal(again.item_vectors(), whole.item_vectors())


def test_what_keeps_ids_of_its_own_or_is_compiled_is_refused() -> None:
    with pytest.raises(ValueError, match="not compiled"):
        GenerativeParams.model_validate(TINY | {"identifiers": {}, "compile": True})
