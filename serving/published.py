"""What is published below a home, and the engine over it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from pydantic import AwareDatetime, BaseModel

from ml.artifacts import ArtifactError, check_made_from, hash_folder, read_model
from ml.histories import Histories
from serving.answers import Champion, Encode, EngineError, Lookup, Search
from serving.engine import Engine
from serving.features import Clock, FeatureLookup, UserFeatures, wall_clock
from serving.inbox import LandingForm
from serving.items import load_facts
from serving.newcomers import with_newcomers
from serving.text_queries import query_encoder
from serving.withdrawn import WithdrawnItems

if TYPE_CHECKING:
    from ml.snapshot import Snapshot

CHAMPION = "champion.json"
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class TextEncoder(BaseModel):
    """What made the text vectors of the snapshot: an encoder by name or path, and what it computed in."""

    name: str
    precision: str = "float32"


class Published(BaseModel):
    """``TESSERA_HOME/champion.json``: what the last promotion published, paths relative to the home.

    What else it holds is not for the service to read, but makes it load everything again where only that has changed:
    the version of the newcomers, and the hash of ``marts/dim_items.parquet``.

    Parameters
    ----------
    recipe
        Name of the champion's recipe.
    model
        Folder of the recommender.
    snapshot
        Folder of the snapshot that it was trained on.
    index
        Folder of the item index; None where the champion scores the catalogue itself.
    trie
        Folder of the trie of valid semantic IDs; None where there are none.
    heuristic
        Folder of the recommender that answers where the champion cannot; None where there is none.
    popular
        Item IDs, most popular first.
    encoder
        What made the snapshot's text vectors; None where texts cannot be searched for.
    landing
        In which form posted events land, for the next night to read.
    as_of
        The time that counts as now when ages are checked, for logs that ended in the past; None is real time.
    """

    recipe: str
    model: str
    snapshot: str
    index: str | None = None
    trie: str | None = None
    heuristic: str | None = None
    popular: list[str] = []
    encoder: TextEncoder | None = None
    landing: LandingForm = LandingForm()
    as_of: AwareDatetime | None = None


def load_engine(home: Path, clock: Clock | None = None, text_search: bool = False) -> Engine:
    """Load what is published below ``home``.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    clock
        What counts as now; by default what the publication says.
    text_search
        Whether to load the text encoder, in the background.

    Raises
    ------
    EngineError
        If nothing is published, if what is published cannot be loaded, or if a part of it was built on another
        version of another part than the one beside it.
    """
    from ml.recommenders import load_recommender
    from ml.snapshot import load_snapshot
    from serving.feature_store import FeatureStoreError

    published = read_published(home)
    try:
        snapshot = load_snapshot(home / published.snapshot)
        model, version = home / published.model, snapshot.manifest.version
        check_made_from(model, {"snapshot": version})
        if published.trie:
            check_made_from(home / published.trie, {"snapshot": version})
        champion = load_recommender(model, snapshot.catalogue)
        built_on = {"model": hash_folder(model), "snapshot": version}
        search = _index_search(home / published.index, snapshot, built_on) if published.index else None
        lookup = FeatureLookup(home, clock=clock or _clock(published))
        heuristic = _heuristic(home, published, snapshot)
        return _engine(home, published, snapshot, champion, lookup, search, heuristic, clock, text_search)
    except (ArtifactError, FeatureStoreError) as error:
        raise EngineError(str(error)) from error


def load_fallback(home: Path, clock: Clock | None = None, text_search: bool = False) -> Engine:
    """Load of what is published whatever can be loaded, for where :func:`load_engine` fails and nothing was served before.

    Without the online store nobody has a history; without the index the champion scores the catalogue itself; without
    the champion the heuristic answers.

    Raises
    ------
    EngineError
        If there is not even a snapshot.
    """
    from ml.recommenders import load_recommender
    from ml.snapshot import load_snapshot

    published = read_published(home)
    try:
        snapshot = load_snapshot(home / published.snapshot)
    except ArtifactError as error:
        raise EngineError(str(error)) from error
    model, version = home / published.model, snapshot.manifest.version

    def load_champion() -> Champion:
        check_made_from(model, {"snapshot": version})
        return load_recommender(model, snapshot.catalogue)

    def load_search() -> Search | None:
        built_on = {"model": hash_folder(model), "snapshot": version}
        return _index_search(home / published.index, snapshot, built_on) if published.index else None

    champion = _attempt("champion", load_champion)
    search = _attempt("index", load_search) if champion is not None else None
    heuristic = _attempt("heuristic", lambda: _heuristic(home, published, snapshot))
    lookup = _attempt("online store", lambda: FeatureLookup(home, clock=clock or _clock(published)))
    no_heuristic = published.heuristic in (None, published.model)
    parts = {
        "champion": champion,
        "online store": lookup,
        "index": search or not published.index,
        "heuristic": heuristic or no_heuristic,
    }
    engine = _engine(
        home, published, snapshot, champion, lookup or _Nobody(), search, heuristic, clock, text_search
    )
    engine.missing = tuple(name for name, part in parts.items() if not part)
    return engine


def _attempt(what: str, load: Callable[[], _T]) -> _T | None:
    try:
        return load()
    except Exception as error:
        _log.error("serving without the %s: %s", what, error)
        return None


class _Nobody:
    """A look-up that knows nobody."""

    def user(self, user_id: str) -> UserFeatures:
        return UserFeatures(
            user_id, absent={"user_history": "out of reach: the online store cannot be opened"}
        )


def _engine(
    home: Path,
    published: Published,
    snapshot: Snapshot,
    champion: Champion | None,
    lookup: Lookup,
    search: Search | None,
    heuristic: Champion | None,
    clock: Clock | None,
    text_search: bool,
) -> Engine:
    catalogue, newcomers = with_newcomers(home, snapshot)
    versions = {"recipe": published.recipe, "model": published.model, "snapshot": published.snapshot}
    parts = {
        "index": published.index if search else None,
        "heuristic": published.heuristic if heuristic else None,
        "newcomers": newcomers,
    }
    encode: Encode | None = None
    if text_search and published.encoder is not None and catalogue.text.shape[1]:
        encode = query_encoder(published.encoder.name, published.encoder.precision)
    return Engine(
        champion=champion,
        lookup=lookup,
        item_ids=catalogue.item_ids,
        titles=catalogue.titles,
        event_types=snapshot.event_type_names,
        popular=_all_popular(published.popular, snapshot.histories, snapshot.catalogue.item_ids),
        search=search,
        versions=versions | {name: part for name, part in parts.items() if part},
        heuristic=heuristic,
        facts=load_facts(home, catalogue),
        encode=encode,
        clock=clock or _clock(published),
        trained=len(snapshot.catalogue),
        withdrawn=WithdrawnItems(home).now,
    )


def _heuristic(home: Path, published: Published, snapshot: Snapshot) -> Champion | None:
    from ml.recommenders import load_recommender

    if published.heuristic is None or published.heuristic == published.model:
        return None
    check_made_from(home / published.heuristic, {"snapshot": snapshot.manifest.version})
    return load_recommender(home / published.heuristic, snapshot.catalogue)


def _all_popular(published: list[str], histories: Histories, item_ids: list[str]) -> list[str]:
    """Return the published items, then the others that anybody met, so that filters find some too."""
    counts = np.bincount(histories.items, minlength=len(item_ids))
    first = set(published)
    rest = (item_ids[i] for i in np.argsort(-counts, kind="stable") if counts[i])
    return [*published, *(item for item in rest if item not in first)]


def read_published(home: Path) -> Published:
    """Read what is published below ``home``.

    Raises
    ------
    EngineError
        If nothing is, or if the file is not what it should be.
    """
    path = home / CHAMPION
    if not path.is_file():
        raise EngineError(f"{path} does not exist: nothing has been published yet, run `make demo`")
    try:
        return read_model(path, Published)
    except ArtifactError as error:
        raise EngineError(str(error)) from None


def _index_search(folder: Path, snapshot: Snapshot, built_on: Mapping[str, str]) -> Search:
    from ml.index.item_search import ItemSearch
    from ml.index.publish import load_index

    index, vectors, _ = load_index(folder, built_on)
    if len(vectors) != len(snapshot.catalogue):
        raise ArtifactError(
            f"{folder} holds {len(vectors)} items, {snapshot.folder} {len(snapshot.catalogue)}"
        )
    return ItemSearch(index)


def _clock(published: Published) -> Clock:
    as_of = published.as_of
    return wall_clock if as_of is None else lambda: as_of
