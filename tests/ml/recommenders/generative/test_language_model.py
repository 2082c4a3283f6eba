from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.artifacts import ArtifactError
from ml.evaluation.splits import Split, split
from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.generative.beam import code_scores
from ml.recommenders.generative.language_model import LanguageModel, LanguageModelParams, LanguageNetwork
from ml.recommenders.generative.language_prompts import ASKED, NEXT, code_names, packed
from ml.snapshot import Catalogue

pytest.importorskip("transformers", reason="language models are read by the package transformers")
from tiny_language_models import write_tiny_language_model

from tests.ml.recommenders.generative.tiny import shake

N_ITEMS, SIZES = 12, (3, 2, 4)


def make_catalogue(n: int = N_ITEMS) -> Catalogue:
    every = np.array(list(itertools.product(*map(range, SIZES))), np.int32)
    codes = every[np.random.default_rng(0).permutation(len(every))[:n]]
    titles = [f"Steel {i} wire"[: 9 + i % 4] if i != 5 else "" for i in range(n)]
    nothing = np.zeros((n, 0), np.float32)
    return Catalogue([f"i{i:02d}" for i in range(n)], titles, [[]] * n, nothing, codes, SIZES, "version")


@pytest.fixture(scope="module")
def parts() -> Split:
    rows = [[(user * 7 + step) % N_ITEMS for step in range(6 + user % 3)] for user in range(36)]
    return split(Histories.of(rows), "leave_one_out")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_language_model(tmp_path_factory.mktemp("tiny") / request.param, request.param)


def params_of(folder: Path, **changes: Any) -> LanguageModelParams:
    known = {
        "length": 4,
        "titles": 2,
        "title_tokens": 16,
        "beam": N_ITEMS,
        "epochs": 1,
        "learning_rate": 1e-2,
    }
    return LanguageModelParams.model_validate(
        {**known, "tasks": [], "batch_tokens": 64, "warmup": 5, "model": str(folder), **changes}
    )


@pytest.fixture(scope="module")
def tuned(folder: Path, parts: Split) -> LanguageModel:
    made = LanguageModel(params_of(folder))
    made.fit(parts, make_catalogue(), seed=0)
    torch.manual_seed(1)
    shake(made.fitted())
    return made


def by_hand(network: LanguageNetwork, history: list[int], normalise: Any) -> np.ndarray:
    """Read history and ID as one plain sequence of tokens for every item, without padding or kept keys."""
    trie, before, after = network.trie, *network.prompts.texts[NEXT]
    told = [*before, *network.prompts.items[history].flatten().tolist(), *after]
    found = []
    for item in range(N_ITEMS):
        own = network.prompts.items[item].tolist()
        with torch.no_grad():
            logits = network.model(torch.tensor([told + own])).logits[0, len(told) - 1 : -1].log_softmax(-1)
        leaf, score = trie.place[item], 0.0
        for depth, codes in enumerate(network.prompts.codes.split(SIZES)):
            node = trie.above(depth, leaf[None])
            _, children, exists = trie.children(depth, node)
            scores = code_scores(logits[depth][codes][None], children, exists, normalise)
            score += float(scores[0, int(trie.above(depth + 1, leaf[None]) - trie.first[depth][node])])
        found.append(score)
    return np.array(found)


@pytest.mark.parametrize("normalise", ["trie", "vocabulary", "table"])
@pytest.mark.parametrize("history", [[], [3], [5, 1, 9], [4, 8, 2, 0]], ids=str)
def test_recommendations_equal_reading_each_item_out(
    tuned: LanguageModel, normalise: Any, history: list[int]
) -> None:
    expected = by_hand(tuned.fitted(), history, normalise)
    made = LanguageModel(tuned.params.model_copy(update={"normalise": normalise}))
    made.network = tuned.network
    # Another user beside it, of another length, must not matter.
    some = Histories.of([history, [1, 2, 3], [0]])
    items, scores = made.recommend(some, N_ITEMS, exclude_history=False)
    order = np.argsort(-expected, kind="stable")
    np.testing.assert_allclose(scores[0], expected[order], atol=1e-4)
    np.testing.assert_array_equal(items[0], order)
    if normalise == "trie":
        np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-4)
    items, _ = made.recommend(some, 6)
    np.testing.assert_array_equal(items[0], [item for item in order if item not in history][:6])


def test_a_narrow_beam_keeps_the_kept_codes_apart(tuned: LanguageModel) -> None:
    narrow = LanguageModel(tuned.params.model_copy(update={"beam": 3}))
    narrow.network = tuned.network
    histories = Histories.of([[5, 1], [2], [7, 8, 9]])
    items, scores = narrow.recommend(histories, 3, exclude_history=False)
    for row, history in enumerate(([5, 1], [2], [7, 8, 9])):
        exact = by_hand(tuned.fitted(), history, "trie")
        np.testing.assert_allclose(scores[row], exact[items[row]], atol=1e-4)


@pytest.mark.parametrize("asked", ASKED)
def test_questions_and_answers_are_the_words_they_should_be(tuned: LanguageModel, asked: str) -> None:
    network, catalogue = tuned.fitted(), make_catalogue()
    names = code_names(SIZES)
    offsets = np.cumsum([0, *SIZES[:-1]])

    def code(item: int) -> str:
        return "".join(
            names[offset + value] for offset, value in zip(offsets, catalogue.codes[item], strict=True)
        )

    def title(item: int) -> str:
        return " " + catalogue.titles[item] + "</s>"

    histories = [[7], [3], [11]] if asked in ("title_to_id", "id_to_title") else [[1, 2, 7], [3], [4, 6]]
    targets = [history[0] for history in histories] if len(histories[0]) == 1 else [0, 2, 10]
    sequences = Sequences.of(Histories.of(histories), 4)
    tokens, real, answers = network.prompts.examples(
        asked, sequences.items, sequences.lengths, torch.tensor(targets)
    )
    spoken = {
        "next": (code, code),
        "ids_to_title": (code, title),
        "titles_to_id": (title, code),
        "title_to_id": (title, code),
        "id_to_title": (code, title),
    }[asked]
    for row, (history, target) in enumerate(zip(histories, targets, strict=True)):
        read = history[-2:] if spoken[0] is title else history
        before, after = (tuned._tokenizer.decode(text) for text in network.prompts.texts[asked])
        answer = spoken[1](target)
        said = tuned._tokenizer.decode(tokens[row][real[row]])
        assert said.replace(" ", "") == (before + "".join(map(spoken[0], read)) + after + answer).replace(
            " ", ""
        )
        told = tuned._tokenizer.decode(tokens[row, -int(answers[row]) :])
        assert told.replace(" ", "") == answer.replace(" ", "")
        assert not real[row, : int((~real[row]).sum())].any()


def test_the_loss_is_the_mean_over_tokens_of_answers(tuned: LanguageModel) -> None:
    network = tuned.fitted()
    prompts, kind = network.prompts, ASKED.index("ids_to_title")
    items, lengths, targets = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]), torch.tensor([4, 6])
    each = []
    with torch.no_grad():
        loss, count = network((items, lengths, targets, torch.tensor([kind, kind])))
        for history, target in (([1, 2], 4), ([3], 6)):
            before, after = prompts.texts["ids_to_title"]
            told = [*before, *prompts.items[history].flatten().tolist(), *after]
            answer = [token for token in prompts.titles[target].tolist() if token >= 0]
            logs = network.model(torch.tensor([told + answer])).logits[0].log_softmax(-1)
            each += [-float(logs[len(told) - 1 + i, token]) for i, token in enumerate(answer)]
    assert count == len(each)
    np.testing.assert_allclose(float(loss), np.mean(each), rtol=1e-4)


def test_it_learns_a_circle(folder: Path, parts: Split) -> None:
    changes = {"epochs": 40, "patience": 40, "evaluate_every": 10, "batch_tokens": 24, "length": 3}
    made = LanguageModel(params_of(folder, tasks=["title_to_id"], **changes))
    report = made.fit(parts, make_catalogue(), seed=0)
    items, _ = made.recommend(parts.test.histories, 1, exclude_history=False)
    assert (items[:, 0] == parts.test.targets).mean() > 0.9
    assert report["losses"][-1] < 0.3 * report["losses"][0]
    assert report["reachable_items"] == N_ITEMS


def test_saved_is_loaded_and_the_catalogue_may_grow(
    tuned: LanguageModel, parts: Split, tmp_path: Path
) -> None:
    tuned.save(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    loaded = LanguageModel.load(tmp_path, make_catalogue())
    for left, right in zip(
        loaded.recommend(parts.test.histories, 7), tuned.recommend(parts.test.histories, 7), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    vectors = loaded.item_vectors()
    assert vectors.shape == (N_ITEMS, 16)
    np.testing.assert_array_equal(vectors, tuned.item_vectors())
    grown = LanguageModel.load(tmp_path, make_catalogue(N_ITEMS + 4))
    items, _ = grown.recommend(Histories.of([[1]]), N_ITEMS + 3)
    assert set(items[0].tolist()) == set(range(N_ITEMS + 4)) - {1}
    with pytest.raises(ArtifactError, match="tokenizer version, not newer"):
        LanguageModel.load(tmp_path, replace(make_catalogue(), tokenizer="newer"))
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="holds no language model"):
        LanguageModel.load(tmp_path, make_catalogue())


def test_what_is_missing_is_said_in_one_line(
    folder: Path, parts: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = make_catalogue()
    monkeypatch.delenv("TESSERA_LANGUAGE_MODEL", raising=False)
    with pytest.raises(ValueError, match=r"by the parameter model or by TESSERA_LANGUAGE_MODEL$"):
        LanguageModel(params_of(folder, model=None)).fit(parts, catalogue, 0)
    monkeypatch.setenv("TESSERA_LANGUAGE_MODEL", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"is no folder with a language model$"):
        LanguageModel(params_of(folder, model=None)).fit(parts, catalogue, 0)
    with pytest.raises(ValueError, match=r"holds no language model: .*$"):
        LanguageModel(params_of(tmp_path)).fit(parts, catalogue, 0)
    with pytest.raises(ValueError, match="the language model reads 256"):
        LanguageModel(params_of(folder, length=200)).fit(parts, catalogue, 0)
    with pytest.raises(ValueError, match="nothing to learn"):
        LanguageModel(params_of(folder)).fit(split(Histories.of([[0], [1]]), "full"), catalogue, 0)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="need the package transformers"):
        LanguageModel(params_of(folder)).fit(parts, catalogue, 0)


def test_pieces_are_packed_to_the_right_in_their_order() -> None:
    tokens, real = packed([torch.tensor([[7, 8], [7, 8]]), torch.tensor([[-1, 3, -1], [4, 5, 6]])])
    assert tokens[real].tolist() == [7, 8, 3, 7, 8, 4, 5, 6]
    assert real.tolist() == [[False, False, True, True, True], [True] * 5]
