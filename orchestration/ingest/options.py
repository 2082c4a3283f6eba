"""How an ingestion goes about its work, and what the settings of a home say to that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestration.ingest import erased
from orchestration.ingest.drift import Policy
from orchestration.ingest.lines import Limits
from orchestration.ingest.users import UserSecret

if TYPE_CHECKING:
    from orchestration.settings import Settings


@dataclass(frozen=True)
class Options:
    """How an ingestion goes about its work.

    Parameters
    ----------
    max_bad_share
        Highest share of bad rows that passes, of a day for daily files, of everything else for files of many days.
    schema_drift
        What a change in the shape of the files does: ``mapped`` stops where a column is concerned that the spec
        reads and warns elsewhere, ``warn`` never stops, ``fail`` always does.
    secret
        What user ids are hashed with; ``None`` leaves them as they are.
    erased
        Users whose rows are left out.
    limits
        How much a compressed file may grow.
    memory_limit, threads
        What DuckDB may use.
    """

    max_bad_share: float = 0.05
    schema_drift: Policy = "mapped"
    secret: UserSecret | None = None
    erased: erased.Erased | None = None
    limits: Limits = field(default_factory=Limits)
    memory_limit: str = "1GB"
    threads: int = 2


def limits_of(settings: Settings) -> Limits:
    """Return how much a compressed landing file may grow."""
    return Limits(settings.max_decompressed_bytes, settings.max_compression_ratio)


def options_of(settings: Settings) -> Options:
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
        limits=limits_of(settings),
        memory_limit=settings.duckdb_memory,
        threads=settings.duckdb_threads,
    )
