"""Sessions read as places, and the whole next session told: SessionRec's parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Network
from ml.recommenders.generative.objectives.session import NextSession, target_sessions
from ml.recommenders.generative.tokens.session import SessionTokens
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import shake

N_ITEMS = 16
MINUTE = 60_000_000
SIZES = {"heads": 2, "head_width": 8, "feed_forward": 32}
BACKBONES = ["encoder_decoder", "decoder_only"]


def make_catalogue() -> Catalogue:
    every = np.array([(a, b) for a in range(4) for b in range(4)], np.int32)
    codes = every[np.random.default_rng(0).permutation(N_ITEMS)]
    none = np.zeros((N_ITEMS, 0), np.float32)
    return Catalogue(
        [f"i{i:02d}" for i in range(N_ITEMS)], [""] * N_ITEMS, [[]] * N_ITEMS, none, codes, (4, 4)
    )


def params(backbone: str = "encoder_decoder", objective: dict[str, Any] | None = None, **changes: Any) -> Any:
    return GenerativeParams.model_validate(
        {
            **{"d": 16, "length": 8, "dropout": 0.0, "tokens": {"kind": "session", "gap": 30}},
            "backbone": SIZES | {"kind": backbone},
            "objective": {"kind": "next_session", "beam": N_ITEMS} | (objective or {}),
            **changes,
        }
    )


def timed(rows: list[list[tuple[int, int]]], types: list[list[int]] | None = None) -> Histories:
    """Make histories of (item, minute), and types of their events."""
    times = np.array([minute * MINUTE for row in rows for _, minute in row], np.int64)
    made = replace(Histories.of([[item for item, _ in row] for row in rows]), times=times)
    if types is None:
        return made
    return replace(made, event_types=np.array([kind for row in types for kind in row], np.int8))


def make_network(backbone: str = "encoder_decoder", **objective: Any) -> tuple[Generative, Network]:
    torch.manual_seed(0)
    model, catalogue = Generative(params(backbone, objective)), make_catalogue()
    train = timed([[(0, 0)] * 6], [[0, 1, 1, 1, 2, 2]])
    network = model.params.build(model.params.facts(catalogue, catalogue.code_sizes, train, 3))
    shake(network)
    model.network = network.eval()
    return model, network


ROW = [(3, 0), (5, 20), (5, 50), (7, 81), (2, 200), (1, 201)]


def test_a_pause_ends_a_session() -> None:
    _, network = make_network()
    tokens = network.tokens
    assert isinstance(tokens, SessionTokens)
    read = Sequences.of(timed([ROW, [(4, 10_000)], []]), 8)
    assert tokens.sessions(read)[0].tolist() == [0, 0, 0, 1, 2, 2]
    assert tokens.groups(read).tolist() == [3, 1, 0]


def test_a_session_is_the_weighted_mean_of_its_events() -> None:
    _, network = make_network()
    tokens, table = network.tokens, network.table
    assert isinstance(tokens, SessionTokens)
    assert tokens.types is not None
    read = Sequences.of(timed([ROW, [(4, 0)]], [[0, 1, 2, 0, 0, 1], [2]]), 8)
    with torch.no_grad():
        found = tokens(table, read)
        assert found.shape == (2, 3, 1, 16)
        events = table.item_sums()[[3, 5, 5]] + tokens.types(torch.tensor([0, 1, 2]))
        weights = (events @ tokens.query + tokens.recency[[2, 1, 0]]).softmax(dim=0)
        torch.testing.assert_close(found[0, 0, 0], weights @ events)
        torch.testing.assert_close(found[1, 0, 0], table.item_sums()[4] + tokens.types(torch.tensor(2)))
    assert found.isfinite().all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_reading_trains_the_states_that_recommendations_are_made_from(backbone: str) -> None:
    """Score each item of a later session by the training pass, and by a search after the sessions before it."""
    model, network = make_network(backbone, rank=0.0)
    whole = Sequences.of(timed([ROW[:-1]]), 8)
    following = torch.tensor([[minute * MINUTE for _, minute in ROW[1:]]])
    told = whole._replace(target_times=following, target_types=torch.zeros_like(following))
    targets = torch.tensor([[item for item, _ in ROW[1:]]])
    with torch.no_grad():
        loss, count = network.objective.loss(network, told, targets)
    expected = []
    for known, items in ((3, [7]), (4, [2, 1])):
        found, scores = model.recommend(timed([ROW[:known], [(1, 0)]]), N_ITEMS, exclude_history=False)
        expected += [float(scores[0][found[0].tolist().index(item)]) for item in items]
    assert int(count) == 3
    np.testing.assert_allclose(float(loss), -np.mean(expected), rtol=1e-4)
    first = make_network(backbone, rank=0.0, target="item")[1]
    with torch.no_grad():
        loss, count = first.objective.loss(first, told, targets)
    assert int(count) == 2
    np.testing.assert_allclose(float(loss), -np.mean(expected[:2]), rtol=1e-4)


def test_what_was_done_more_with_ranks_above() -> None:
    _, network = make_network(rank=0.5)
    objective = network.objective
    assert isinstance(objective, NextSession)
    assert objective.seen.tolist() == [1, 3, 2]
    read = Sequences.of(timed([[(3, 0), (4, 100), (5, 101), (6, 102)]]), 8)
    times = torch.tensor([[100, 101, 102, 300]]) * MINUTE
    # Types 0, 2, 1 stand for rare to frequent; the last target is in a session of its own.
    read = read._replace(target_times=times, target_types=torch.tensor([[1, 0, 2, 0]]))
    targets = torch.tensor([[4, 5, 6, 7]])
    session, first = target_sessions(network, read)
    assert session.tolist() == [[1, 1, 1, 2]]
    assert first.tolist() == [[True, False, False, True]]
    scores = torch.tensor([[-1.0, -2.0, -4.0, -3.0]])
    known = torch.ones_like(targets, dtype=torch.bool)
    found = objective.rank_loss(scores, known, session, read, targets)
    pairs = [(-2.0, -1.0), (-4.0, -1.0), (-2.0, -4.0)]
    expected = torch.stack([softplus(torch.tensor(less - more)) for more, less in pairs]).mean()
    torch.testing.assert_close(found, expected)
    # One that was both seen and bought is not above itself.
    same = objective.rank_loss(scores, known, session, read, torch.tensor([[4, 4, 4, 7]]))
    assert float(same) == 0
    with torch.no_grad():
        loss, _ = objective.loss(network, read, targets)
        plain, _ = make_network(rank=0.0)[1].objective.loss(network, read, targets)
    assert float(loss) > float(plain)


def planted(n_users: int = 40) -> Histories:
    """A session holds items 3s, 3s + 1, 3s + 2 in any order; the next one is of s + 1."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        row = []
        for step in range(5):
            group = (user + step) % 5
            row += [(3 * group + int(i), 100 * step + n) for n, i in enumerate(rng.permutation(3))]
        rows.append(row[:-2])
    return timed(rows)


def test_the_next_session_is_learnt_as_a_set() -> None:
    parts = split(planted(), "full")
    many = {"epochs": 60, "learning_rate": 2e-2, "batch_tokens": 128, "warmup": 5, "length": 15}
    model = Generative(params(**many))
    model.fit(parts, make_catalogue(), seed=0)
    asked = timed([[(3 * group + i, i) for i in (2, 0, 1)] for group in range(5)])
    items, _ = model.recommend(asked, 3)
    expected = [[3 * ((group + 1) % 5) + i for i in range(3)] for group in range(5)]
    assert [sorted(row) for row in items.tolist()] == expected


def test_parts_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="needs tokens of kind session"):
        params(tokens={"kind": "codes"})
    with pytest.raises(ValueError, match="tokens of kind session need objective next_session"):
        params(objective={"kind": "autoregressive"})
    with pytest.raises(ValueError, match="needs a causal backbone"):
        GenerativeParams.model_validate(
            {"tokens": {"kind": "session"}, "objective": {"kind": "next_session"}}
            | {"backbone": {"kind": "encoder_decoder", "causal": False}}
        )
