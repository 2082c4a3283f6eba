from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.leaderboard_page import page, systems
from benchmarks.snapshots import DEFAULT, of_tokenizer
from ml.evaluation.leaderboard import Run

N = 300


def run(recipe: str, kind: str, hits: float, **told: object) -> Run:
    rng = np.random.default_rng(len(recipe))
    found = np.where(rng.random(N) < hits, 1, 0).astype(np.int32)
    metrics = {name: float((found == 1).mean()) for name in ("recall@5", "ndcg@5", "recall@10", "ndcg@10")}
    made = {"data_hash": "d", "recipe_hash": recipe, "date": "2026-01-01", "seconds": 1, "device": "cpu"}
    about = {"recipe": recipe, "protocol": "leave_one_out", "seed": 0, "queries": "q", "metrics": metrics}
    provenance = {"provenance": made | {"peak_memory_mb": 1}, "recommender": {"kind": kind}}
    return Run(about | provenance | told, found)


def sections(text: str) -> dict[str, list[list[str]]]:
    """Return the rows of the tables, by heading."""
    found: dict[str, list[list[str]]] = {}
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        rows = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| ")]
        found[title] = rows[1:]
    return found


def test_ablations_stand_apart_and_are_measured_against_their_recipe() -> None:
    runs = [
        run("transitions", "transitions", 0.2, training_free=True),
        run("popularity", "popularity", 0.1, training_free=True),
        run("sasrec", "sequential", 0.25),
        run("tiger", "generative", 0.3),
        run("tiger-wide", "generative", 0.2),
        run("apao", "generative", 0.6, tokenizer="rpg", published={"ndcg@10": 0.5}),
        run("apao@plain", "generative", 0.3),
    ]
    found = sections(page("toy", runs))
    names = [row[0] for row in found["Leave-one-out"]]
    assert sorted(names) == ["apao", "popularity", "sasrec", "tiger", "tiger-wide", "transitions"]
    assert "| N@10 against tiger | N@10 against tiger-wide |" in page("toy", runs)
    apao, tiger, wide, *held = found["Generative recommenders, leave-one-out"]
    assert [row[:2] for row in held] == [["transitions", "none"], ["sasrec", "none"]]
    assert all(row[7].startswith("-0.") for row in held)
    assert apao[:3] == ["apao", "rpg", "1"]
    assert apao[5:7] == ["-", ".5000"]
    assert apao[7].startswith("+0.")
    assert [tiger[0], tiger[1], tiger[7], tiger[8][:2]] == ["tiger", "default", "-", "+0"]
    assert [wide[0], wide[7][:2], wide[8]] == ["tiger-wide", "-0", "-"]
    whole, plain = found["Ablations, leave-one-out"]
    assert [whole[0], whole[1], whole[5]] == ["apao", "-", "-"]
    assert plain[:2] == ["apao", "plain"]
    assert plain[5].startswith("-0.")


def test_without_successors_and_ablations_there_are_no_such_tables() -> None:
    found = sections(page("toy", [run("transitions", "transitions", 0.2), run("tiger", "generative", 0.3)]))
    assert list(found) == ["Leave-one-out"]


def test_targets_are_told_apart_by_event_type_where_there_are_several() -> None:
    slices = {"type=view": {"queries": 250, "ndcg@10": 0.25}, "type=buy": {"queries": 50, "ndcg@10": 0.75}}
    other = {name: told | {"ndcg@10": 0.5} for name, told in slices.items()}
    runs = [
        run("tiger", "generative", 0.3, slices=slices),
        run("tiger", "generative", 0.3, slices=other, seed=1),
        run("transitions", "transitions", 0.2, slices={"type=view": slices["type=view"]}),
    ]
    text = page("toy", runs)
    assert "| recipe | seeds | view (250) | buy (50) |" in text
    found = sections(text)["By event type of the target, leave-one-out"]
    assert found == [["tiger", "2", ".3750", ".6250"], ["transitions", "1", ".2500", "-"]]
    assert "By event type" not in page("toy", [run("tiger", "generative", 0.3)])


def test_the_page_of_systems_has_every_log_with_two_of_them() -> None:
    boards = {
        "one": [run("tiger", "generative", 0.3), run("transitions", "transitions", 0.2, training_free=True)],
        "two": [
            run("tiger-wide", "generative", 0.3, published={"ndcg@10": 0.25}),
            run("rpg", "generative", 0.6),
            run("rpg@one-head", "generative", 0.6),
            run("sasrec", "sequential", 0.2),
        ],
    }
    lines = [line for line in systems(boards).splitlines() if line.startswith("| ")]
    assert lines[0] == "| recipe | two | against tiger-wide |"
    assert [line.split(" | ")[0] for line in lines[1:]] == ["| rpg", "| tiger-wide", "| sasrec"]
    assert lines[2].endswith(" / .2500 | - |")
    assert lines[1].split(" | ")[2].startswith("+0.")


def test_a_tokenizer_has_a_snapshot_of_its_own() -> None:
    folder = Path("snapshots/log")
    assert of_tokenizer(folder, None) == of_tokenizer(folder, DEFAULT) == folder
    assert of_tokenizer(folder, "rpg") == Path("snapshots/log@rpg")
