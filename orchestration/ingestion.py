"""What the settings of a home say to ingestion."""

from __future__ import annotations

from orchestration.ingest import erased
from orchestration.ingest.lines import Limits
from orchestration.ingest.options import Options
from orchestration.ingest.users import UserSecret
from orchestration.settings import Settings


def limits(settings: Settings) -> Limits:
    """Return how much a compressed landing file may grow."""
    return Limits(settings.max_decompressed_bytes, settings.max_compression_ratio)


def event_options(settings: Settings) -> Options:
    """Return how events are ingested into a home.

    Raises
    ------
    IngestError
        If the user secret is too short, or if the list of erased users makes no sense.
    """
    secret = settings.user_secret
    return Options(
        max_bad_share=settings.max_bad_share,
        schema_drift=settings.schema_drift,
        secret=UserSecret(secret.get_secret_value()) if secret is not None else None,
        erased=erased.load(settings.home / erased.ERASED),
        limits=limits(settings),
        memory_limit=settings.duckdb_memory,
        threads=settings.duckdb_threads,
    )
