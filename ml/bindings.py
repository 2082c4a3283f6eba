"""What a recommender was made of and is served with, bound by content hash, so that a changed part is noticed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from ml.artifacts import MANIFEST, ArtifactError, hash_file, hash_json, read_manifest

#: Parts that serving does not read: they must be as they were where they are still there.
LINEAGE = ("text_vectors", "vectors", "tokenizer", "semantic_ids", "evaluated")
#: An erasure takes users out of these files, and leaves the version its name. They are bound by name alone.
PERSONAL = frozenset({"users.parquet", "histories.safetensors", "recommendations.parquet"})
_TOLD = frozenset({MANIFEST, "report.json"})
_PAGES = frozenset({".html", ".png", ".svg"})


def content_hash(folder: Path) -> str:
    """Return 16 hex digits over the data of a version folder: neither its manifest nor its reports and pages.

    Raises
    ------
    ArtifactError
        If the folder is missing or incomplete.
    """
    read_manifest(folder)
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in _TOLD and path.suffix not in _PAGES
    )
    return hash_json(
        [
            (path.relative_to(folder).as_posix(), None if path.name in PERSONAL else hash_file(path))
            for path in files
        ]
    )


def bind(parts: Mapping[str, Path], may_be_gone: Collection[str] = ()) -> dict[str, str]:
    """Return the content hash of every part.

    Parameters
    ----------
    parts
        Name of a part to its version folder.
    may_be_gone
        Parts that are left out where they are not there any more.

    Raises
    ------
    ArtifactError
        If a part is missing or incomplete; the line names it.
    """
    there = {name: folder for name, folder in parts.items() if name not in may_be_gone or folder.exists()}
    return {name: _hash_of(name, folder) for name, folder in there.items()}


def check_same(bound: Mapping[str, str], found: Mapping[str, str], parts: Mapping[str, Path]) -> None:
    """Compare the content hashes of parts with those that they were bound by; what was never bound may be anything.

    Parameters
    ----------
    bound, found
        Name of a part to its content hash, then and now.
    parts
        Name of a part to its version folder.

    Raises
    ------
    ArtifactError
        If a part differs; the line names the first.
    """
    for name, value in found.items():
        if bound.get(name, value) != value:
            raise ArtifactError(
                f"{name}: {parts[name]} has changed: its content is {value}, {bound[name]} was bound"
            )


def check_bound(
    bound: Mapping[str, str], parts: Mapping[str, Path], may_be_gone: Collection[str] = ()
) -> None:
    """Compare parts with the hashes that they were bound by; what was never bound is not looked at.

    Parameters
    ----------
    bound
        Name of a part to its content hash.
    parts
        Name of a part to its version folder.
    may_be_gone
        Parts that need not be there any more.

    Raises
    ------
    ArtifactError
        If a part is missing or differs; the line names the first.
    """
    looked_at = {name: folder for name, folder in parts.items() if name in bound}
    check_same(bound, bind(looked_at, may_be_gone), parts)


def _hash_of(name: str, folder: Path) -> str:
    try:
        return content_hash(folder)
    except (ArtifactError, OSError) as error:
        raise ArtifactError(f"{name}: {folder} is missing or incomplete ({error})") from None
