"""How an ingestion of events goes about its work."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestration.ingest.drift import Policy
from orchestration.ingest.erased import Erased
from orchestration.ingest.lines import Limits
from orchestration.ingest.users import UserSecret


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
    erased: Erased | None = None
    limits: Limits = field(default_factory=Limits)
    memory_limit: str = "1GB"
    threads: int = 2
