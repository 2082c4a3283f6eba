from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import rqvae
from ml.artifacts import Manifest, read_json
from ml.tokenizers.recipes import load_tokenizer_recipe
from ml.vectors.store import save_vectors


def test_one_file_tells_time_loss_and_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = load_tokenizer_recipe("rqvae")
    fewer = {"epochs": 2, "warm_up": 1, "code_size": 8, "hidden": [16], "latent": 8}
    small = small.model_copy(update={"tokenizer": small.tokenizer | fewer})
    monkeypatch.setattr(rqvae, "load_tokenizer_recipe", lambda name: small)
    monkeypatch.setattr(rqvae, "_ENCODED", 500)
    vectors = rqvae.clustered(300, 20)
    save_vectors(tmp_path / "v", Manifest(kind="vectors", version="a"), [str(i) for i in range(300)], vectors)
    # The live version is found from the folder of versions.
    told = ["", "--vectors", str(tmp_path / "v"), "--out", str(tmp_path), "--name", "x", "--threads", "1"]
    monkeypatch.setattr("sys.argv", told)
    rqvae.main()
    training, missed, encoding = read_json(tmp_path / "x.json")["rows"]
    assert training["extra"]["items"] == 300
    assert missed["extra"]["ours"]["epochs"] == 2
    assert missed["extra"]["peer"]["epochs"] == 8
    assert missed["ours"] == missed["extra"]["ours"]["residual"] > missed["peer"] > 0
    assert encoding["ours"] > 0


def test_clustered_vectors_have_few_directions_and_no_equals() -> None:
    vectors = rqvae.clustered(2000, 100)
    values = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2
    assert 0.8 < values[:64].sum() / values.sum() < 0.99
    assert len(np.unique(vectors, axis=0)) == 2000
