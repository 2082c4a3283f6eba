"""Requests that come together are answered together, each as if it were alone."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from eventual import eventually

from ml.histories import Histories
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.snapshot import Catalogue
from serving.batching import Batched, in_batches
from tests.ml.recommenders.generative.tiny import shake


class Slow:
    """Answers each history with its last item, once it may; remembers what was asked together."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked: list[tuple[list[int], int, bool]] = []

    def recommend(self, histories: Histories, k: int, exclude_history: bool = True) -> Any:
        self.asked.append((histories.items.tolist(), k, exclude_history))
        assert self.go_on.wait(10)
        if 13 in histories.items:
            raise ValueError("unlucky")
        return np.repeat(histories.items[:, None], k, axis=1), np.full((len(histories), k), 0.5, np.float32)

    def query_vectors(self, histories: Histories) -> None:
        return None


def ask_together(batched: Batched, wishes: list[tuple[int, int, bool]], slow: Slow) -> list[Any]:
    """Ask for each of (item, k, exclude_history) while the first is being answered."""

    def ask(item: int, k: int, exclude: bool) -> Any:
        try:
            items, scores = batched.recommend(Histories.of([[item]]), k, exclude)
        except ValueError as error:
            return str(error)
        assert scores.tolist() == [[0.5] * k]
        return items.tolist()

    with ThreadPoolExecutor(len(wishes)) as pool:
        first = pool.submit(ask, *wishes[0])
        eventually(lambda: len(slow.asked) == 1)
        others = []
        for place, wish in enumerate(wishes[1:], 1):
            others.append(pool.submit(ask, *wish))
            eventually(lambda place=place: len(batched._waiting) == place)  # type: ignore[misc]
        slow.go_on.set()
        return [future.result(10) for future in (first, *others)]


def test_who_waits_is_answered_together() -> None:
    slow = Slow()
    wishes = [(item, 2, True) for item in range(8)]
    answers = ask_together(Batched(slow, 4), wishes, slow)
    assert answers == [[[item, item]] for item in range(8)]
    # Nobody waited for company, and no batch is larger than it may be.
    assert slow.asked == [([0], 2, True), ([1, 2, 3, 4], 2, True), ([5, 6, 7], 2, True)]


def test_only_equal_wishes_share_a_batch() -> None:
    slow = Slow()
    wishes = [(0, 1, True), (1, 1, True), (2, 3, True), (3, 1, False), (4, 1, True), (5, 3, True)]
    answers = ask_together(Batched(slow, 8), wishes, slow)
    assert answers == [[[item] * k] for item, k, _ in wishes]
    assert slow.asked == [([0], 1, True), ([1, 4], 1, True), ([2, 5], 3, True), ([3], 1, False)]


def test_a_failure_is_only_its_own() -> None:
    slow = Slow()
    batched = Batched(slow, 8)
    answers = ask_together(batched, [(item, 1, True) for item in (0, 1, 13, 2)], slow)
    assert answers == [[[0]], [[1]], "unlucky", [[2]]]
    # It is not stuck afterwards.
    assert batched.recommend(Histories.of([[7]]), 1)[0].tolist() == [[7]]
    with pytest.raises(ValueError, match="unlucky"):
        batched.recommend(Histories.of([[13]]), 1)


def test_only_decoders_answer_in_batches() -> None:
    slow = Slow()
    assert in_batches(slow, 16) is slow
    assert in_batches(None, 16) is None


def test_a_decoder_answers_in_a_batch_as_it_does_alone() -> None:
    torch.manual_seed(0)
    codes = np.array(list(itertools.product(range(4), range(4), range(3))), np.int32)
    n = len(codes)
    nothing = np.zeros((n, 0), np.float32)
    catalogue = Catalogue([f"i{i}" for i in range(n)], [""] * n, [[]] * n, nothing, codes, (4, 4, 3))
    params = GenerativeParams.model_validate(
        {
            "backbone": {"kind": "encoder_decoder"},
            "objective": {"kind": "autoregressive", "beam": 8},
            "d": 16,
            "length": 5,
        }
    )
    network = params.build(params.facts(catalogue, catalogue.code_sizes))
    shake(network)
    alone = Generative.of(params, network.eval(), catalogue)
    together = in_batches(alone, 16)
    assert isinstance(together, Batched)
    assert in_batches(alone, 1) is alone
    rows = [[(user * 7 + step) % n for step in range(1 + user % 6)] for user in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: together.recommend(Histories.of([row]), 5), rows))
    for row, (items, scores) in zip(rows, found, strict=True):
        expected, exact = alone.recommend(Histories.of([row]), 5)
        np.testing.assert_array_equal(items, expected)
        np.testing.assert_allclose(scores, exact, atol=1e-5)
