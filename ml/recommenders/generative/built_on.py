"""Which semantic IDs a model was trained on, kept beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ml.artifacts import ArtifactError, read_json, write_json

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

_FILE = "semantic_ids.json"


def write_built_on(folder: Path, tokenizer: str | None, code_sizes: tuple[int, ...]) -> None:
    """Write the tokenizer's version, None where the catalogue named none, and the sizes of the levels."""
    write_json(folder / _FILE, {"tokenizer": tokenizer, "code_sizes": code_sizes})


def read_built_on(folder: Path, catalogue: Catalogue) -> tuple[int, ...]:
    """Return the sizes that `write_built_on` wrote, for a catalogue that may have grown under the same tokenizer.

    Raises
    ------
    ArtifactError
        If the catalogue's semantic IDs are by another tokenizer or of another shape.
    """
    told = read_json(folder / _FILE)
    if catalogue.tokenizer != told["tokenizer"]:
        raise ArtifactError(
            f"{folder} was trained on semantic IDs of tokenizer {told['tokenizer']}, not {catalogue.tokenizer}"
        )
    sizes = tuple(told["code_sizes"])
    # The last level may have grown with the catalogue; the others belong to the tokenizer.
    if catalogue.code_sizes[:-1] != sizes[:-1]:
        raise ArtifactError(
            f"{folder} was trained on semantic IDs of sizes {sizes}, not {catalogue.code_sizes}"
        )
    return sizes
