"""Texts of searches to vectors, by the encoder that made the items' text vectors."""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import ArtifactError
from serving.answers import EngineError
from serving.collector import settle

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_log = logging.getLogger(__name__)


class QueryEncoder:
    """Loads an encoder in the background, for it takes seconds, and encodes one text at a time.

    Parameters
    ----------
    encoder, precision
        As in :func:`ml.vectors.text.encode_texts`.
    """

    def __init__(self, encoder: str, precision: str = "float32") -> None:
        self._name = encoder
        self._precision = precision
        self._model: SentenceTransformer | None = None
        self._prompt: str | None = None
        self._failed: str | None = None
        # A tokenizer must not be used by two threads at once.
        self._one = threading.Lock()
        self._thread = threading.Thread(target=self._load, name="text-encoder", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until it is loaded, or cannot be."""
        self._thread.join(seconds)

    def why_not(self) -> str:
        """Return why it cannot encode (yet); nothing once it can."""
        return self._failed or ("" if self._model is not None else "the text encoder is still being loaded")

    def __call__(self, text: str) -> NDArray[np.float32]:
        """Return float32 [w] of length 1.

        Raises
        ------
        EngineError
            While the encoder is being loaded, or if it cannot be.
        """
        if self._model is None:
            raise EngineError(f"texts cannot be searched for: {self.why_not()}")
        with self._one:
            found = self._model.encode(
                [text],
                prompt=self._prompt,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        vector: NDArray[np.float32] = np.asarray(found[0], np.float32)
        return vector

    def _load(self) -> None:
        from ml.vectors.text import load_encoder

        try:
            model = load_encoder(self._name, self._precision)  # type: ignore[arg-type]
        except ArtifactError as error:
            self._failed = str(error)
        except Exception:
            _log.exception("the text encoder cannot be loaded")
            self._failed = "the text encoder cannot be loaded"
        else:
            # Models that want a prefix name one for queries beside that for documents.
            self._prompt = model.prompts.get("query") or None
            self._model = model
            settle()


@lru_cache(maxsize=2)
def query_encoder(encoder: str, precision: str) -> QueryEncoder:
    """Return an encoder; publications that follow each other share it."""
    return QueryEncoder(encoder, precision)
