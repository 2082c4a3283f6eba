from __future__ import annotations

from pathlib import Path

import pytest

from ml.recipes import RecipeError, load_recipe, recipe_names
from ml.recommenders import build


def test_every_recipe_can_be_built() -> None:
    assert {"popularity", "sasrec", "transitions"} <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        made = build(recipe.recommender)
        assert made.kind == recipe.recommender["kind"]
        assert recipe.training_free == (
            made.kind in {"popularity", "transitions", "item_knn", "text_knn", "text_similarity"}
        )


def test_every_ablation_differs_from_its_recipe_and_can_be_built() -> None:
    for name in recipe_names():
        whole = load_recipe(name)
        for ablation in whole.ablations:
            told = load_recipe(f"{name}@{ablation}")
            assert told.hash != whole.hash
            assert build(told.recommender).kind == whole.recommender["kind"]


def test_an_ablation_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: Mine\npublished: {some: {ndcg@10: 0.5}}\ntokenizer: fsq\n"
        "recommender: {kind: sequential, d: 8, dropout: 0.5, block: {kind: attention, heads: 2}}\n"
        "ablations:\n  one-head: {block: {heads: 1}}\n  gru: {block: {kind: recurrent}}\n"
        "  wrong: {block: {heads: 3}}\n  bad: {speed: 3}\n"
    )
    whole, one_head, gru = (load_recipe(f"{path}{name}") for name in ("", "@one-head", "@gru"))
    assert one_head.name == "mine@one-head"
    assert (one_head.published, one_head.tokenizer) == ({}, "fsq")
    assert one_head.recommender == whole.recommender | {"block": whole.recommender["block"] | {"heads": 1}}
    assert gru.recommender["block"]["kind"] == "recurrent"
    assert gru.recommender["dropout"] == 0.5
    with pytest.raises(RecipeError, match="no ablation 'two'; known: one-head, gru, wrong, bad"):
        load_recipe(f"{path}@two")
    with pytest.raises(RecipeError, match=r"mine@wrong: recommender: heads \(3\) must divide d \(8\)"):
        load_recipe(f"{path}@wrong")
    with pytest.raises(RecipeError, match=r"mine@bad: .*no parameter 'speed'"):
        load_recipe(f"{path}@bad")


def test_a_recipe_like_another_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: Mine\nlike: tiger\nrecommender: {d: 32, objective: {beam: 5}, tokens: {kind: behaviour}}\n"
    )
    tiger, mine = load_recipe("tiger"), load_recipe(path)
    changed = {"d": 32, "objective": tiger.recommender["objective"] | {"beam": 5}}
    assert mine.recommender == tiger.recommender | changed | {"tokens": mine.recommender["tokens"]}
    assert mine.recommender["tokens"] == {"kind": "behaviour", "merge": False}
    assert (mine.title, mine.published, mine.ablations) == ("Mine", {}, {})
    path.write_text("title: Mine\nlike: tiger\n")
    assert load_recipe(path).hash == tiger.hash


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ("magic", "unknown recipe 'magic'; known: .*tiger"),
        ("apao", "mine.yaml: .*recipe 'apao' is itself like 'tiger': name that one"),
        ("[tiger]", "unknown recipe .*known: "),
    ],
)
def test_what_a_recipe_cannot_be_like(tmp_path: Path, like: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"title: Mine\nlike: {like}\n")
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_recipe_is_complete_and_its_name_is_its_numbers(tmp_path: Path) -> None:
    plain, filled = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    plain.write_text("title: Mine\nrecommender: {kind: transitions}\n")
    mine = load_recipe(plain)
    assert mine.name == "mine"
    assert mine.recommender["window"] == 10
    filled.write_text("title: Prose\npaper: Some\nrecommender: {kind: transitions, window: 10}\n")
    assert load_recipe(filled).hash == mine.hash
    filled.write_text("title: Prose\nrecommender: {kind: transitions, window: 11}\n")
    assert load_recipe(filled).hash != mine.hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("recommender: {kind: popularity}", "title: Field required"),
        (
            "title: T\nrecommender: {kind: magic}",
            "unknown recommender kind 'magic'; known: .*popularity, sequential",
        ),
        ("title: T\nrecommender: {}", "unknown recommender kind"),
        ("title: T\nrecommender: {kind: popularity, half: 3}", "no parameter 'half'; known: half_life_days"),
        (
            "title: T\nrecommender: {kind: sequential, d: 10, block: {kind: attention, heads: 3}}",
            r"heads \(3\) must divide d \(10\)",
        ),
        ("title: T\nrecommender: {kind: sequential, dropout: 2}", "less than 1"),
        (
            "title: T\nrecommender: {kind: blend, parts: [{kind: popularity}, {kind: transitions, window: 0}]}",
            "part 1: transitions: window: Input should be greater than or equal to 1",
        ),
        (
            "title: T\nrecommender: {kind: blend, parts: [{kind: magic}]}",
            "part 0: unknown recommender kind 'magic'",
        ),
        ("title: T\nrecommender: {kind: blend, parts: []}", "parts: .* at least 1 item"),
        (
            "title: T\nrecommender: {kind: blend, parts: [{kind: popularity}], weights: [1, 2]}",
            "2 weights for 1 parts",
        ),
        ("title: T\nspeed: 3\nrecommender: {kind: popularity}", "speed: Extra inputs"),
        ("title: [", "is not YAML"),
        ("- 1", "must map names to values"),
    ],
)
def test_a_bad_recipe_is_told_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    assert "bad.yaml" in str(caught.value)


def test_an_unknown_recipe_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe 'magic'; known: .*popularity.*sasrec"):
        load_recipe("magic")
    with pytest.raises(RecipeError, match=r"none\.yaml cannot be read"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("blend", "parts"),
    [
        ("blend-sasrec-graph", ["sasrec", "graph-heuristic"]),
        ("blend-bsarec-graph", ["bsarec-causal", "graph-heuristic"]),
    ],
)
def test_parts_of_a_blend_are_the_recipes_that_it_names(blend: str, parts: list[str]) -> None:
    assert load_recipe(blend).recommender["parts"] == [load_recipe(name).recommender for name in parts]
