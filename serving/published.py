"""What is published below a home, and the engine over it, exchanged when something new is published."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AwareDatetime, BaseModel, ValidationError

from ml.artifacts import ArtifactError, check_made_from, hash_folder, read_json
from serving.engine import Engine, EngineError, Search
from serving.features import Clock, FeatureLookup, wall_clock

if TYPE_CHECKING:
    from ml.snapshot import Snapshot

CHAMPION = "champion.json"
_log = logging.getLogger(__name__)


class Published(BaseModel):
    """``TESSERA_HOME/champion.json``: what the last promotion published, paths relative to the home.

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
    popular
        Item IDs, most popular first.
    as_of
        The time that counts as now when ages are checked, for logs that ended in the past; None is real time.
    """

    recipe: str
    model: str
    snapshot: str
    index: str | None = None
    trie: str | None = None
    popular: list[str] = []
    as_of: AwareDatetime | None = None


def load_engine(home: Path, clock: Clock | None = None) -> Engine:
    """Load what is published below ``home``.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    clock
        What counts as now; by default what the publication says.

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
    except (ArtifactError, FeatureStoreError) as error:
        raise EngineError(str(error)) from error
    versions = {"recipe": published.recipe, "model": published.model, "snapshot": published.snapshot}
    return Engine(
        champion=champion,
        lookup=lookup,
        item_ids=snapshot.catalogue.item_ids,
        titles=snapshot.catalogue.titles,
        event_types=snapshot.event_type_names,
        popular=published.popular,
        search=search,
        versions=versions | ({"index": published.index} if published.index else {}),
    )


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
        return Published.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise EngineError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ArtifactError as error:
        raise EngineError(str(error)) from None


class EngineHolder:
    """Hands out the engine of what is published now.

    A new publication is loaded by the request that first sees it; the others are answered by the engine before it
    meanwhile. If loading fails, that engine stays.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    load
        Makes the engine.
    """

    def __init__(self, home: Path, load: Callable[[Path], Engine] = load_engine) -> None:
        self._home = home
        self._load = load
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._seen: tuple[int, int, int] | None = None

    def get(self) -> Engine:
        """Return the engine.

        Raises
        ------
        EngineError
            If there has been nothing that could be loaded.
        """
        mark = self._mark()
        engine = self._engine
        if engine is not None and mark == self._seen:
            return engine
        if not self._lock.acquire(blocking=engine is None):
            assert engine is not None
            return engine
        try:
            if self._engine is None or mark != self._seen:
                self._refresh(mark)
            assert self._engine is not None
            return self._engine
        finally:
            self._lock.release()

    def _refresh(self, mark: tuple[int, int, int] | None) -> None:
        try:
            self._engine = self._load(self._home)
        except Exception as error:
            if self._engine is None:
                raise
            # What failed to load is not tried again before it changes.
            _log.error("the new publication cannot be loaded, the one before it stays: %s", error)
        self._seen = mark

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            stat = (self._home / CHAMPION).stat()
        except FileNotFoundError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _index_search(folder: Path, snapshot: Snapshot, built_on: Mapping[str, str]) -> Search:
    from ml.index.build import search
    from ml.index.publish import load_index

    index, vectors, _ = load_index(folder, built_on)
    if len(vectors) != len(snapshot.catalogue):
        raise ArtifactError(
            f"{folder} holds {len(vectors)} items, {snapshot.folder} {len(snapshot.catalogue)}"
        )
    return lambda queries, k: search(index, queries, k)


def _clock(published: Published) -> Clock:
    as_of = published.as_of
    return wall_clock if as_of is None else lambda: as_of
