"""Several recommenders as one: each ranks the whole catalogue, and their lists are weighed against each other.

What a production system can serve: at most ``candidates`` items of each part are looked at, so the cost beyond the
parts does not grow with the catalogue. The weights, and how scores are made comparable, are chosen on validation
queries when the blend is fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator

from ml.evaluation.metrics import ndcg, target_ranks
from ml.evaluation.splits import Queries, Split
from ml.histories import NO_ITEM, Histories
from ml.recommenders import build, load_recommender
from ml.recommenders.base import Recommender, RecommenderParams, read_params, write_config

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

Scale = Literal["range", "deviation", "rank"]
_CUTOFF = 10
#: What a weight is multiplied with, one weight at a time, until nothing is gained or the rounds are over.
_STEPS = (0.0, 0.25, 0.5, 0.7, 0.85, 1.2, 1.4, 2.0, 4.0)
_ROUNDS = 6
_ROWS = 512


class BlendParams(RecommenderParams):
    """Parameters of `Blend`.

    Parameters
    ----------
    parts
        Each part as in a recipe: ``{kind: ..., parameter: ...}``.
    candidates
        Items that each part names for a query, or as many as are asked for, where that is more. What none of the
        parts names is not ranked.
    scale
        How the scores of one list are made comparable. ``range``: 0 for its last candidate, 1 for its best.
        ``deviation``: standard deviations above its last candidate. ``rank``: ``60 / (59 + place)`` (reciprocal rank
        fusion, Cormack et al., SIGIR 2009). None lets validation choose.
    weights
        One for each part; what a part does not name adds nothing. None lets validation choose.
    valid_users
        Validation queries, drawn by the seed, on which that is decided.
    """

    parts: tuple[dict[str, Any], ...] = Field(min_length=1)
    candidates: int = Field(default=200, ge=1)
    scale: Scale | None = None
    weights: tuple[float, ...] | None = None
    valid_users: int = Field(default=4000, ge=1)

    @field_validator("parts")
    @classmethod
    def _complete(cls, parts: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        """Fill in what a part leaves out, so that a recipe is complete; refuse what no part knows."""
        return tuple(_filled(number, part) for number, part in enumerate(parts))

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.parts):
            raise ValueError(f"{len(self.weights)} weights for {len(self.parts)} parts")
        if self.weights is not None and (min(self.weights) < 0 or max(self.weights) == 0):
            raise ValueError("weights must not be negative, and one must be above 0")
        return self


def _filled(number: int, part: dict[str, Any]) -> dict[str, Any]:
    try:
        made = build(part)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"])
        told = f"{part['kind']}: {place}: {first['msg'].removeprefix('Value error, ')}"
        raise ValueError(f"part {number}: {told}") from None
    except ValueError as error:
        raise ValueError(f"part {number}: {error}") from None
    return {"kind": made.kind, **made.params.model_dump(mode="json")}


class Lists(NamedTuple):
    """Answers of one part, or of a blend: items int32 [n, k] and scores float32 [n, k], best first."""

    items: NDArray[np.int32]
    scores: NDArray[np.float32]


class Blend:
    """Recommend by a weighted sum of several recommenders' scores."""

    kind: ClassVar[str] = "blend"
    Params: ClassVar[type[RecommenderParams]] = BlendParams
    training_free: ClassVar[bool] = False

    def __init__(self, params: BlendParams) -> None:
        self.params = params
        self.parts: list[Recommender] = [build(part) for part in params.parts]

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Fit each part by itself, then choose scale and weights on validation queries.

        Where there are none, and none were given, every part weighs the same, by ``range``.

        Returns
        -------
        The report of each part, what was chosen, and NDCG@10 of the blend and of each part on those queries.
        """
        reports = []
        for number, part in enumerate(self.parts):
            below = None if checkpoints is None else checkpoints / f"{number}-{part.kind}"
            reports.append(part.fit(split, catalogue, seed, below))
        told: dict[str, Any] = {"parts": reports}
        asked = split.valid.draw(self.params.valid_users, seed)
        if len(asked) and (self.params.scale is None or self.params.weights is None):
            told |= self._choose(asked, split.exclude_history)
        else:
            same = (1.0,) * len(self.parts)
            self._set(self.params.scale or "range", self.params.weights or same)
        told |= {"scale": self.params.scale, "weights": self.params.weights}
        refitted = [
            {**given, **report.get("refit", {})}
            for given, report in zip(self.params.parts, reports, strict=True)
        ]
        devices = {report["device"] for report in reports if "device" in report}
        told |= {"device": devices.pop()} if len(devices) == 1 else {}
        return told | {
            "refit": {"parts": refitted, "scale": self.params.scale, "weights": self.params.weights}
        }

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`."""
        if self.params.scale is None or self.params.weights is None:
            raise ValueError("a blend must be fitted, or given scale and weights, before it recommends")
        scale, weights = _SCALES[self.params.scale], np.array(self.params.weights, np.float32)
        items = np.empty((len(histories), k), dtype=np.int32)
        scores = np.empty((len(histories), k), dtype=np.float32)
        for start in range(0, len(histories), _ROWS):
            rows = slice(start, start + _ROWS)
            lists = self._ask(histories.rows(rows), k, exclude_history)
            named, of_part = unite([Lists(part.items, scale(part)) for part in lists])
            items[rows], scores[rows] = best(named, of_part @ weights, k)
        return items, scores

    def item_vectors(self) -> None:
        """Return None: the scores are no inner product."""
        return None

    def query_vectors(self, histories: Histories) -> None:
        """Return None, as there are no item vectors."""
        return None

    def save(self, folder: Path) -> None:
        """Write each part into a folder of its own; see `ml.recommenders.base.Recommender.save`."""
        write_config(folder, self)
        for number, part in enumerate(self.parts):
            below = folder / f"part-{number}"
            below.mkdir()
            part.save(below)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """See `ml.recommenders.base.Recommender.load`."""
        made = cls(read_params(folder, BlendParams))
        made.parts = [
            load_recommender(folder / f"part-{number}", catalogue) for number in range(len(made.parts))
        ]
        return made

    def _ask(self, histories: Histories, k: int, exclude_history: bool) -> list[Lists]:
        many = max(k, self.params.candidates)
        return [Lists(*part.recommend(histories, many, exclude_history)) for part in self.parts]

    def _set(self, scale: Scale, weights: tuple[float, ...]) -> None:
        self.params = self.params.model_copy(update={"scale": scale, "weights": weights})

    def _choose(self, queries: Queries, exclude_history: bool) -> dict[str, Any]:
        """Search scale and weights for the best NDCG@10; of equals, the first that was tried."""
        lists = self._ask(queries.histories, _CUTOFF, exclude_history)
        scales: tuple[Scale, ...] = (self.params.scale,) if self.params.scale else get_args(Scale)
        found: list[tuple[float, Scale, tuple[float, ...]]] = []
        for scale in scales:
            judge = _judge([Lists(part.items, _SCALES[scale](part)) for part in lists], queries.targets)
            weights = self.params.weights or _search(judge, len(lists))
            found.append((judge(weights), scale, weights))
        chosen, scale, weights = max(found, key=lambda each: each[0])
        self._set(scale, weights)
        alone = [float(ndcg(target_ranks(part.items, queries.targets), _CUTOFF).mean()) for part in lists]
        return {
            "valid_users": len(queries),
            f"valid_ndcg@{_CUTOFF}": chosen,
            f"valid_ndcg@{_CUTOFF}_of_parts": alone,
            f"valid_ndcg@{_CUTOFF}_by_scale": {name: value for value, name, _ in found},
        }


def unite(lists: list[Lists]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Bring together what several lists say of each item.

    Parameters
    ----------
    lists
        [n, m] each, scores already comparable; -1 where there is no item.

    Returns
    -------
    Items int32 [n, lists x m], rising, -1 where there is none, each once; and their scores in each list, float32
    [n, lists x m, lists], 0 in a list that lacks the item.
    """
    items = np.concatenate([part.items for part in lists], axis=1)
    n, width, parts = len(items), lists[0].items.shape[1], len(lists)
    scores = np.zeros((n, width * parts, parts), dtype=np.float32)
    for number, part in enumerate(lists):
        scores[:, width * number : width * (number + 1), number] = np.where(
            part.items == NO_ITEM, 0, part.scores
        )
    order = np.argsort(items, axis=1, kind="stable")
    items = np.take_along_axis(items, order, axis=1)
    scores = np.take_along_axis(scores, order[:, :, None], axis=1)
    # An item stands at most once in each list, so in at most as many neighbouring places as there are lists. Each
    # place collects from those after it; the first of an item's places then holds all, and the others are dropped.
    total = scores.copy()
    for step in range(1, parts):
        same = items[:, step:] == items[:, :-step]
        total[:, :-step] += np.where(same[:, :, None], scores[:, step:], 0)
    repeated = np.zeros(items.shape, dtype=np.bool_)
    repeated[:, 1:] = items[:, 1:] == items[:, :-1]
    return np.where(repeated, NO_ITEM, items).astype(np.int32), total


def best(
    items: NDArray[np.int32], scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the ``k`` best of rising items, best first, equal scores by lower index; -1 and -inf where fewer."""
    scores = np.where(items == NO_ITEM, -np.inf, scores).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found, values = np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)
    short = ((0, 0), (0, k - found.shape[1]))
    return (
        np.pad(found, short, constant_values=NO_ITEM),
        np.pad(values, short, constant_values=np.float32(-np.inf)),
    )


def _by_range(part: Lists) -> NDArray[np.float32]:
    given = part.items != NO_ITEM
    high = np.where(given, part.scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    low = np.where(given, part.scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    spread = np.where(high > low, high - low, 1)
    return np.where(given, (np.where(given, part.scores, 0) - low) / spread, 0).astype(np.float32)


def _by_deviation(part: Lists) -> NDArray[np.float32]:
    ranged, given = _by_range(part), part.items != NO_ITEM
    count = np.maximum(given.sum(axis=1, keepdims=True), 1)
    mean = ranged.sum(axis=1, keepdims=True) / count
    deviation = np.sqrt((np.where(given, ranged - mean, 0) ** 2).sum(axis=1, keepdims=True) / count)
    return np.asarray(ranged / np.where(deviation > 0, deviation, 1), dtype=np.float32)


def _by_rank(part: Lists) -> NDArray[np.float32]:
    places = np.arange(1, part.items.shape[1] + 1)
    return np.where(part.items != NO_ITEM, 60 / (59 + places), 0).astype(np.float32)


_SCALES: dict[Scale, Callable[[Lists], NDArray[np.float32]]] = {
    "range": _by_range,
    "deviation": _by_deviation,
    "rank": _by_rank,
}


def _judge(lists: list[Lists], targets: NDArray[np.int32]) -> Callable[[tuple[float, ...]], float]:
    """Return a function from weights to mean NDCG@10; the lists are united once, for all weights."""
    items, scores = unite(lists)
    named = items == targets[:, None]
    found = named.any(axis=1)
    place = named.argmax(axis=1)[found, None]
    items, scores, lost = items[found], scores[found], int((~found).sum())

    def judge(weights: tuple[float, ...]) -> float:
        total = np.where(items == NO_ITEM, -np.inf, scores @ np.array(weights, np.float32))
        own = np.take_along_axis(total, place, axis=1)
        before = (total > own) | ((total == own) & (np.arange(total.shape[1]) < place))
        stand = np.concatenate([before.sum(axis=1) + 1, np.zeros(lost)]).astype(np.int32)
        return float(ndcg(stand, _CUTOFF).mean())

    return judge


def _search(judge: Callable[[tuple[float, ...]], float], n: int) -> tuple[float, ...]:
    """Climb from equal weights, one weight at a time; the largest of those returned is 1."""
    weights, value = (1.0,) * n, judge((1.0,) * n)
    for _ in range(_ROUNDS):
        before = value
        for part in range(n):
            tried = [(*weights[:part], weights[part] * step, *weights[part + 1 :]) for step in _STEPS]
            for candidate in tried:
                if max(candidate) > 0 and (found := judge(candidate)) > value:
                    weights, value = candidate, found
        if value == before:
            break
    return tuple(round(weight / max(weights), 4) for weight in weights)
