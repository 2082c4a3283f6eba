"""Pieces of semantic IDs as features of a ranker: each piece is a row of one embedding table.

Singh et al., "Better Generalization with Semantic IDs: A Case Study in Ranking for Recommendations" (RecSys 2024):
groups of codes (N-grams), and pieces that a SentencePiece model learns from the items that users see, all hashed into a
table. Zheng et al., "Enhancing Embedding Representation Stability in Recommendation Systems with Semantic ID" (2025):
all prefixes.

Of SentencePiece's two models the one here is byte-pair encoding: the unigram trainer at hand gives other pieces every
time it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ml.artifacts import ArtifactError, read_json, write_json, write_text
from ml.tokenizers.base import TokenizerParams

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Model

CONFIG = "pieces.json"
MODEL = "pieces.bpe.json"
# Unicode's planes 15 and 16 are private: nobody normalises or splits their characters.
_PRIVATE = 0xF0000
_MOST_SYMBOLS = 1 << 17
_MOST_LINES = 1_000_000
_BATCH = 1 << 16


class Pieces(Protocol):
    """Codes in, rows of a table out.

    Attributes
    ----------
    kind
        Its name.
    params
        As given; ``params.table`` is the number of rows.
    """

    kind: ClassVar[str]
    params: Any

    def fit(
        self,
        codes: NDArray[np.int32],
        weights: NDArray[Any],
        seed: int,
        code_sizes: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Learn from items; return a JSON-able report.

        Parameters
        ----------
        codes
            int32 [n, levels].
        weights
            Of each item, its popularity, [n], not negative.
        seed
            Of the hash: another seed, other collisions.
        code_sizes
            Exclusive upper bound of each level's codes; one more than the largest seen if not given.

        Raises
        ------
        ArtifactError
            If shapes do not fit, or codes or weights are out of bounds.
        """
        ...

    def pieces(self, codes: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pieces of items.

        Returns
        -------
        offsets
            int64 [n + 1]: the pieces of item ``i`` are ``ids[offsets[i]:offsets[i + 1]]``.
        ids
            int64, from 0 to ``table - 1``, in the order of the codes.

        Raises
        ------
        ArtifactError
            If nothing was fitted, or a code is beyond its size.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        ...


class PiecesParams(TokenizerParams):
    """Parameters of any pieces.

    Parameters
    ----------
    table
        Rows of the embedding table; pieces that fall on the same row share it.
    """

    table: Annotated[int, Field(ge=1, le=1 << 31)] = 1 << 16


class NGramParams(PiecesParams):
    """Parameters of `NGramPieces`.

    Parameters
    ----------
    style
        ``prefix``: the first code, the first two, and so on; ``groups``: codes side by side, each in one group.
    n
        Longest prefix, all codes if not given; or codes of a group, 1 if not given (1: unigrams, 2: bigrams).
    """

    style: Literal["prefix", "groups"] = "prefix"
    n: Annotated[int, Field(ge=1)] | None = None


class LearntParams(PiecesParams):
    """Parameters of `LearntPieces`.

    Parameters
    ----------
    vocabulary
        Most different pieces, single codes counted, of which there are always all.
    """

    vocabulary: Annotated[int, Field(ge=1)] = 1 << 14


class _Fitted:
    """What both kinds share: bounds of codes, the hash, saving."""

    kind: ClassVar[str]
    Params: ClassVar[type[PiecesParams]]

    def __init__(self, params: Any) -> None:
        self.params = params
        self._seed = 0
        self._sizes: tuple[int, ...] | None = None

    def fit(
        self,
        codes: NDArray[np.int32],
        weights: NDArray[Any],
        seed: int,
        code_sizes: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Learn from items; see `Pieces.fit`.

        Returns
        -------
        dict[str, Any]
            ``pieces`` that differ, ``rows`` of the table that they fall on, and ``per_item`` on average, weighted.
        """
        codes, weights = np.asarray(codes), np.asarray(weights, np.float64)
        if codes.ndim != 2 or 0 in codes.shape or weights.shape != codes.shape[:1]:
            raise ArtifactError(f"{self.kind}: codes {codes.shape} and weights {weights.shape} do not fit")
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ArtifactError(f"{self.kind}: weights must be finite and not negative")
        sizes = tuple(int(size) for size in (codes.max(axis=0) + 1 if code_sizes is None else code_sizes))
        self._check(codes, sizes)
        self._learn(codes, weights, sizes)
        self._seed, self._sizes = seed, sizes
        keys, counts = self._keys(codes)
        spread = weights if weights.sum() > 0 else np.ones_like(weights)
        return {
            "pieces": len(np.unique(keys)),
            "rows": len(np.unique(keys % np.uint64(self.params.table))),
            "per_item": float(np.average(counts, weights=spread)),
        }

    def pieces(self, codes: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pieces of items; see `Pieces.pieces`."""
        codes = np.asarray(codes)
        self._check(codes, self._bounds())
        keys, counts = self._keys(codes)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return offsets, (keys % np.uint64(self.params.table)).astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        told = {"kind": self.kind, "params": self.params.model_dump(mode="json")}
        write_json(folder / CONFIG, {**told, "code_sizes": list(self._bounds()), "seed": self._seed})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        told = read_json(folder / CONFIG)
        found = cls(cls.Params.model_validate(told["params"]))
        found._sizes, found._seed = tuple(told["code_sizes"]), told["seed"]
        return found

    def _learn(self, codes: NDArray[Any], weights: NDArray[np.float64], sizes: tuple[int, ...]) -> None:
        """Learn from items whose codes are within bounds."""

    def _keys(self, codes: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the hashes of all pieces, item by item, and how many each item has [n]."""
        raise NotImplementedError

    def _bounds(self) -> tuple[int, ...]:
        if self._sizes is None:
            raise ArtifactError(f"{self.kind}: not fitted yet")
        return self._sizes

    def _check(self, codes: NDArray[Any], sizes: tuple[int, ...]) -> None:
        if codes.ndim != 2 or codes.shape[1] != len(sizes):
            raise ArtifactError(
                f"{self.kind}: codes of shape {codes.shape} where {len(sizes)} levels are known"
            )
        if len(codes) and (codes.min() < 0 or (codes.max(axis=0) >= sizes).any()):
            raise ArtifactError(f"{self.kind}: a code is beyond the sizes of its levels, {sizes}")


class NGramPieces(_Fitted):
    """Prefixes or groups of codes; nothing is learnt of the items, so their weights make no difference."""

    kind: ClassVar[str] = "ngram"
    Params: ClassVar[type[PiecesParams]] = NGramParams

    def _keys(self, codes: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        levels = codes.shape[1]
        if self.params.style == "prefix":
            spans = [(0, end) for end in range(1, min(self.params.n or levels, levels) + 1)]
        else:
            n = self.params.n or 1
            spans = [(start, min(start + n, levels)) for start in range(0, levels, n)]
        keys = [piece_hash(codes[:, start:end], start, self._seed) for start, end in spans]
        return np.stack(keys, axis=1).ravel(), np.full(len(codes), len(spans), np.int64)


class LearntPieces(_Fitted):
    """Pieces that byte-pair encoding finds often in the items that users see.

    Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (ACL 2016).
    """

    kind: ClassVar[str] = "learnt"
    Params: ClassVar[type[PiecesParams]] = LearntParams

    def __init__(self, params: LearntParams) -> None:
        super().__init__(params)
        self._model: Model | None = None

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        super().save(folder)
        assert self._model is not None
        write_text(folder / MODEL, self._model.to_str())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        from tokenizers import Tokenizer

        found = super().load(folder)
        found._model = Tokenizer.from_file(str(folder / MODEL))
        return found

    def vocabulary(self) -> list[tuple[int, tuple[int, ...]]]:
        """Return every piece as its first level and its codes, in the model's order."""
        assert self._model is not None
        names = self._model.get_vocab()
        return [self._read(name) for name in sorted(names, key=names.__getitem__)]

    def _learn(self, codes: NDArray[Any], weights: NDArray[np.float64], sizes: tuple[int, ...]) -> None:
        from tokenizers import Tokenizer, models, trainers

        if sum(sizes) > _MOST_SYMBOLS:
            raise ArtifactError(
                f"{self.kind}: {sum(sizes)} codes in all levels; no more than {_MOST_SYMBOLS} can be told apart"
            )
        alphabet = [chr(_PRIVATE + symbol) for symbol in range(sum(sizes))]
        trainer = trainers.BpeTrainer(
            vocab_size=max(self.params.vocabulary, len(alphabet)),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        model = Tokenizer(models.BPE())
        model.train_from_iterator(_lines(_texts(codes, sizes), weights), trainer)
        self._model = model

    def _keys(self, codes: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        model, sizes = self._model, self._bounds()
        assert model is not None
        known = np.array(
            [piece_hash(np.array([piece]), start, self._seed)[0] for start, piece in self.vocabulary()],
            np.uint64,
        )
        distinct, place = np.unique(codes, axis=0, return_inverse=True)
        found: list[list[int]] = []
        for start in range(0, len(distinct), _BATCH):
            texts = _texts(distinct[start : start + _BATCH], sizes)
            found += [encoding.ids for encoding in model.encode_batch_fast(texts)]
        lengths = np.array([len(ids) for ids in found], np.int64)
        flat = known[np.fromiter((piece for ids in found for piece in ids), np.int64, int(lengths.sum()))]
        starts = np.cumsum(lengths) - lengths
        counts = lengths[place.ravel()]
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        return flat[np.repeat(starts[place.ravel()], counts) + within], counts

    def _read(self, name: str) -> tuple[int, tuple[int, ...]]:
        symbols = np.array([ord(character) - _PRIVATE for character in name])
        first = np.cumsum(self._bounds()) - self._bounds()
        levels = np.searchsorted(first, symbols, side="right") - 1
        return int(levels[0]), tuple(int(code) for code in symbols - first[levels])


def load_pieces(folder: Path) -> NGramPieces | LearntPieces:
    """Read pieces of either kind.

    Raises
    ------
    ArtifactError
        If the folder holds none.
    """
    kind = read_json(folder / CONFIG)["kind"]
    if kind == NGramPieces.kind:
        return NGramPieces.load(folder)
    if kind == LearntPieces.kind:
        return LearntPieces.load(folder)
    raise ArtifactError(f"{folder}: unknown kind of pieces {kind!r}")


def piece_hash(codes: NDArray[Any], start: int, seed: int) -> NDArray[np.uint64]:
    """Return hashes of pieces, the same on every machine.

    The finaliser of SplitMix64 over seed, first level, and one code after the other (Steele et al., "Fast Splittable
    Pseudorandom Number Generators", OOPSLA 2014).

    Parameters
    ----------
    codes
        [n, length], of one length.
    start
        Level of the first code: the same codes elsewhere are another piece.
    seed
        Not negative.

    Returns
    -------
    NDArray[np.uint64]
        [n].
    """
    key = _mix(np.full(len(codes), seed, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start + 1))
    for column in codes.T:
        key = _mix(key + column.astype(np.uint64) + np.uint64(1))
    return key


def _mix(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    key = key + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


def _texts(codes: NDArray[Any], sizes: tuple[int, ...]) -> list[str]:
    """Return one string an item, a private character for each code of each level."""
    symbols = (codes + (np.cumsum(sizes) - sizes) + _PRIVATE).astype("<u4")
    return np.ascontiguousarray(symbols).view(f"<U{len(sizes)}").ravel().tolist()


def _lines(texts: list[str], weights: NDArray[np.float64]) -> Iterator[str]:
    """Give every text as often as its weight says, a million times in all at most or once each; weight 0 never."""
    smallest = weights[weights > 0].min(initial=np.inf)
    scale = min(1 / smallest, _MOST_LINES / max(weights.sum(), smallest)) if np.isfinite(smallest) else 0.0
    times = np.where(weights > 0, np.maximum(np.rint(weights * scale), 1), 0).astype(np.int64)
    for text, repeat in zip(texts, times.tolist(), strict=True):
        for _ in range(repeat):
            yield text
