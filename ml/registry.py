"""Runs, versions, aliases, promotion and rollback, in MLflow. Training never imports this module."""

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


@dataclass(frozen=True)
class Version:
    """One registered candidate: its number, and the tags that bind it to what it was made of."""

    number: str
    tags: dict[str, str]


class Registry:
    """Candidates of one home, in a SQLite file below it.

    Parameters
    ----------
    folder
        Where ``mlflow.db`` and the artifacts are.
    """

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        import mlflow

        folder.mkdir(parents=True, exist_ok=True)
        self.uri = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
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
            Hashes of what the candidate is bound to (snapshot, tokenizer, recipe).
        """
        source = model.resolve().as_uri()
        for version in self._versions():
            if version.source == source:
                return Version(version.version, dict(version.tags))
        run = self.client.create_run(self.experiment, run_name=f"{tags.get('recipe', '')} {model.name}")
        for name, value in params.items():
            self.client.log_param(run.info.run_id, name, value)
        for name, value in metrics.items():
            self.client.log_metric(run.info.run_id, name.replace("@", "_at_"), value)
        self.client.set_terminated(run.info.run_id)
        made = self.client.create_model_version(MODEL, source, run_id=run.info.run_id, tags=dict(tags))
        return Version(made.version, dict(tags))

    def promote(self, version: Version) -> None:
        """Make ``version`` the champion, and remember the one before it."""
        live = self.champion()
        if live is not None and live.number == version.number:
            return
        if live is not None:
            self.client.set_registered_model_alias(MODEL, PREVIOUS, live.number)
        self.client.set_registered_model_alias(MODEL, CHAMPION, version.number)

    def champion(self) -> Version | None:
        """Return the live version, or ``None`` before the first promotion."""
        return self._alias(CHAMPION)

    def previous(self) -> Version:
        """Return the champion before the live one.

        Raises
        ------
        ArtifactError
            If there is none.
        """
        version = self._alias(PREVIOUS)
        if version is None:
            raise ArtifactError("there is no earlier champion to go back to")
        return version

    def rollback(self) -> Version:
        """Exchange the champion with the version before it.

        Raises
        ------
        ArtifactError
            If there is no version to go back to.
        """
        live, previous = self._alias(CHAMPION), self.previous()
        assert live is not None, "a previous champion implies a live one"
        self.client.set_registered_model_alias(MODEL, CHAMPION, previous.number)
        self.client.set_registered_model_alias(MODEL, PREVIOUS, live.number)
        return previous

    def _alias(self, alias: str) -> Version | None:
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version_by_alias(MODEL, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return Version(found.version, dict(found.tags))

    def _versions(self) -> list[Any]:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return list(self.client.search_model_versions(f"name = '{MODEL}'"))
