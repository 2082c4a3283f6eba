from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from vector_samples import write_marts

from ml.artifacts import ArtifactError, current, hash_folder, read_manifest
from ml.histories import Histories
from ml.vectors.encoder import TuningParams, distinct_texts, text_pairs, tune, update_text_encoder
from ml.vectors.encoder import _info_nce as info_nce
from ml.vectors.encoder import _related as related
from ml.vectors.text import encode_texts, load_encoder

PARAMS = TuningParams(steps=40, pairs=8, max_tokens=8, trained_layers=1, learning_rate=1e-2, temperature=0.1)
#: Pairs of words that no text tells to belong together.
FRIENDS = [("soap", "drill"), ("cream", "saw"), ("lotion", "hammer"), ("brush", "nail")]
TITLES = {word: f"red {word}" for pair in FRIENDS for word in pair}


def events(late: dict[str, str]) -> list[tuple[str, int, str, int]]:
    """Return users who meet two friends, again and again, and two events more that are validation and test."""
    rows = []
    for user in range(12):
        left, right = FRIENDS[user % 4]
        seen = [left, right, left, right, late.get(left, left), late.get(right, right)]
        hours = [0, 1, 2, 3, 100 + user, 200 + user]
        rows += [(f"u{user:02}", n + 1, item, hours[n]) for n, item in enumerate(seen)]
    return rows


def test_pairs_are_between_texts_on_both_sides() -> None:
    train = Histories.of([[0, 1, 2], [3, 0]])
    # Items 0 and 1 share a text, and item 2 has none.
    texts, of_item = distinct_texts(["a", "b", "c", "d"], ["a", "b", "d"], ["soap", "soap", "saw"])
    assert (texts, of_item.tolist()) == (["saw", "soap"], [1, 1, -1, 0])
    np.testing.assert_array_equal(text_pairs(train, of_item, 2, 3, 0.5).toarray(), [[0, 1], [1, 0]])
    apart = text_pairs(train, np.array([0, 1, 2, 3]), 4, 2, 0.5).toarray()
    np.testing.assert_array_equal(apart, [[0, 1, 0.5, 1], [1, 0, 1, 0], [0.5, 1, 0, 0], [1, 0, 0, 0]])


def test_loss_leaves_false_negatives_out() -> None:
    rng = np.random.default_rng(0)
    vectors = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(4, 3))), dim=1)
    pairs = text_pairs(Histories.of([[0, 1], [1, 3], [2, 4]]), np.arange(5), 5, 1, 1.0)
    np.testing.assert_array_equal(
        related(pairs, np.array([0, 1, 2, 3])),
        np.array([[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]], bool),
    )
    asked, targets = np.array([0, 1]), np.array([1, 0])
    loss = info_nce(vectors, asked, targets, ~related(pairs, np.arange(4))[asked], 0.5)
    scores = np.exp((vectors @ vectors.T).numpy() / 0.5)
    # 0 may not count itself; 1 may count neither itself nor 3, which it is a pair with as well.
    first = scores[0, 1] / (scores[0, 1] + scores[0, 2] + scores[0, 3])
    second = scores[1, 0] / (scores[1, 0] + scores[1, 2])
    assert float(loss) == pytest.approx(-(np.log(first) + np.log(second)) / 2)


def test_tuning_brings_friends_together_in_the_upper_layer_alone(tiny_encoder: Path, tmp_path: Path) -> None:
    texts = sorted(TITLES.values())
    friends = np.array([[texts.index(TITLES[word]) for word in pair] for pair in FRIENDS])

    def friends_first(vectors: np.ndarray) -> float:
        similar = vectors @ vectors.T
        np.fill_diagonal(similar, -1)
        found = similar.argmax(axis=1)
        return float(np.mean([found[a] == b and found[b] == a for a, b in friends]))

    model = load_encoder(str(tiny_encoder))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pairs = text_pairs(Histories.of(friends.tolist()), np.arange(8), 8, 1, 1.0)
    losses = tune(model, texts, pairs, PARAMS, seed=0)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(".layer.1." in name for name in moved)
    assert model.max_seq_length == load_encoder(str(tiny_encoder)).max_seq_length
    model.save(str(tmp_path / "tuned"), create_model_card=False)
    assert friends_first(encode_texts(texts, str(tmp_path / "tuned"))) == 1
    assert friends_first(encode_texts(texts, str(tiny_encoder))) < 1

    everything = load_encoder(str(tiny_encoder))
    tune(everything, texts, pairs, PARAMS.model_copy(update={"steps": 2, "trained_layers": 9}), seed=0)
    assert any(
        "word_embeddings" in name and not torch.equal(tensor, before[name])
        for name, tensor in everything.state_dict().items()
    )


def test_version_is_deterministic_loads_and_never_sees_the_answers(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    made = []
    for planted in ("plain", "planted"):
        late = {left: FRIENDS[0][1] for left, _ in FRIENDS} if planted == "planted" else {}
        marts = write_marts(tmp_path / planted, events(late), list(TITLES), TITLES)
        made.append(
            update_text_encoder(marts, tmp_path / f"{planted}-out", str(tiny_encoder), PARAMS, seed=3)
        )
    assert made[0].name == made[1].name
    assert hash_folder(made[0]) == hash_folder(made[1])
    manifest = read_manifest(made[0], "text_encoder")
    assert manifest.metrics["events_counted"] == 12 * 4
    assert (manifest.metrics["texts"], manifest.metrics["pairs"]) == (8, 4)
    assert manifest.metrics["last_loss"] < manifest.metrics["first_loss"]
    kinds = {path.suffix for path in made[0].rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}
    vectors = encode_texts(list(TITLES.values()), str(made[0]))
    assert vectors.shape == (8, 16)

    out = tmp_path / "plain-out"
    assert update_text_encoder(tmp_path / "plain", out, str(tiny_encoder), PARAMS, seed=3) == made[0]
    other = update_text_encoder(tmp_path / "plain", out, str(tiny_encoder), PARAMS, seed=4)
    assert current(out) == other != made[0]
    assert hash_folder(other) != hash_folder(made[0])


def test_nothing_to_tune_on_is_one_line(tiny_encoder: Path, tmp_path: Path) -> None:
    alone = write_marts(tmp_path / "alone", [("u", 1, "soap", 0)], [], TITLES)
    with pytest.raises(ArtifactError, match="nothing to tune on"):
        update_text_encoder(alone, tmp_path / "out", str(tiny_encoder), PARAMS)
    marts = write_marts(tmp_path / "marts", events({}), list(TITLES), TITLES)
    wild = PARAMS.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(ArtifactError, match="lower the learning rate"):
        update_text_encoder(marts, tmp_path / "out", str(tiny_encoder), wild)
    assert not (tmp_path / "out" / "CURRENT").exists()


def test_half_precision_tunes_weights_that_stay_whole(tiny_encoder: Path) -> None:
    texts = sorted(TITLES.values())
    friends = [[texts.index(TITLES[word]) for word in pair] for pair in FRIENDS]
    pairs = text_pairs(Histories.of(friends), np.arange(8), 8, 1, 1.0)
    model = load_encoder(str(tiny_encoder))
    losses = tune(model, texts, pairs, PARAMS.model_copy(update={"precision": "bfloat16"}), seed=0)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
