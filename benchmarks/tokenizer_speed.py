"""Residual, product and optimized product quantization beside faiss's, on the same vectors in the same run.

``python -m benchmarks.tokenizer_speed`` draws vectors of 24 dimensions in 384 with noise (in tight clusters, any setting
would look good), fits and encodes them by ours and by the peer, each in a process of its own, and writes
``results/tokenizer-speed.json``. RQ-VAE, which has no peer in faiss, is measured by `benchmarks.rqvae`.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.record import RESULTS, Row, write
from ml.tokenizers import build
from ml.tokenizers.items import only_vectors
from ml.tokenizers.report import reconstruction_error

WIDTH, LATENT, CODE_BITS = 384, 24, 8
# What the error is measured on: more rows move it little, and the peak of memory much.
_JUDGED = 100_000
# faiss draws at most so many points a centre by itself in most places; where it does not, it is given as many.
_SAMPLE = 256 << CODE_BITS
# Above this many vectors, once is enough: the noise is small beside the time.
_REPEATED = 100_000
_BATCH = {"batch": 16_384, "iterations": 5}

Codec = tuple[Callable[[], None], Callable[[], NDArray[Any]], Callable[[NDArray[Any]], NDArray[np.float32]]]


@dataclass(frozen=True)
class Case:
    """A tokenizer of ours and what stands beside it.

    Parameters
    ----------
    name
        What is measured, for a reader.
    kind, params
        As in `ml.tokenizers.build`.
    peers
        Name to the peer's key in `PEERS` and its arguments.
    """

    name: str
    kind: str
    params: dict[str, Any]
    peers: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What one process came to."""

    fit: float
    encode: float
    missed: float
    peak_mb: int


def main(
    size: Annotated[list[int] | None, typer.Option(help="Vectors; may be given more than once.")] = None,
    codes: Annotated[list[int] | None, typer.Option(help="Codes of product quantization.")] = None,
    repeats: Annotated[int, typer.Option(help=f"Runs of a case up to {_REPEATED:,} vectors.")] = 3,
    results: Annotated[Path, typer.Option(help="Where the record goes.")] = RESULTS,
    seed: int = 0,
) -> None:
    """Run every size and write the record."""
    rows: list[Row] = []
    for n in size or [12_000, 1_000_000]:
        measured: dict[str, Outcome | None] = {}
        with _vectors(n, WIDTH, seed) as path:
            for case in cases(n, codes or [8, 32]):
                rows += compare(case, n, path, repeats if n <= _REPEATED else 1, measured)
    write("tokenizer-speed", rows, seed, results)


def cases(n: int, codes: list[int]) -> list[Case]:
    """Return what is measured on so many vectors."""
    greedy = ("residual", {"levels": 3, "beam": 1})
    beam = ("residual", {"levels": 3, "beam": 5})
    peers = {"faiss.ResidualQuantizer, beam 1": greedy, "faiss.ResidualQuantizer, beam 5 (its default)": beam}
    found = [Case("residual k-means 3x256", "residual_kmeans", {}, peers)]
    if n > _SAMPLE:
        found.append(
            Case("residual k-means 3x256 by mini-batches of every vector", "residual_kmeans", _BATCH, peers)
        )
    for m in codes:
        plain = {"faiss.ProductQuantizer": ("product", {"levels": m})}
        turned = {"faiss.OPQMatrix and ProductQuantizer": ("rotated", {"levels": m})}
        kind = "product_quantization"
        found.append(Case(f"product quantization {m}x256", kind, {"levels": m}, plain))
        found.append(
            Case(f"optimized product quantization {m}x256", kind, {"levels": m, "rotation": True}, turned)
        )
    return found


def compare(case: Case, n: int, path: Path, repeats: int, measured: dict[str, Outcome | None]) -> list[Row]:
    """Return the rows of one case: time to fit, encoding and error, beside each peer.

    What peers came to on these vectors is kept in ``measured``: two of our cases may have the same one.
    """
    ours = _median([_apart(_run_ours, path, case.kind, case.params) for _ in range(repeats)])
    for name, (key, arguments) in case.peers.items():
        known = f"{name} {arguments}"
        if known not in measured:
            measured[known] = _median([_apart(_run_peer, path, key, arguments) for _ in range(repeats)])
    peers = {name: measured[f"{name} {arguments}"] for name, (_, arguments) in case.peers.items()}
    rows: list[Row] = []
    for name, peer in (peers or {"": None}).items():
        title = f"{case.name} on {n:,}"
        extra = {"peak_mb": ours.peak_mb, "peer_peak_mb": peer.peak_mb if peer else None, "repeats": repeats}
        rows += [
            Row(f"{title}: fit", ours.fit, peer.fit if peer else None, name, "seconds", "lower", extra),
            Row(f"{title}: encode", ours.encode, peer.encode if peer else None, name, "items/s", "higher"),
            Row(
                f"{title}: error",
                ours.missed,
                peer.missed if peer else None,
                name,
                "share of variance",
                "lower",
            ),
        ]
    for row in rows:
        sys.stdout.write(f"{row.case}: {row.ours:.4g}, {row.peer_name}: {row.peer}, ratio {row.ratio}\n")
    sys.stdout.flush()
    return rows


def draw(n: int, width: int, seed: int) -> NDArray[np.float32]:
    """Return float32 [n, width]: ``LATENT`` directions of like variance, and noise of a twentieth of all variance."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(LATENT, width)).astype(np.float32)
    vectors = np.empty((n, width), np.float32)
    for first in range(0, n, 1 << 16):
        block = vectors[first : first + (1 << 16)]
        block[:] = rng.standard_normal((len(block), LATENT), np.float32) @ axes
        block += rng.standard_normal(block.shape, np.float32) * np.float32((LATENT / 19) ** 0.5)
    return vectors


def _ours(vectors: NDArray[np.float32], kind: str, params: dict[str, Any]) -> Codec:
    tokenizer, items = build(kind, params), only_vectors(vectors, params.get("input", "fused"))
    return lambda: (tokenizer.fit(items, 0), None)[1], lambda: tokenizer.encode(items), tokenizer.decode


def _residual(vectors: NDArray[np.float32], levels: int, beam: int) -> Codec:
    import faiss

    quantizer: Any = faiss.ResidualQuantizer(vectors.shape[1], levels, CODE_BITS)
    quantizer.max_beam_size = beam
    return (
        lambda: quantizer.train(vectors[:_SAMPLE]),
        lambda: quantizer.compute_codes(vectors),
        quantizer.decode,
    )


def _product(vectors: NDArray[np.float32], levels: int) -> Codec:
    import faiss

    quantizer: Any = faiss.ProductQuantizer(vectors.shape[1], levels, CODE_BITS)
    return (
        lambda: quantizer.train(vectors[:_SAMPLE]),
        lambda: quantizer.compute_codes(vectors),
        quantizer.decode,
    )


def _rotated(vectors: NDArray[np.float32], levels: int) -> Codec:
    import faiss

    rotation: Any = faiss.OPQMatrix(vectors.shape[1], levels)
    quantizer: Any = faiss.ProductQuantizer(vectors.shape[1], levels, CODE_BITS)
    rotation.pq = quantizer

    def train() -> None:
        rotation.train(vectors[:_SAMPLE])
        quantizer.train(rotation.apply(vectors[:_SAMPLE]))

    return (
        train,
        lambda: quantizer.compute_codes(rotation.apply(vectors)),
        lambda codes: rotation.reverse_transform(quantizer.decode(codes)),
    )


PEERS: dict[str, Callable[..., Codec]] = {"residual": _residual, "product": _product, "rotated": _rotated}


def _run_ours(path: Path, kind: str, params: dict[str, Any]) -> Outcome:
    import scipy.sparse  # noqa: F401  (so that no fit waits for its import)

    vectors = np.load(path)
    return _measure(vectors, _ours(vectors, kind, params))


def _run_peer(path: Path, key: str, arguments: dict[str, Any]) -> Outcome:
    vectors = np.load(path)
    return _measure(vectors, PEERS[key](vectors, **arguments))


def _measure(vectors: NDArray[np.float32], codec: Codec) -> Outcome:
    fit, encode, decode = codec
    before = time.perf_counter()
    fit()
    fitted = time.perf_counter()
    codes = encode()
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    missed = reconstruction_error(vectors[:_JUDGED], codes[:_JUDGED], decode)
    if missed is None:
        raise SystemExit("the decoder gives vectors of another width")
    return Outcome(fitted - before, len(vectors) / (done - fitted), missed, peak)


@contextmanager
def _vectors(n: int, width: int, seed: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        np.save(path, draw(n, width, seed))
        yield path


def _apart(run: Callable[..., Outcome], *arguments: Any) -> Outcome:
    """Run in a new process, so that the peak of memory is that run's own and no library warms another."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def _median(outcomes: list[Outcome]) -> Outcome:
    return Outcome(
        median(one.fit for one in outcomes),
        median(one.encode for one in outcomes),
        median(one.missed for one in outcomes),
        max(one.peak_mb for one in outcomes),
    )


if __name__ == "__main__":
    typer.run(main)
