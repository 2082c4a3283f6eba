"""Publications kept whole: what every night made live, and the way back to one of them. No Dagster.

``publications/N.json`` holds what ``champion.json`` held while publication N was live, and binds every part by content
hash. ``champion.json`` is what the service reads, and is replaced last.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel

from ml.artifacts import MANIFEST, ArtifactError, read_manifest, read_model, set_current, write_json
from ml.bindings import LINEAGE, bind, check_bound, check_same, content_hash
from ml.files import alone
from orchestration.models import read_decision, read_served, write_decision
from orchestration.settings import Settings

_log = logging.getLogger(__name__)
#: Name of a part to the key of ``champion.json`` that says where it is.
_SERVED = {
    "recommender": "model",
    "catalogue": "snapshot",
    "trie": "trie",
    "index": "index",
    "heuristic": "heuristic",
    "recommendations": "recommendations",
}
_VERSIONED = ("index", "tries", "recommendations")
#: What ``champion.json`` says of the home as it is, and not of a publication.
_OF_THE_HOME = ("as_of", "landing", "newcomers", "dim_items")


class Publication(BaseModel):
    """One publication.

    Parameters
    ----------
    number
        Counts up from 1.
    published_at
        When it went live first.
    registry_version
        Version of the model in the registry, where it has one.
    champion
        What ``champion.json`` holds while it is live.
    decision
        What ``evaluation/champion.json`` said: what a night refreshes.
    parts, bound
        Name of a part to its folder, relative to the home, and to its content hash.
    withdrawn_at
        When it was rolled back; a rollback that names no publication passes over it.
    """

    number: int
    published_at: AwareDatetime
    registry_version: str | None
    champion: dict[str, Any]
    decision: dict[str, Any]
    parts: dict[str, str]
    bound: dict[str, str]
    withdrawn_at: AwareDatetime | None = None

    @property
    def recipe(self) -> str:
        """Name of the champion's recipe."""
        return str(self.champion["recipe"])

    @property
    def model(self) -> str:
        """Folder of the champion, relative to the home."""
        return str(self.champion["model"])


def make_live(settings: Settings, champion: dict[str, Any]) -> Publication:
    """Record a publication, point the service and ``CURRENT`` at it, and remove what no publication needs any more.

    Parameters
    ----------
    champion
        What ``champion.json`` is to hold; folders relative to the home.

    Returns
    -------
    The publication that is live; the one before where nothing differs from it.

    Raises
    ------
    ArtifactError
        If a part has changed since it was bound, or if another champion was chosen while this one's lists were
        made. What was live stays.
    """
    with _alone(settings):
        decision = read_decision(settings)
        if any(decision[key] != champion[key] for key in ("model", "snapshot")):
            raise ArtifactError(
                f"{decision['recipe']} became champion while the lists of {champion['recipe']} were made: "
                "run it again"
            )
        served = {part: champion[key] for part, key in _SERVED.items() if champion.get(key)}
        parts, decided = {**decision.get("parts", {}), **served}, decision.get("bound", {})
        folders = _folders(settings, parts)
        found = bind({name: folders[name] for name in parts if name in decided or name in served}, LINEAGE)
        check_same(decided, found, folders)
        known, stated = publications(settings), read_served(settings)
        before = _record_of(settings, stated) or _newest(known)
        if before is not None:
            same = {part: found[part] for part, path in served.items() if before.parts.get(part) == path}
            check_same(before.bound, same, folders)
        bound = decided | {part: found[part] for part in served}
        if before is not None and (before.champion, before.bound) == (champion, bound):
            _point(settings, parts)
            _write_live(settings, before, champion, stated)
            return before
        made = Publication(
            # Nor is a number given again whose record cannot be read.
            number=max(_numbers(settings), default=0) + 1,
            published_at=datetime.now(UTC),
            registry_version=decision.get("registry_version"),
            champion=champion,
            decision=decision,
            parts=parts,
            bound=bound,
        )
        _write(settings, made)
        _point(settings, parts)
        _write_live(settings, made, champion, stated)
        _prune(settings, made)
    try:
        _promote(settings, made, bound=True)
    except Exception as error:
        # A registry out of reach does not stop a night.
        _log.warning("publication %d is live, the registry was not told: %s", made.number, _first_line(error))
    return made


def publications(settings: Settings) -> list[Publication]:
    """Return the publications that are kept, oldest first; what cannot be read is passed over, and the log names it."""
    return _readable(settings, logging.WARNING)


def live(settings: Settings) -> Publication | None:
    """Return what the service is pointed at; None where nothing is, or where no record of it can be read."""
    return _record_of(settings, read_served(settings))


def is_intact(settings: Settings, folder: Path) -> bool:
    """Tell whether a folder is complete, and holds what it held when it was last published, if it ever was."""
    stated = str(folder.relative_to(settings.home))
    hashes = (
        publication.bound[part]
        for publication in reversed(_readable(settings))
        for part, path in publication.parts.items()
        if path == stated and part in publication.bound
    )
    bound = next(hashes, None)
    try:
        read_manifest(folder)
        return bound is None or content_hash(folder) == bound
    except (ArtifactError, OSError):
        return False


def roll_back(settings: Settings, to: int | None = None) -> tuple[Publication, str | None]:
    """Make an earlier publication live again, with the index and the lists that it had. Nothing is trained or built.

    Parameters
    ----------
    to
        Its number. By default the newest one before the live one that had another champion and was not itself
        rolled back. Where another champion was chosen and is not served yet, the live one, so that choice and
        registry come back to it. Where ``champion.json`` is gone or does not say what is live, the newest one that
        was not rolled back: what was live last.

    Returns
    -------
    The publication, and why the registry could not be told, else None.

    Raises
    ------
    ArtifactError
        If there is no such publication, or if a part of it is gone or has changed; and where ``to`` was not given, if
        the registry's database cannot be reached, or if a record cannot be read that may be the one to choose.
        Nothing has changed then.
    """
    with _alone(settings):
        stated = read_served(settings)
        target = _choose(settings, to, stated)
        check_bound(target.bound, _folders(settings, target.parts), LINEAGE)
        if to is None and target.registry_version is not None:
            _check_registry(settings, target)
        _repoint(settings, target, stated)
    # The service follows already: MLflow takes seconds to be imported.
    try:
        _promote(settings, target)
    except Exception as error:
        return target, f"the registry was not told, its alias stays as it was: {_first_line(error)}"
    return target, None


def _check_registry(settings: Settings, target: Publication) -> None:
    from ml.registry import check_reachable

    try:
        check_reachable(settings.mlflow, settings.registry_uri)
    except ArtifactError as error:
        raise ArtifactError(
            f"nothing was changed, {error}: go on without the registry by --to {target.number}"
        ) from None


def _record_of(settings: Settings, stated: dict[str, Any]) -> Publication | None:
    number = stated.get("publication")
    if not isinstance(number, int):
        return None
    try:
        return _read(settings, number)
    except ArtifactError:
        return None


def _newest(known: Sequence[Publication]) -> Publication | None:
    """Return the newest publication that was not rolled back: what was live last."""
    return next((publication for publication in reversed(known) if publication.withdrawn_at is None), None)


def _choose(settings: Settings, to: int | None, stated: dict[str, Any]) -> Publication:
    numbers = _numbers(settings)
    if to is not None:
        if to in numbers:
            return _read(settings, to)
        kept = f"kept are {', '.join(map(str, numbers))}" if numbers else "none is kept"
        raise ArtifactError(f"there is no publication {to}: {kept}")
    now = _record_of(settings, stated)
    # One that was rolled back and is still served is what a killed rollback left.
    if now is not None and now.withdrawn_at is None and not _is_chosen(settings, now):
        return now
    found = _newest([p for p in _readable(settings) if now is None or _may_follow(p, now)])
    newest = now.number if now is not None else max(numbers, default=0)
    for number in reversed(numbers):
        if (found is None or number > found.number) and number <= newest:
            _check_readable(settings, number)
    if found is None:
        raise ArtifactError("there is no earlier champion to go back to; publications lists what is kept")
    return found


def _is_chosen(settings: Settings, publication: Publication) -> bool:
    """Tell whether a publication is of the champion that was chosen; where no choice can be read, none differs."""
    try:
        decision = read_decision(settings)
    except ArtifactError:
        return True
    return all(decision.get(key) == publication.champion.get(key) for key in ("model", "snapshot"))


def _check_readable(settings: Settings, number: int) -> None:
    try:
        _read(settings, number)
    except ArtifactError as error:
        raise ArtifactError(
            f"nothing was changed, this may be the one to go back to: {error}; name one by --to"
        ) from None


def _may_follow(publication: Publication, now: Publication) -> bool:
    """Tell whether a rollback from ``now`` may choose a publication by itself."""
    return (
        publication.number < now.number
        and publication.model != now.model
        and publication.withdrawn_at is None
    )


def _repoint(settings: Settings, target: Publication, stated: dict[str, Any]) -> None:
    """Make a publication live; ``champion.json`` last, so that a kill before that is mended by doing it again."""
    now = datetime.now(UTC)
    for publication in _readable(settings):
        # What came after is passed over from now on; what is asked for by number is taken in again.
        withdrawn = publication.number > target.number
        if publication.number >= target.number and withdrawn != (publication.withdrawn_at is not None):
            _write(settings, publication.model_copy(update={"withdrawn_at": now if withdrawn else None}))
    write_decision(settings, target.decision)
    _point(settings, target.parts)
    of_the_home = {key: stated[key] for key in _OF_THE_HOME if key in stated}
    _write_live(settings, target, target.champion | of_the_home, stated)


def _point(settings: Settings, parts: dict[str, str]) -> None:
    """Point ``CURRENT`` of index, trie and lists at those among the parts of a publication."""
    for path in parts.values():
        versions, _, version = path.partition("/")
        if versions in _VERSIONED:
            set_current(settings.home / versions, version)


def _write_live(
    settings: Settings, publication: Publication, champion: dict[str, Any], stated: dict[str, Any]
) -> None:
    content = champion | {"publication": publication.number}
    if stated != content:
        write_json(settings.home / "champion.json", content)


def _promote(settings: Settings, publication: Publication, bound: bool = False) -> None:
    """Point the registry's alias at what is live, unless that is something else by now; ``bound`` completes its tags."""
    if publication.registry_version is None:
        return
    from ml.registry import Registry

    registry = Registry(settings.mlflow, settings.registry_uri)
    # Where a registry was begun anew its numbers begin at 1 again, and name other models.
    candidate = Path(publication.parts.get("evaluated", publication.model)).parent.as_posix()
    if registry.version(publication.registry_version).tags.get("model") != candidate:
        raise ArtifactError(
            f"it is another one than this publication's, its version {publication.registry_version} is not {candidate}"
        )
    if bound:
        registry.bind(publication.registry_version, publication.bound)
    now = live(settings)
    # Whoever came in between has the last word.
    if now is not None and now.number == publication.number:
        registry.promote(publication.registry_version)


def _prune(settings: Settings, now: Publication) -> None:
    """Remove served versions, and records, that none of the last publications needs, nor a rollback."""
    known, last = _readable(settings), set(_numbers(settings)[-settings.keep_publications :])
    if not last <= {publication.number for publication in known}:
        # What a record needs that cannot be read is not known: nothing goes while it is one of the last.
        return
    kept = last | {now.number}
    kept |= {p.number for p in [p for p in known if _may_follow(p, now)][-1:]}
    needed = {path for p in known if p.number in kept for path in p.parts.values()}
    for name in _VERSIONED:
        for folder in (settings.home / name).glob("[!.]*"):
            stated = f"{name}/{folder.name}"
            if stated not in needed and (folder / MANIFEST).is_file():
                shutil.rmtree(folder, ignore_errors=True)
    for publication in known:
        if publication.number not in kept:
            _path(settings, publication.number).unlink(missing_ok=True)


def _folders(settings: Settings, parts: dict[str, str]) -> dict[str, Path]:
    return {name: settings.home / path for name, path in parts.items()}


def _path(settings: Settings, number: int) -> Path:
    return settings.publications / f"{number}.json"


def _numbers(settings: Settings) -> list[int]:
    """Return the number of every record that is there, whether it can be read or not."""
    return sorted(int(path.stem) for path in settings.publications.glob("*.json") if path.stem.isdecimal())


def _readable(settings: Settings, level: int = logging.DEBUG) -> list[Publication]:
    found = []
    for number in _numbers(settings):
        try:
            found.append(_read(settings, number))
        except ArtifactError as error:
            _log.log(level, "passed over, and left as it is: %s", error)
    return found


def _read(settings: Settings, number: int) -> Publication:
    return read_model(_path(settings, number), Publication)


def _write(settings: Settings, publication: Publication) -> None:
    write_json(_path(settings, publication.number), publication.model_dump(mode="json"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _alone(settings: Settings) -> AbstractContextManager[None]:
    """Let one process at a time change what is live. Not the lock of the home, which a UI holds for days."""
    return alone(settings.publications / ".lock")
