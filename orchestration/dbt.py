"""The dbt project as Dagster sees it: every column with its meaning, its unit, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import AssetKey, TableColumn, TableColumnDep, TableColumnLineage, TableSchema
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, DbtProject

from ml.artifacts import read_json
from orchestration.lineage import DBT_DIR, LINEAGE
from orchestration.settings import SettingsError

DBT_PROJECT = DbtProject(project_dir=DBT_DIR, profiles_dir=DBT_DIR)
for _path in (DBT_PROJECT.manifest_path, LINEAGE):
    if not _path.is_file():
        raise SettingsError(f"{_path} does not exist: run `make manifest`")
_MANIFEST = read_json(DBT_PROJECT.manifest_path)
_NODES: dict[str, dict[str, Any]] = _MANIFEST["nodes"] | _MANIFEST["sources"]
_LINEAGE = read_json(LINEAGE)


class _Translator(DagsterDbtTranslator):
    def get_metadata(self, dbt_resource_props: Mapping[str, Any]) -> Mapping[str, Any]:
        metadata = dict(super().get_metadata(dbt_resource_props))
        if schema := column_schema(dbt_resource_props):
            metadata["dagster/column_schema"] = schema
        if lineage := _LINEAGE.get(dbt_resource_props["unique_id"]):
            metadata["dagster/column_lineage"] = TableColumnLineage(
                {
                    column: [TableColumnDep(self._key_of(parent), name) for parent, name in parents]
                    for column, parents in lineage.items()
                }
            )
        return metadata

    def _key_of(self, unique_id: str) -> AssetKey:
        return self.get_asset_key(_NODES[unique_id])


def column_schema(node: Mapping[str, Any]) -> TableSchema | None:
    """Return the columns of a dbt node with type, meaning and unit; None where its yml names none."""
    columns = node.get("columns", {})
    if not columns:
        return None
    return TableSchema(
        [
            TableColumn(name, column.get("data_type") or "?", _meaning(column))
            for name, column in columns.items()
        ]
    )


def source_metadata(table: str) -> dict[str, Any]:
    """Return the definition metadata of the asset that leaves a table of the lake."""
    return {"dagster/column_schema": column_schema(_NODES[f"source.tessera.lake.{table}"])}


def _meaning(column: Mapping[str, Any]) -> str:
    meta = {**column.get("meta", {}), **column.get("config", {}).get("meta", {})}
    unit = meta.get("unit")
    description: str = column.get("description") or ""
    return f"{description} [{unit}]" if unit else description


TRANSLATOR = _Translator(
    settings=DagsterDbtTranslatorSettings(enable_asset_checks=True, enable_source_tests_as_checks=True)
)
