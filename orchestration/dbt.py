"""The dbt project as Dagster sees it."""

from __future__ import annotations

from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, DbtProject

from orchestration.settings import REPO, SettingsError

DBT_DIR = REPO / "dbt_project"
DBT_PROJECT = DbtProject(project_dir=DBT_DIR, profiles_dir=DBT_DIR)
TRANSLATOR = DagsterDbtTranslator(
    settings=DagsterDbtTranslatorSettings(enable_asset_checks=True, enable_source_tests_as_checks=True)
)
if not DBT_PROJECT.manifest_path.is_file():
    raise SettingsError(f"{DBT_PROJECT.manifest_path} does not exist: run `make manifest`")
