"""The loop on a network of one layer: what is promised of steps, looks, checkpoints and processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.recommenders.training import Batch, TrainingParams, rate, train_network

PARAMS = TrainingParams(learning_rate=0.05, warmup=0, epochs=6, patience=6)
STEPS = 5


class Line(nn.Module):
    """Linear regression with dropout, so that a step depends on torch's random numbers too."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.drop = nn.Linear(4, 1), nn.Dropout(dropout)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        x, y = batch
        return ((self.layer(self.drop(x))[:, 0] - y) ** 2).mean(), torch.tensor(len(x))


def batches(rng: np.random.Generator) -> Iterator[Batch]:
    for _ in range(STEPS):
        x = torch.from_numpy(rng.standard_normal((7, 4)).astype(np.float32))
        yield x, x.sum(dim=1)


def trained(params: TrainingParams = PARAMS, **more: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    network = Line()
    report = train_network(network, batches, STEPS, params, 3, **more)
    return network.state_dict(), report


def test_it_learns_and_repeats() -> None:
    first, report = trained()
    again, _ = trained()
    assert report["losses"][-1] < 0.7 * report["losses"][0]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert report["epochs"] == 6
    assert report["valid_ndcg@10"] == {}


def test_weights_of_the_best_look_are_kept_and_patience_ends() -> None:
    told = iter([0.1, 0.4, 0.3, 0.2, 0.9])
    seen: list[Tensor] = []
    network = Line()

    def score() -> float:
        assert not network.training
        seen.append(network.layer.weight.detach().clone())
        return next(told)

    report = train_network(network, batches, STEPS, PARAMS.model_copy(update={"patience": 2}), 3, score)
    assert report["valid_ndcg@10"] == {"1": 0.1, "2": 0.4, "3": 0.3, "4": 0.2}
    assert report["epochs"] == report["refit"]["epochs"] == 2
    assert torch.equal(network.layer.weight, seen[1])
    assert not torch.equal(network.layer.weight, seen[3])


def test_what_was_there_stays_unless_training_makes_it_better() -> None:
    before = Line().state_dict()
    worse, better = iter([0.5, 0.4, 0.5]), iter([0.5, 0.6, 0.3])
    params = PARAMS.model_copy(update={"epochs": 2})
    weights, report = trained(params, score=lambda: next(worse), look_first=True)
    assert report["valid_ndcg@10"] == {"0": 0.5, "1": 0.4, "2": 0.5}
    assert report["epochs"] == 0
    assert all(torch.equal(before[name], weights[name]) for name in before)
    weights, report = trained(params, score=lambda: next(better), look_first=True)
    assert report["epochs"] == 1
    assert not torch.equal(before["layer.weight"], weights["layer.weight"])


def test_looks_are_taken_every_so_many_epochs_and_after_the_last() -> None:
    _, report = trained(PARAMS.model_copy(update={"evaluate_every": 4}), score=lambda: 0.5)
    assert list(report["valid_ndcg@10"]) == ["4", "6"]


@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path, killed_after: int) -> None:
    scores = {1: 0.1, 2: 0.5, 3: 0.3, 4: 0.2, 5: 0.1, 6: 0.05}

    every = iter(range(1, 7))
    whole, report = trained(score=lambda: scores[next(every)])

    class KilledError(Exception):
        pass

    def interrupted() -> Any:
        looks = iter(range(1, 7))

        def look() -> float:
            epoch = next(looks)
            if epoch > killed_after:
                raise KilledError
            return scores[epoch]

        return look

    with pytest.raises(KilledError):
        trained(score=interrupted(), checkpoints=tmp_path / "last", checkpoint_s=0)
    rest = iter(range(killed_after + 1, 7))
    resumed, again = trained(score=lambda: scores[next(rest)], checkpoints=tmp_path / "last", checkpoint_s=0)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for name in ("losses", "valid_ndcg@10", "epochs"):
        assert again[name] == report[name]


def test_patience_counts_looks_in_their_order_after_a_resume(tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"epochs": 20, "patience": 3})
    # The best look is the ninth; as text "10" to "12" come before "9".
    scores = {epoch: 0.1 * epoch if epoch < 10 else 0.0 for epoch in range(1, 21)}

    class KilledError(Exception):
        pass

    def looks(first: int, last: int) -> Any:
        every = iter(range(first, last + 2))

        def look() -> float:
            if (epoch := next(every)) > last:
                raise KilledError
            return scores[epoch]

        return look

    with pytest.raises(KilledError):
        trained(params, score=looks(1, 11), checkpoints=tmp_path / "last", checkpoint_s=0)
    _, report = trained(params, score=looks(12, 20), checkpoints=tmp_path / "last", checkpoint_s=0)
    assert list(report["valid_ndcg@10"]) == [str(epoch) for epoch in range(1, 13)]
    assert report["epochs"] == 9


def test_a_checkpoint_of_another_run_is_left_alone(tmp_path: Path) -> None:
    trained(PARAMS.model_copy(update={"epochs": 2}), checkpoints=tmp_path / "last", checkpoint_s=0)
    plain, _ = trained()
    beside, _ = trained(checkpoints=tmp_path / "last", checkpoint_s=1000)
    assert all(torch.equal(plain[name], beside[name]) for name in plain)


def test_a_damaged_checkpoint_is_told_in_one_line(tmp_path: Path) -> None:
    trained(checkpoints=tmp_path / "last", checkpoint_s=0)
    (tmp_path / "last" / "tensors.safetensors").write_bytes(b"{")
    with pytest.raises(ArtifactError, match=r"tensors\.safetensors cannot be read") as caught:
        trained(checkpoints=tmp_path / "last", checkpoint_s=0)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_ends_it() -> None:
    with pytest.raises(ValueError, match="lower the learning rate"):
        trained(PARAMS.model_copy(update={"learning_rate": 1e30}))


def test_rates() -> None:
    assert [rate(step, 10, 1, "constant") for step in (0, 1, 9)] == [0.5, 1, 1]
    assert rate(5, 10, 0, "linear") == pytest.approx(0.55)
    assert rate(5, 10, 0, "cosine") == pytest.approx(0.5)


SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np, torch
from tests.ml.recommenders.test_training_loop import Line, PARAMS, STEPS, batches
from ml.recommenders.training import is_main_process, train_network
torch.set_num_threads(1)
network = Line(dropout=0.0)
slow = float(sys.argv[3])
def paced(rng):
    import time
    for batch in batches(rng):
        time.sleep(slow)
        yield batch
folder = Path(sys.argv[2]) if sys.argv[2] else None
report = train_network(network, paced, STEPS, PARAMS, 3, checkpoints=folder, checkpoint_s=0)
if is_main_process():
    Path(sys.argv[1]).write_text(json.dumps([report["losses"], network.layer.weight.tolist()]))
"""


def command(tmp_path: Path, *arguments: str, processes: int = 1) -> list[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*start, str(script), *arguments]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    for processes in (1, 2):
        asked = command(tmp_path, str(tmp_path / f"{processes}.json"), "", "0", processes=processes)
        subprocess.run(asked, check=True, env=ENVIRONMENT, capture_output=True, timeout=120)
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-4)
    np.testing.assert_allclose(one[1], two[1], rtol=1e-3)


def test_kill_dash_nine_loses_nothing(tmp_path: Path) -> None:
    plain = command(tmp_path, str(tmp_path / "plain.json"), "", "0")
    subprocess.run(plain, check=True, env=ENVIRONMENT, timeout=120)
    folder = tmp_path / "last"
    asked = command(tmp_path, str(tmp_path / "killed.json"), str(folder), "0.1")
    process = subprocess.Popen(asked, env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while not (folder / "manifest.json").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.json").exists()
    again = command(tmp_path, str(tmp_path / "killed.json"), str(folder), "0")
    subprocess.run(again, check=True, env=ENVIRONMENT, timeout=120)
    assert json.loads((tmp_path / "killed.json").read_text()) == json.loads(
        (tmp_path / "plain.json").read_text()
    )
