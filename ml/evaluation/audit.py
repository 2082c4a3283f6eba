"""What a dataset can show at all: an audit that trains nothing.

A model of long histories cannot be told from a table of transitions on data whose next item follows from the last one;
text cannot help where consecutive items are no more alike than others. After the audit of sequential benchmarks by
training-free graph heuristics: candidates a few transitions away, ranked by how alike items are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.evaluate import Evaluation, evaluate
from ml.evaluation.metrics import ndcg
from ml.evaluation.significance import paired_bootstrap
from ml.evaluation.splits import Queries, Split, split
from ml.histories import Histories, ranges
from ml.recommenders.edges import text_vectors
from ml.recommenders.heuristics.popularity import Popularity, PopularityParams
from ml.recommenders.heuristics.text_similarity import whitened
from ml.recommenders.heuristics.transitions import VOTING, Transitions, TransitionsParams, cosines
from ml.snapshot import Snapshot

METRIC = "ndcg@10"
DEPTHS = {"1": 1, "2": 2, "5": 5, "all": 1_000_000}
#: Changes tried one after the other; each stays if it is better on validation than what stood before. What has to be
#: counted anew comes first.
TRIED: tuple[dict[str, float], ...] = (
    {"recency_decay": 1.0, "skip_decay": 1.0},
    {"backward": 1.0},
    {"same_day": 2.0, "recency_decay": 0.8, "day_decay": 0.5},
    {"affinity": 2.0, "whiten": 0.5},
    {"recency_decay": 0.8},
    {"similarity": 0.3},
    {"similarity": 1.0},
    {"two_hop": 0.2},
    {"popularity": 0.05},
)
_DAY_US = 86_400_000_000
_PAIRS = 200_000
#: Share of the whole history's accuracy that the last two items must reach for the data to be called local.
_LOCAL = 0.9
#: Chance that a consecutive pair is more alike by text than a random one, from which the data is called smooth.
_SMOOTH = 0.6


@dataclass(frozen=True)
class Audit:
    """What was found; see docs/audit.md. Made under leave-one-out.

    Parameters
    ----------
    data_hash
        Version of the snapshot.
    users, items, events
        Its size.
    queries
        Validation queries that were asked, and test queries.
    branching
        ``effective_successors``: 2 to the mean entropy of an item's next items in training, by how often the item
        occurs; ``shuffled``: the same after next items were dealt out anew, so that only popularity is left;
        ``ratio``: of the two. Far below 1, the item says what comes next.
    smoothness
        Cosine by text of consecutive items (``consecutive``) and of items whose next ones were dealt out anew
        (``shuffled``); ``auc``: how often a consecutive pair is more alike than a shuffled one. None without text.
    reach
        Share of test targets among the items that followed the last item in training (``one_hop``) or followed
        those (``two_hops``, both hops counted), and the share of the catalogue that these are.
    same_day
        Share of consecutive events on the same day (UTC), of ``training`` pairs and of test ``targets``; their order
        may be no more than the file's. None where all events are of one day.
    heuristic
        The best training-free heuristic: ``params`` that differ from its defaults, chosen on validation; its
        validation and test metrics, and those of ``popularity`` beside it.
    depth
        Validation NDCG@10 of that heuristic when it reads the last 1, 2, 5 or all items of a history.
    labels
        Which hold: ``local``, ``smooth``, ``long``.
    verdict
        The same in words.
    """

    data_hash: str
    users: int
    items: int
    events: int
    queries: dict[str, int]
    branching: dict[str, float]
    smoothness: dict[str, float] | None
    reach: dict[str, float]
    same_day: dict[str, float] | None
    heuristic: dict[str, Any]
    depth: dict[str, float]
    labels: list[str]
    verdict: str

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each measure: its name, its value, and what to read it against."""
        heuristic, popular = self.heuristic, self.heuristic["popularity"]
        rows = [
            (
                "effective next items",
                self.branching["effective_successors"],
                "shuffled",
                self.branching["shuffled"],
            ),
            ("targets one hop away", self.reach["one_hop"], "catalogue", self.reach["one_hop_of_catalogue"]),
            (
                "targets two hops away",
                self.reach["two_hops"],
                "catalogue",
                self.reach["two_hops_of_catalogue"],
            ),
        ]
        if self.smoothness:
            consecutive, shuffled = self.smoothness["consecutive"], self.smoothness["shuffled"]
            rows += [
                ("cosine of consecutive items", consecutive, "shuffled", shuffled),
                ("consecutive more alike", self.smoothness["auc"], "chance", 0.5),
            ]
        if self.same_day:
            rows.append(
                ("targets of the same day", self.same_day["targets"], "training", self.same_day["training"])
            )
        rows += [
            (f"heuristic {METRIC} {part}", heuristic[part][METRIC], "popularity", popular[part][METRIC])
            for part in ("validation", "test")
        ]
        whole = self.depth["all"]
        rows += [(f"reading the last {n}", self.depth[n], "all", whole) for n in self.depth if n != "all"]
        names = ("measure", "value", "against", "that is")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Audit:
        """Make an audit from JSON.

        Raises
        ------
        TypeError
            If a field is missing or unknown.
        """
        return cls(**told)


def audit(snapshot: Snapshot, valid_users: int = 2000, test_users: int | None = None, seed: int = 0) -> Audit:
    """Audit a snapshot.

    Parameters
    ----------
    snapshot
        Histories and catalogue.
    valid_users
        Validation queries, drawn by the seed, on which the heuristic is tuned.
    test_users
        Test queries, drawn likewise; None takes all.
    seed
        Of what is drawn and of what is shuffled.
    """
    parts = split(snapshot.histories, "leave_one_out")
    asked, test = parts.valid.draw(valid_users, seed), parts.test.draw(test_users, seed)
    early, late = _consecutive(parts.train)
    dealt = np.random.default_rng(seed).permutation(late)
    branching = _branching(early, late, dealt)
    smoothness = _smoothness(text_vectors(snapshot.catalogue), early, late, dealt)
    n_items = len(snapshot.catalogue)
    best, tuned = _tune(parts, snapshot, asked, smoothness is not None)
    depth = {
        name: evaluate(best.voting(snapshot.catalogue, recent=recent), asked, parts.train, n_items)
        for name, recent in DEPTHS.items()
    }
    popular = Popularity(PopularityParams())
    popular.fit(parts, snapshot.catalogue, seed)
    popular_valid = evaluate(popular, asked, parts.train, n_items)
    heuristic = {
        "params": best.params.model_dump(exclude={"recent"}, exclude_defaults=True),
        "validation": _shown(tuned),
        "test": _shown(evaluate(best, test, parts.train, n_items)),
        "popularity": {
            "validation": _shown(popular_valid),
            "test": _shown(evaluate(popular, test, parts.train, n_items)),
        },
    }
    told = {name: seen.metrics[METRIC] for name, seen in depth.items()}
    labels, verdict = judge(depth, popular_valid, smoothness)
    return Audit(
        data_hash=snapshot.manifest.version,
        users=len(snapshot.histories),
        items=n_items,
        events=len(snapshot.histories.items),
        queries={"validation": len(asked), "test": len(test)},
        branching=branching,
        smoothness=smoothness,
        reach=_reach(test, early, late, n_items),
        same_day=_same_day(parts.train, test, snapshot.histories),
        heuristic=heuristic,
        depth=told,
        labels=labels,
        verdict=verdict,
    )


def judge(
    depth: Mapping[str, Evaluation], popular: Evaluation, smoothness: Mapping[str, float] | None
) -> tuple[list[str], str]:
    """Say in words what depth and smoothness mean.

    ``local`` and ``long`` exclude each other, and neither holds where the heuristic does not beat popularity beyond
    luck. ``long`` needs a gain beyond luck from items before the last two, of more than a tenth.
    """
    whole, two = depth["all"], depth["2"]
    signal = _gain(whole, popular).low > 0
    gain = _gain(whole, two)
    share = two.metrics[METRIC] / max(whole.metrics[METRIC], 1e-12)
    labels, sentences = [], []
    if not len(whole.ranks):
        sentences.append("No user has three events: nothing could be asked.")
    elif not signal:
        sentences.append("Histories say no more than popularity does to a heuristic of transitions and text.")
    elif share >= _LOCAL:
        labels.append("local")
        sentences.append(
            f"Local: the last two items say {share:.0%} of what the whole history says; it shows little of what a "
            "model makes of long histories."
        )
    elif gain.low > 0:
        labels.append("long")
        sentences.append(
            f"Long: the last two items say only {share:.0%} of what the whole history says; what lies further back "
            "counts."
        )
    else:
        sentences.append("Too few queries to tell whether more than the last two items count.")
    if smoothness is None:
        sentences.append("No text to compare items by.")
    elif smoothness["auc"] >= _SMOOTH:
        labels.append("smooth")
        sentences.append(
            f"Smooth: consecutive items are more alike by text than shuffled ones {smoothness['auc']:.0%} of the time."
        )
    else:
        sentences.append(
            f"Not smooth: only {smoothness['auc']:.0%} of consecutive pairs are more alike by text."
        )
    return labels, " ".join(sentences)


def _gain(a: Evaluation, b: Evaluation) -> Any:
    return paired_bootstrap(ndcg(a.ranks, 10), ndcg(b.ranks, 10))


def _shown(seen: Evaluation) -> dict[str, float]:
    return {name: seen.metrics[name] for name in (METRIC, "recall@10")}


def _tune(parts: Split, snapshot: Snapshot, asked: Queries, has_text: bool) -> tuple[Transitions, Evaluation]:
    """Return the best heuristic that the changes of `TRIED` lead to, and its answers to the given queries."""
    catalogue = snapshot.catalogue

    def changed(made: Transitions, change: Mapping[str, float]) -> Transitions:
        if set(change) <= VOTING:
            return made.voting(catalogue, **change)
        params = TransitionsParams.model_validate({**made.params.model_dump(), **change})
        fresh = Transitions(params)
        fresh.fit(parts, catalogue, 0)
        return fresh

    best = changed(Transitions(TransitionsParams()), {"recent": DEPTHS["all"], "whiten": 0.5})
    seen = evaluate(best, asked, parts.train, len(catalogue))
    for change in TRIED:
        if not has_text and {"affinity", "similarity"} & set(change):
            continue
        made = changed(best, change)
        found = evaluate(made, asked, parts.train, len(catalogue))
        if found.metrics[METRIC] > seen.metrics[METRIC]:
            best, seen = made, found
    return best, seen


def _consecutive(train: Histories) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each event's item and the next one's, where they differ."""
    users, items = train.users, train.items.astype(np.int64)
    kept = (users[1:] == users[:-1]) & (items[1:] != items[:-1])
    return items[:-1][kept], items[1:][kept]


def _branching(
    early: NDArray[np.int64], late: NDArray[np.int64], dealt: NDArray[np.int64]
) -> dict[str, float]:
    found, shuffled = _effective_successors(early, late), _effective_successors(early, dealt)
    return {"effective_successors": found, "shuffled": shuffled, "ratio": found / shuffled}


def _effective_successors(early: NDArray[np.int64], late: NDArray[np.int64]) -> float:
    """Return 2 to the conditional entropy of the next item, in bits; 1 where nothing follows anything."""
    if not len(early):
        return 1.0
    width = int(max(early.max(), late.max())) + 1
    pairs, counts = np.unique(early * width + late, return_counts=True)
    of_source = np.bincount(pairs // width, counts)[pairs // width]
    return float(np.exp2(-(counts * np.log2(counts / of_source)).sum() / len(early)))


def _smoothness(
    text: NDArray[np.float32], early: NDArray[np.int64], late: NDArray[np.int64], dealt: NDArray[np.int64]
) -> dict[str, float] | None:
    if not text.any() or not len(early):
        return None
    vectors = whitened(text, 0.0)
    near, far = (
        cosines(vectors, early[:_PAIRS], late[:_PAIRS]),
        cosines(vectors, early[:_PAIRS], dealt[:_PAIRS]),
    )
    # Mann-Whitney: the mean share of shuffled pairs that a consecutive one exceeds, ties half.
    ordered = np.sort(far)
    below = np.searchsorted(ordered, near, "left") + np.searchsorted(ordered, near, "right")
    auc = float(below.mean() / (2 * len(far)))
    return {"consecutive": float(near.mean()), "shuffled": float(far.mean()), "auc": auc}


def _reach(
    asked: Queries, early: NDArray[np.int64], late: NDArray[np.int64], n_items: int
) -> dict[str, float]:
    """Walk one and two transitions from the last item of each query."""
    pairs = np.unique(early * n_items + late)
    offsets = np.searchsorted(pairs // n_items, np.arange(n_items + 1))
    following = pairs % n_items
    # Queries that end in the same item reach the same items, so each item is left once.
    last, query = np.unique(asked.histories.last(1)[:, 0].astype(np.int64), return_inverse=True)
    by_item = np.split(np.argsort(query, kind="stable"), np.cumsum(np.bincount(query)))[: len(last)]
    hits, sizes = np.zeros((2, len(asked))), np.zeros((2, len(asked)))
    for item, rows in zip(last, by_item, strict=True):
        one = following[offsets[item] : offsets[item + 1]]
        further = following[ranges(offsets[one], offsets[one + 1] - offsets[one])]
        for hop, found in enumerate((one, np.union1d(one, further))):
            hits[hop, rows] = np.isin(asked.targets[rows], found)
            sizes[hop, rows] = len(found) / n_items
    return {
        "one_hop": _mean(hits[0]),
        "two_hops": _mean(hits[1]),
        "one_hop_of_catalogue": _mean(sizes[0]),
        "two_hops_of_catalogue": _mean(sizes[1]),
    }


def _same_day(train: Histories, asked: Queries, histories: Histories) -> dict[str, float] | None:
    days, users = train.times // _DAY_US, train.users
    if not len(days) or days.min() == days.max():
        return None
    same = (days[1:] == days[:-1])[users[1:] == users[:-1]]
    last = histories.offsets[1:][asked.users] - 1
    target = histories.times[last] // _DAY_US == histories.times[last - 1] // _DAY_US
    return {"training": _mean(same), "targets": _mean(target)}


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else 0.0
