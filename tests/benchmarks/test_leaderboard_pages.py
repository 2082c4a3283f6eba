from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from benchmarks import leaderboard
from benchmarks.leaderboard import LEADERBOARD, PAGES, SYSTEMS, main, read_boards
from benchmarks.leaderboard_page import page, systems
from ml.artifacts import ArtifactError, read_json
from ml.evaluation.leaderboard import read_runs
from tests.benchmarks.test_logs import lines


@pytest.mark.parametrize("dataset", sorted(path.name for path in LEADERBOARD.iterdir() if path.is_dir()))
def test_the_committed_page_is_what_the_files_give(dataset: str) -> None:
    written = (PAGES / f"{dataset}.md").read_text(encoding="utf-8")
    assert written == page(dataset, read_runs(LEADERBOARD / dataset))


def test_no_page_without_files() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")}
    assert pages - {SYSTEMS} <= {path.name for path in LEADERBOARD.iterdir()}
    assert (PAGES / f"{SYSTEMS}.md").read_text(encoding="utf-8") == systems(read_boards())


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cut a snapshot of users who walk a ring of forty items."""
    import numpy as np

    from benchmarks import snapshots
    from ml.vectors import text

    def encode(texts: list[str], *_: object) -> np.ndarray:
        angles = np.array([int(name.removeprefix("t")) for name in texts]) * 2 * np.pi / 40
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    monkeypatch.setattr(text, "encode_texts", encode)
    folder = tmp_path / "logs" / "amazon-scientific"
    folder.parent.mkdir()
    items = [{"item_idx": i, "title": f"t{i}", "categories": ""} for i in range(40)]
    lines(folder / "items.jsonl.gz", items)
    walks = [{"user": str(u), "items": [(u + step) % 40 for step in range(5 + u % 3)]} for u in range(80)]
    lines(folder / "sequences.jsonl.gz", walks)
    out = tmp_path / "snapshots"
    assert snapshots.main(["amazon-scientific", "--root", str(folder.parent), "--out", str(out)]) == 0
    return out / "amazon-scientific"


class Here:
    """Does at once what it is given, in this process."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*arguments))
        except ArtifactError as error:
            done.set_exception(error)
        return done


def test_runs_are_recorded_shown_and_not_done_again(
    snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ["--results", str(tmp_path / "results")]
    arguments = ["run", str(snapshot), "--dataset", "ring", "--recipes", "popularity,transitions"]
    arguments += ["--models", str(tmp_path / "models"), "--threads", "1", *results]
    # One in a process of its own, as they all are outside of tests.
    assert main([*arguments, "--protocols", "cold_items", "--recipes", "popularity"]) == 0
    monkeypatch.setattr(leaderboard, "ProcessPoolExecutor", Here)
    assert main(arguments) == 0
    files = sorted(path.name for path in (tmp_path / "results" / "ring").iterdir())
    assert files == [
        f"{recipe}-seed0{protocol}.json"
        for recipe in ("popularity", "transitions")
        for protocol in ("-cold_items", "")
    ]
    told = read_json(tmp_path / "results" / "ring" / "transitions-seed0.json")
    assert told["metrics"]["ndcg@10"] > 0.9
    assert told["provenance"]["data_hash"] == read_json(snapshot / "manifest.json")["version"]
    monkeypatch.setattr(leaderboard, "ProcessPoolExecutor", None)
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(["show", "ring", "--pages", str(tmp_path / "pages"), *results]) == 0
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "pages" / "ring.md").read_text()
    rows = [line.split(" | ")[0].strip("| ") for line in shown.splitlines() if line.startswith("| ")]
    assert rows == ["recipe", "transitions", "popularity", "recipe", "popularity", "transitions"]
    assert main(["systems", "--pages", str(tmp_path / "pages"), *results]) == 0
    assert capsys.readouterr().out == (tmp_path / "pages" / "systems.md").read_text()
    assert main(["show", "sea", *results]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_what_a_protocol_refuses_has_no_file_and_has_not_failed(
    snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaderboard, "ProcessPoolExecutor", Here)
    arguments = ["run", str(snapshot), "--dataset", "ring", "--recipes", "tiger", "--protocols", "cold_items"]
    arguments += [
        "--models",
        str(tmp_path / "models"),
        "--seeds",
        "1",
        "--results",
        str(tmp_path / "results"),
    ]
    assert main(arguments) == 0
    assert "cannot train tiger (cold_items): no item has a semantic ID" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    assert main([*arguments[:5], "magic"]) == 2
