"""From the champion to what is served: index, trie, nightly lists. No Dagster."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml.artifacts import (
    MANIFEST,
    ArtifactError,
    Manifest,
    check_made_from,
    current,
    hash_file,
    hash_folder,
    hash_json,
    is_complete,
    publish,
    read_manifest,
    set_current,
    write_json,
    write_manifest,
)
from ml.histories import Histories, read_histories
from ml.index import (
    IndexSpec,
    Trial,
    build_index,
    index_version,
    load_index,
    make_live,
    publish_index,
    recall_against_exact,
    tune_index,
    verify_index,
)
from ml.recommenders.base import Recommender
from ml.snapshot import Catalogue, load_snapshot
from ml.vectors.fused import fuse, load_vectors
from ml.vectors.text import encoder_identity
from orchestration import publications
from orchestration.models import BASELINE, read_decision
from orchestration.posted import landing_form
from orchestration.settings import Settings
from serving.withdrawn import WithdrawnItems

_QUERIES = 500
_BATCH = 2000


@dataclass(frozen=True)
class Champion:
    """The live model with everything it is bound to."""

    recipe: str
    model: Path
    snapshot: Path
    recommender: Recommender
    catalogue: Catalogue
    user_ids: list[str]
    histories: Histories


@dataclass(frozen=True)
class BuiltIndex:
    """An index that was built, and how it compares with exact search."""

    folder: Path
    spec: IndexSpec
    trials: list[Trial]
    items: int
    recall: float
    passed: bool
    reason: str


@dataclass(frozen=True)
class Published:
    """A night's recommendations."""

    folder: Path
    champion: str
    users: int
    rows: int


def load_champion(settings: Settings) -> Champion:
    """Load the champion, with the histories as the marts have them now.

    Raises
    ------
    ArtifactError
        If there is no champion, a part of it is missing, or the model was not trained on its snapshot.
    """
    from ml.recommenders import load_recommender

    decision = read_decision(settings)
    model, snapshot_folder = settings.home / decision["model"], settings.home / decision["snapshot"]
    check_made_from(model, {"snapshot": snapshot_folder.name})
    catalogue = load_snapshot(snapshot_folder).catalogue
    # Items that landed after the champion's snapshot are unknown to it and wait for the next retrain.
    user_ids, histories, _ = read_histories(
        settings.marts / "user_histories.parquet", catalogue.item_ids, skip_unknown=True
    )
    return Champion(
        decision["recipe"],
        model,
        snapshot_folder,
        load_recommender(model, catalogue),
        catalogue,
        user_ids,
        histories,
    )


def build_item_index(settings: Settings) -> BuiltIndex:
    """Tune, publish and verify the index over the champion's item vectors; it goes live only if it passes.

    The setting is searched for once for a champion, and stays while it reaches its recall: a choice by stopwatch would
    differ from night to night.
    """
    champion = load_champion(settings)
    vectors, queries = _vectors_and_queries(settings, champion)
    made_from = {"model": hash_folder(champion.model), "snapshot": champion.snapshot.name}
    k, target = settings.index_k, settings.index_recall
    goal = {"k": k, "target": target}
    settled = _settled(settings, made_from, goal)
    if settled is not None:
        spec, trials = settled
        index = _load_or_build(settings, spec, vectors, made_from)
        if recall_against_exact(index, vectors, queries, k) < target:
            settled = None
    if settled is None:
        index, spec, trials = tune_index(vectors, queries, k, target)
    metrics = goal | {"trials": [trial.as_dict() for trial in trials]}
    folder = publish_index(settings.index, index, spec, vectors, made_from, metrics)
    # What was published, read back, against what the champion says now.
    passed, recall, reason = verify_index(load_index(folder)[0], vectors, queries, k, target)
    write_json(settings.evaluation / "index.json", {"index": folder.name, "recall": recall, **goal})
    if passed:
        make_live(folder)
    return BuiltIndex(folder, spec, trials, len(vectors), recall, passed, reason)


def _settled(
    settings: Settings, made_from: dict[str, str], goal: dict[str, Any]
) -> tuple[IndexSpec, list[Trial]] | None:
    """Return the setting of an index that was tuned for the same champion, and the trials that chose it."""
    manifests = []
    for folder in settings.index.glob("[!.]*"):
        # A damaged one says nothing; where it is the one that is wanted, it is made anew.
        with suppress(ArtifactError):
            manifests.append(read_manifest(folder))
    for made in sorted(manifests, key=lambda manifest: manifest.created_at, reverse=True):
        same = made_from.items() <= made.inputs.items() and goal.items() <= made.metrics.items()
        if same and "trials" in made.metrics:
            trials = [Trial.from_dict(told) for told in made.metrics["trials"]]
            return IndexSpec.model_validate(made.recipe), trials
    return None


def _load_or_build(
    settings: Settings, spec: IndexSpec, vectors: NDArray[np.float32], made_from: dict[str, str]
) -> Any:
    try:
        return load_index(settings.index / index_version(spec, vectors, made_from))[0]
    except ArtifactError:
        return build_index(vectors, spec)


def build_trie(settings: Settings) -> tuple[Path, int]:
    """Publish the trie of the champion's valid semantic IDs; return its folder and its number of nodes.

    One that is there already is written again where it is not what was published.
    """
    from safetensors.torch import save_file

    from ml.recommenders.generative.trie import build_trie as build

    snapshot = settings.home / read_decision(settings)["snapshot"]
    catalogue = load_snapshot(snapshot).catalogue
    inputs = {"snapshot": snapshot.name, "tokenizer": str(catalogue.tokenizer)}
    trie = build(catalogue.codes, catalogue.code_sizes)
    version = hash_json(["trie", snapshot.name])
    folder = settings.tries / version
    if not publications.is_intact(settings, folder):
        tensors = {
            f"{name}/{level}": t for name in ("codes", "first") for level, t in enumerate(getattr(trie, name))
        }
        with publish(folder) as staging:
            save_file(tensors | {"items": trie.items}, staging / "trie.safetensors")
            write_manifest(staging, Manifest(kind="trie", version=version, inputs=inputs))
    set_current(settings.tries, version)
    return folder, sum(len(codes) for codes in trie.codes)


def publish_recommendations(settings: Settings) -> Published:
    """Write every user's list, then point the service at model, index and lists together.

    Raises
    ------
    ArtifactError
        If the live index or trie was built for another champion, if a part has changed since it was bound, or if
        another champion was chosen meanwhile; what was published stays, the live lists with it.
    """
    champion, index, trie = load_champion(settings), current(settings.index), current(settings.tries)
    model = hash_folder(champion.model)
    check_made_from(index, {"model": model, "snapshot": champion.snapshot.name})
    check_made_from(trie, {"snapshot": champion.snapshot.name})
    lists = settings.marts / "user_histories.parquet"
    withdrawn = WithdrawnItems(settings.home).now()
    inputs = {"model": model, "user_histories": hash_file(lists), "index": index.name}
    if withdrawn:
        inputs["withdrawn"] = hash_json(sorted(withdrawn))
    version = hash_json(["recommendations", inputs, settings.recommendations_k])
    folder = settings.recommendations / version
    if not _has_lists(folder):
        with publish(folder) as staging:
            rows = _recommend_all(champion, settings.recommendations_k, withdrawn)
            pq.write_table(rows, staging / "recommendations.parquet", compression="zstd")
            metrics = {"rows": len(rows), "users": len(champion.user_ids)}
            write_manifest(
                staging, Manifest(kind="recommendations", version=version, inputs=inputs, metrics=metrics)
            )
    publications.make_live(
        settings,
        {
            "recipe": champion.recipe,
            "model": str(champion.model.relative_to(settings.home)),
            "snapshot": str(champion.snapshot.relative_to(settings.home)),
            "index": str(index.relative_to(settings.home)),
            "trie": str(trie.relative_to(settings.home)),
            "heuristic": _heuristic(settings, champion),
            "encoder": _text_encoder(settings, champion),
            "landing": landing_form(settings),
            # A running service looks for changes of this file alone: what else it loads is told by name and hash.
            "newcomers": _newcomers(settings),
            "dim_items": hash_file(settings.marts / "dim_items.parquet"),
            "recommendations": str(folder.relative_to(settings.home)),
            "popular": popular_items(champion, 500),
            "as_of": settings.now().isoformat() if settings.clock == "logs" else None,
        },
    )
    rows_written = pq.read_metadata(folder / "recommendations.parquet").num_rows
    return Published(folder, champion.recipe, len(champion.user_ids), rows_written)


def _has_lists(folder: Path) -> bool:
    """Tell whether lists are there and whole; no hash is kept of them, as erasing a user takes rows away."""
    try:
        read_manifest(folder)
        pq.read_metadata(folder / "recommendations.parquet")
    except (ArtifactError, OSError, pa.ArrowInvalid):
        return False
    return True


def _newcomers(settings: Settings) -> str | None:
    try:
        return str(current(settings.newcomers).relative_to(settings.home))
    except ArtifactError:
        return None


def _heuristic(settings: Settings, champion: Champion) -> str | None:
    """Return where the transition counts of the champion's snapshot are: what answers where the champion cannot."""
    from ml.recipes import load_recipe
    from ml.train import folder_of, train

    if champion.recipe == BASELINE or not is_complete(champion.snapshot):
        return None
    threads = 1
    folder = folder_of(
        champion.snapshot, load_recipe(BASELINE), settings.models, settings.seed, threads=threads
    )
    if not publications.is_intact(settings, folder / "full"):
        # Training leaves what is complete as it is.
        (folder / "full" / MANIFEST).unlink(missing_ok=True)
        train(champion.snapshot, BASELINE, settings.models, settings.seed, ("full",), threads=threads)
    return str((folder / "full").relative_to(settings.home))


def _text_encoder(settings: Settings, champion: Champion) -> dict[str, str] | None:
    """Return the encoder that made the text vectors of the champion's snapshot, if it is still here."""
    version = read_manifest(champion.snapshot).recipe.get("text")
    if version is None or not is_complete(settings.vectors / "text" / version):
        return None
    made_by = str(read_manifest(settings.vectors / "text" / version).recipe["encoder"])
    tuned = sorted(str(path) for path in settings.encoders.glob("*") if is_complete(path))
    for name in (settings.encoder, *tuned):
        for precision in ("float32", "bfloat16"):
            if made_by.startswith(f"{encoder_identity(name)}/{precision}"):
                return {"name": name, "precision": precision}
    return None


def publish_champion(settings: Settings) -> Published:
    """Build and verify everything that serving the champion needs, and make it live.

    Raises
    ------
    ArtifactError
        If the index does not reach its recall; what was live stays live.
    """
    built = build_item_index(settings)
    if not built.passed:
        raise ArtifactError(f"{built.folder}: {built.reason}")
    build_trie(settings)
    return publish_recommendations(settings)


def popular_items(champion: Champion, k: int) -> list[str]:
    """Return the items with the most users, best first; ties by catalogue order."""
    counts = np.bincount(champion.histories.items, minlength=len(champion.catalogue))
    order = np.argsort(-counts, kind="stable")[:k]
    return [champion.catalogue.item_ids[i] for i in order if counts[i] > 0]


def _recommend_all(champion: Champion, k: int, withdrawn: frozenset[str]) -> pa.Table:
    """Return ``user_id, rank, item_id, title, score`` for every user, in user order.

    Where many items are withdrawn a list may hold fewer than ``k``: it is asked for twice as many at most.
    """
    gone = np.array([item in withdrawn for item in champion.catalogue.item_ids], bool)
    more = min(int(gone.sum()), k)
    names = pa.array(champion.catalogue.item_ids, pa.string())
    titles = pa.array(champion.catalogue.titles, pa.string())
    users = pa.array(champion.user_ids, pa.string())
    parts = []
    for start in range(0, len(users), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(users)))
        items, scores = champion.recommender.recommend(champion.histories.rows(rows), k + more)
        keep = (items >= 0) & ~gone[items]
        rank = keep.cumsum(axis=1)
        keep &= rank <= k
        who, _ = np.nonzero(keep)
        chosen = pa.array(items[keep])
        parts.append(
            pa.table(
                {
                    "user_id": users.take(pa.array(rows[who])),
                    "rank": pa.array(rank[keep].astype(np.int32)),
                    "item_id": names.take(chosen),
                    "title": titles.take(chosen),
                    "score": pa.array(scores[keep]),
                }
            )
        )
    if not parts:
        raise ArtifactError("no user has a history: nothing to recommend")
    return pa.concat_tables(parts).combine_chunks()


def _vectors_and_queries(settings: Settings, champion: Champion) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the vectors to index, and a sample of what they will be asked.

    A champion that has no item vectors (it counts, or it decodes) is indexed by item behaviour and asked by item,
    which is what item-to-item retrieval does.
    """
    vectors = champion.recommender.item_vectors()
    sample = np.linspace(0, len(champion.user_ids) - 1, min(_QUERIES, len(champion.user_ids))).astype(
        np.int64
    )
    if vectors is not None:
        queries = champion.recommender.query_vectors(champion.histories.rows(sample))
        if queries is not None:
            return vectors, queries
        known = vectors
    else:
        blocks = [load_vectors(current(settings.vectors / "behaviour"))]
        known = fuse(champion.catalogue.item_ids, blocks)
    return known, known[np.linspace(0, len(known) - 1, min(_QUERIES, len(known))).astype(np.int64)]
