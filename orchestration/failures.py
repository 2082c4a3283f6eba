"""User mistakes become one-line Dagster failures; everything else keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from ml.artifacts import ArtifactError
from ml.recipes import RecipeError
from orchestration.ingest.errors import IngestError
from orchestration.quality import QualityError
from orchestration.settings import SettingsError
from orchestration.simulate.config import SimulationError
from serving.feature_store import FeatureStoreError
from serving.keys import KeyFileError

USER_ERRORS = (
    ArtifactError,
    FeatureStoreError,
    IngestError,
    KeyFileError,
    QualityError,
    RecipeError,
    SettingsError,
    SimulationError,
)
RETRY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Turn errors that a person can act on into a failure that names the cause and is not retried."""
    try:
        yield
    except USER_ERRORS as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
    except OSError as error:
        # A full disk or a read-only folder: worth another try, but not worth a traceback.
        raise dg.Failure(
            description=f"{error.filename or 'file system'}: {error.strerror or error}"
        ) from None
