"""What stands in the lake already: the manifests of its days."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import Any

from ml.artifacts import MANIFEST, ArtifactError, read_json
from orchestration.ingest.drift import DAYS_REMEMBERED
from orchestration.ingest.errors import IngestError, one_line_errors
from orchestration.ingest.shapes import Shape


class Standing:
    """The manifests of a lake's days, and those of days that are about to join them.

    Parameters
    ----------
    lake
        Root of the lake.
    """

    def __init__(self, lake: Path) -> None:
        self._manifests: dict[date, dict[str, Any]] = {}
        with one_line_errors(f"cannot read {lake / 'events'}"):
            for path in (lake / "events").glob(f"day=*/{MANIFEST}"):
                try:
                    day = date.fromisoformat(path.parent.name.removeprefix("day="))
                    manifest = read_json(path)
                except (ValueError, ArtifactError):
                    continue  # not a partition, or one that the next ingestion of its day replaces
                if isinstance(manifest, dict):
                    self._manifests[day] = manifest

    def add(self, day: date, manifest: dict[str, Any]) -> None:
        """Let a day that was judged stand beside the others."""
        self._manifests[day] = manifest

    def shapes(self, spec_hash: str, before: date | None) -> list[tuple[date, Shape]]:
        """Return the shapes of the newest days, newest first, that were read by the same spec.

        Parameters
        ----------
        spec_hash
            Hash of the spec; an edited spec starts anew.
        before
            Only days before this one; all days where ``None``.
        """
        found: list[tuple[date, Shape]] = []
        for day in sorted(self._manifests, reverse=True):
            manifest = self._manifests[day]
            if (before is not None and day >= before) or manifest.get("spec_hash") != spec_hash:
                continue
            shape = Shape.of(manifest.get("shape"))
            if shape is not None and shape.rows:
                found.append((day, shape))
            if len(found) == DAYS_REMEMBERED:
                break
        return found

    def check_secret(self, fingerprint: str | None, replaced: Collection[date]) -> None:
        """Raise if days that stay were ingested with another user secret, or with none where there is one now.

        Parameters
        ----------
        fingerprint
            That of the secret now in force.
        replaced
            Days that this ingestion replaces.

        Raises
        ------
        IngestError
            Naming a day and what it was ingested with.
        """
        for day in sorted(self._manifests):
            stood = self._manifests[day].get("user_secret")
            if day in replaced or stood == fingerprint:
                continue
            raise IngestError(
                f"day {day} of the lake was ingested {_with(stood)}, and now there is {_with(fingerprint, now=True)}: "
                "one lake cannot hold both. Set TESSERA_USER_SECRET as it was, or ingest all days at once, or start "
                "a new TESSERA_HOME"
            )


def _with(fingerprint: Any, now: bool = False) -> str:
    if fingerprint is None:
        return "no user secret" if now else "without a user secret"
    return f"{'the' if now else 'with the'} user secret {fingerprint}"
