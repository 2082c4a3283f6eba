"""Runs, versions, their bindings and aliases, in MLflow. Training never imports this module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.artifacts import ArtifactError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "recommender"
EXPERIMENT = "candidates"
CHAMPION = "champion"
PREVIOUS = "previous"
BOUND = "bound."


@dataclass(frozen=True)
class Version:
    """One registered candidate: its number, and its tags."""

    number: str
    tags: dict[str, str]

    @property
    def bound(self) -> dict[str, str]:
        """Name of each part that it was made of, or is served with, to its content hash."""
        return {
            name.removeprefix(BOUND): value for name, value in self.tags.items() if name.startswith(BOUND)
        }


class Registry:
    """Candidates of one home, in a SQLite file below it, or wherever MLflow can keep them.

    Parameters
    ----------
    folder
        Where ``mlflow.db`` and the artifacts are.
    uri
        Another database (``postgresql://...``), or an MLflow server (``http://...``). A registry serves one home.

    Raises
    ------
    ArtifactError
        If the database cannot be used; the line holds no password.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        import mlflow

        folder.mkdir(parents=True, exist_ok=True)
        self.uri = uri or _below(folder)
        check_reachable(folder, uri)
        self.client: MlflowClient = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            artifacts = (folder.resolve() / "artifacts").as_uri()
            self.experiment = self.client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        else:
            self.experiment = found.experiment_id

    def register(
        self, model: Path, params: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> Version:
        """Record a candidate once: a run with its metrics, and a model version that points at it.

        Parameters
        ----------
        model
            Folder of the trained candidate; registering the same folder again returns the version it has.
        params, metrics
            What the run is to show. Metric names may hold ``@``, which MLflow stores as ``_at_``.
        tags
            What the candidate is, and ``bound.PART``: the content hashes that bind it to what it was made of.

        Raises
        ------
        ArtifactError
            If the same folder was registered with another hash of a part; the line names the part.
        """
        source = model.resolve().as_uri()
        for version in self._versions():
            if version.source == source:
                found = Version(str(version.version), dict(version.tags))
                _check_same(found, tags)
                return found
        run = self.client.create_run(self.experiment, run_name=f"{tags.get('recipe', '')} {model.name}")
        for name, value in params.items():
            self.client.log_param(run.info.run_id, name, value)
        for name, value in metrics.items():
            self.client.log_metric(run.info.run_id, name.replace("@", "_at_"), value)
        self.client.set_terminated(run.info.run_id)
        made = self.client.create_model_version(MODEL, source, run_id=run.info.run_id, tags=dict(tags))
        return Version(str(made.version), dict(tags))

    def bind(self, number: str, bound: Mapping[str, str]) -> None:
        """Write the content hash of each part on a version, as tags ``bound.PART``; tags of other parts stay."""
        stated = self.client.get_model_version(MODEL, number).tags
        for part, value in bound.items():
            if stated.get(f"{BOUND}{part}") != value:
                self.client.set_model_version_tag(MODEL, number, f"{BOUND}{part}", value)

    def promote(self, number: str) -> None:
        """Make a version the champion, and remember the one before it; nothing happens where it is."""
        live = self.champion()
        if live is not None and live.number == number:
            return
        self.client.get_model_version(MODEL, number)
        if live is not None:
            self.client.set_registered_model_alias(MODEL, PREVIOUS, live.number)
        self.client.set_registered_model_alias(MODEL, CHAMPION, number)

    def version(self, number: str) -> Version:
        """Return a version as it is registered."""
        found = self.client.get_model_version(MODEL, number)
        return Version(str(found.version), dict(found.tags))

    def champion(self) -> Version | None:
        """Return the live version, or ``None`` before the first promotion."""
        return self._alias(CHAMPION)

    def _alias(self, alias: str) -> Version | None:
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version_by_alias(MODEL, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return Version(str(found.version), dict(found.tags))

    def _versions(self) -> list[Any]:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return list(self.client.search_model_versions(f"name = '{MODEL}'"))


def check_reachable(folder: Path, uri: str | None = None) -> None:
    """Try the database of a registry once, without MLflow, which would try for minutes; see `Registry`.

    A server is not tried.

    Raises
    ------
    ArtifactError
        If it cannot be used; the line holds no password.
    """
    uri = uri or _below(folder)
    if "://" not in uri or uri.startswith("http"):
        return
    import sqlalchemy

    engine = None
    try:
        engine = sqlalchemy.create_engine(uri)
        sqlalchemy.inspect(engine).get_table_names()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        shown = "the registry" if engine is None else f"the registry {engine.url.render_as_string()}"
        raise ArtifactError(f"{shown} cannot be used: {cause}") from None
    finally:
        if engine is not None:
            engine.dispose()


def _below(folder: Path) -> str:
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def _check_same(found: Version, tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        if name.startswith(BOUND) and found.tags.get(name, value) != value:
            raise ArtifactError(
                f"{name.removeprefix(BOUND)}: what version {found.number} was registered with has changed: "
                f"its content is {value}, {found.tags[name]} was bound"
            )
