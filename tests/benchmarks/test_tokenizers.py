from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks import tokenizers as module
from ml.artifacts import read_json
from ml.tokenizers.items import ItemData

N = 320


def _write(path: Path, text: str) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(text)


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with both datasets at a small size; users walk from an item to its neighbours."""
    encoded: list[int] = []

    def encode(texts: list[str]) -> np.ndarray:
        encoded.append(len(texts))
        return np.random.default_rng(0).normal(size=(len(texts), 8)).astype(np.float32)

    monkeypatch.setattr(module, "encode_texts", encode)
    histories = [[(start + step) % N for step in range(6)] for start in range(0, N, 2)]
    scientific, beauty = tmp_path / "amazon-scientific", tmp_path / "amazon-beauty-2014"
    for folder in (scientific, beauty):
        folder.mkdir()
    items = [
        {"item_idx": n, "title": f"t{n}", "categories": f"Industrial & Scientific,c{n % 4},d{n % 8}"}
        for n in range(N)
    ]
    _write(scientific / "items.jsonl.gz", "\n".join(map(json.dumps, items[::-1])))
    _write(
        scientific / "sequences.jsonl.gz",
        "\n".join(json.dumps({"user": str(n), "items": row}) for n, row in enumerate(histories)),
    )
    codes = {str(n): [f"<a_{n % 16}>", f"<b_{n // 16}>"] for n in range(N)}
    _write(scientific / "sid_cgr_rqvae_zcr.json.gz", json.dumps(codes))
    items = [
        {
            "item_idx": n,
            "title": f"t{n}",
            "categories": [["Beauty", f"c{n % 4}"], ["Else"]],
            "s3rec_attributes": ["Makeup" if n else "OPI"],
        }
        for n in range(N)
    ]
    _write(beauty / "items.jsonl.gz", "\n".join(map(json.dumps, items)))
    rows = [f"u{u},a,{item},{pos},0" for u, row in enumerate(histories) for pos, item in enumerate(row)]
    _write(beauty / "interactions.csv.gz", "\n".join(["user_id,asin,item_idx,pos,timestamp", *rows]) + "\n")
    _write(beauty / "sid_letter.json.gz", json.dumps(codes))
    return tmp_path


def test_items_hold_what_leave_one_out_training_knows(datasets: Path) -> None:
    found = {
        name: module.load_items(datasets / name, datasets / "cache") for name in sorted(module.PUBLISHED)
    }
    for items in found.values():
        assert len(items) == N
        assert items.pairs is not None
        # User 0 walks 0 to 5; 4 is validation and 5 is test.
        assert items.pairs[0, 3] == pytest.approx(0.7**2)
        assert items.pairs[1, 4] == 0
        assert items.pairs[0, 4] == 0
        assert items.space("fused").shape == (N, 8 + module.DIM)
        assert items.first_seen is not None
        assert items.first_seen[:6].tolist() == [0, 1, 2, 3, 6, 7]
    assert found["amazon-scientific"].categories[5] == ["c1", "d5"]
    assert found["amazon-beauty-2014"].categories[5] == ["c1"]


def test_text_is_encoded_once(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = module.load_items(datasets / "amazon-scientific", datasets / "cache")
    monkeypatch.setattr(module, "encode_texts", None)
    again = module.load_items(datasets / "amazon-scientific", datasets / "cache")
    np.testing.assert_array_equal(again.space("text"), first.space("text"))


def test_published_codes_are_read(datasets: Path) -> None:
    who, codes, sizes = module.published_codes(datasets / "amazon-beauty-2014")
    assert who == "published: LETTER"
    assert codes[17].tolist() == [1, 1]
    assert sizes == (16, 32)


def _call(datasets: Path, *options: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(module.main)
    folders = [
        "--datasets",
        str(datasets),
        "--cache",
        str(datasets / "cache"),
        "--out",
        str(datasets / "out"),
    ]
    result = CliRunner().invoke(app, [*folders, *options])
    return result.exit_code, result.stdout


def test_one_that_fails_loses_no_other(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = module.build

    def build(kind: str, params: dict) -> object:  # type: ignore[type-arg]
        if kind == "rqvae":
            raise RuntimeError("planted\nfault")
        return honest(kind, params)

    monkeypatch.setattr(module, "build", build)
    options = ["--dataset", "amazon-scientific", "--recipe", "rqvae", "--recipe", "residual-kmeans"]
    code, printed = _call(datasets, *options, "--pages", str(datasets / "pages"))
    assert code == 1
    assert "rqvae failed: RuntimeError: planted fault" in printed
    record = read_json(datasets / "out" / "tokenizers-amazon-scientific.json")
    assert [row["case"] for row in record["rows"]] == ["published: RQ-VAE, no collisions", "residual-kmeans"]
    assert record["failed"] == {"rqvae": "RuntimeError: planted fault"}
    published, ours = (row["report"] for row in record["rows"])
    assert published["uniqueness"]["distinct"] == N
    assert published["reconstruction_error"] is None
    assert ours["reconstruction_error"] < 0.5
    assert record["rows"][1]["training_seconds"] > 0
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert "| 3x256 |" in table[3]
    pages = sorted((datasets / "pages" / "amazon-scientific").iterdir())
    assert [page.name for page in pages] == ["published.html", "residual-kmeans.html"]
    assert "training_cpu_seconds".replace("_", " ") in pages[1].read_text()


def test_churn_is_measured_three_ways(datasets: Path) -> None:
    options = ["--dataset", "amazon-beauty-2014", "--recipe", "none", "--churn", "residual-kmeans"]
    code, printed = _call(datasets, *options)
    assert code == 0
    row = read_json(datasets / "out" / "tokenizer-churn-amazon-beauty-2014.json")["rows"][0]
    assert (row["old_items"], row["items"]) == (288, 320)
    assert row["frozen"]["churn"] == {
        "kept": 288,
        "added": 32,
        "removed": 0,
        "changed": 0,
        "first_code": 0,
        "neighbourhood": 0,
    }
    assert row["cold"]["churn"]["changed"] > 0
    assert sum(line.startswith("| residual-kmeans |") for line in printed.splitlines()) == 3


def test_unknown_dataset_is_named(datasets: Path) -> None:
    assert _call(datasets, "--dataset", "books")[0] == 2
    assert isinstance(module.load_items(datasets / "amazon-scientific", datasets), ItemData)
