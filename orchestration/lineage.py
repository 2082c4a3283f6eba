"""Column lineage of the dbt project, read from its compiled SQL: ``python -m orchestration.lineage``.

dagster-dbt can find it during a build, at many seconds a build and through a connection to the warehouse. It changes
only when the project does, so it is found once, beside dbt's manifest, and Dagster shows it with the definitions.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ml.artifacts import ArtifactError, read_json, write_json
from orchestration.settings import REPO

DBT_DIR = REPO / "dbt_project"
LINEAGE = DBT_DIR / "target" / "column_lineage.json"

Lineage = dict[str, dict[str, list[tuple[str, str]]]]
"""Unique id of a model, to its columns, to the columns that each is made from: unique id of their node, and name."""


class LineageError(Exception):
    """The lineage cannot be found; the message is one line."""


def column_lineage(manifest: Mapping[str, Any]) -> Lineage:
    """Return which columns of other nodes each column of each model is made from.

    Parameters
    ----------
    manifest
        A dbt manifest with compiled SQL, and with the columns of every source.

    Raises
    ------
    LineageError
        If the SQL of a model cannot be understood; the message names it.
    """
    models = {key: node for key, node in manifest["nodes"].items() if node["resource_type"] == "model"}
    nodes = manifest["sources"] | models
    columns = {key: list(source["columns"]) for key, source in manifest["sources"].items()}
    found: Lineage = {}
    for key in TopologicalSorter({k: n["depends_on"]["nodes"] for k, n in models.items()}).static_order():
        if key not in models:
            continue
        parents = models[key]["depends_on"]["nodes"]
        sql = models[key]["compiled_code"]
        for number, parent in enumerate(parents):
            sql = sql.replace(nodes[parent]["relation_name"], f"parent_{number}")
        tables = {f"parent_{number}": parent for number, parent in enumerate(parents)}
        found[key] = _lineage_of(
            key, sql, tables, {t: columns[p] for t, p in tables.items()}, manifest["metadata"]["adapter_type"]
        )
        columns[key] = list(found[key])
    return found


def _lineage_of(
    key: str, sql: str, tables: Mapping[str, str], columns: Mapping[str, list[str]], dialect: str
) -> dict[str, list[tuple[str, str]]]:
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError
    from sqlglot.lineage import lineage
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope

    schema = {table: dict.fromkeys(names, "unknown") for table, names in columns.items()}
    try:
        tree = qualify(
            parse_one(sql, dialect=dialect), schema=schema, dialect=dialect, validate_qualify_columns=False
        )
        scope = build_scope(tree)
        return {
            column: sorted(
                set(_leaves(lineage(column, tree, scope=scope, dialect=dialect, copy=False), tables))
            )
            for column in (tree.named_selects if isinstance(tree, exp.Query) else ())
        }
    except SqlglotError as error:
        raise LineageError(f"{key}: {' '.join(str(error).split())}") from error


def _leaves(root: Any, tables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    from sqlglot import exp

    for node in root.walk():
        if isinstance(node.expression, exp.Table) and node.expression.name in tables:
            yield tables[node.expression.name], node.name.rpartition(".")[2].strip('"')


def compiled_manifest() -> dict[str, Any]:
    """Compile the project against an empty warehouse, as a full build would, and return its manifest.

    Raises
    ------
    LineageError
        If dbt cannot compile it.
    """
    with tempfile.TemporaryDirectory() as home:
        folders: list[str | Path] = [
            "--project-dir",
            DBT_DIR,
            "--profiles-dir",
            DBT_DIR,
            "--target-path",
            f"{home}/target",
        ]
        done = subprocess.run(
            [Path(sys.executable).with_name("dbt"), "--quiet", "compile", "--no-introspect", *folders],
            env=os.environ | {"TESSERA_HOME": home, "DO_NOT_TRACK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LineageError(f"dbt compile failed: {' '.join((done.stdout + done.stderr).split())}")
        manifest: dict[str, Any] = read_json(Path(home) / "target" / "manifest.json")
    return manifest


def main() -> int:
    """Write the lineage beside the manifest; return the exit code."""
    try:
        write_json(LINEAGE, column_lineage(compiled_manifest()))
    except (LineageError, ArtifactError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
