"""Landed catalogue files to the lake's item table."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import duckdb

from ml.artifacts import hash_json
from orchestration.ingest.errors import IngestError
from orchestration.ingest.fields import Rows, open_file, stage_file, used_columns
from orchestration.ingest.files import LandedFile, find_files
from orchestration.ingest.gate import check_bad_share, staged_faults
from orchestration.ingest.lake import (
    publish_lake,
    publish_quarantine,
    rejected_columns,
    workshop,
)
from orchestration.ingest.lines import Limits
from orchestration.ingest.parquet import write_days
from orchestration.ingest.report import DayReport, IngestReport, total
from orchestration.ingest.spec import Column, ItemsSpec, ListColumn, SourceSpec
from orchestration.ingest.sql import literal
from orchestration.ingest.staging import STAGED_ITEMS, staged_items

ITEMS = "items.parquet"
_TABLE = "staged_items"


def ingest_items(
    spec: SourceSpec,
    data_dir: Path,
    lake: Path,
    quarantine: Path,
    max_bad_share: float = 0.05,
    memory_limit: str = "1GB",
    threads: int = 2,
    limits: Limits | None = None,
) -> IngestReport:
    """Bring a source's whole catalogue into ``lake/items``, and its bad rows into ``quarantine/items``.

    Every version of an item stays, in the order of files and rows; which one counts is for the warehouse to say.
    A source without a catalogue leaves a table without rows.

    Parameters
    ----------
    spec
        The source.
    data_dir
        Folder of its files.
    lake, quarantine
        Roots.
    max_bad_share
        Highest share of bad rows that passes, over all files.
    memory_limit, threads
        What DuckDB may use.
    limits
        How much a compressed file may grow.

    Returns
    -------
    IngestReport
        Counts, in total only.

    Raises
    ------
    IngestError
        If a file is missing, empty, corrupt or lacks a column, if too many rows are bad, or if the disk refuses.
    """
    items = spec.items
    files = [] if items is None else find_files(items.path, data_dir)
    if items is not None and not files:
        raise IngestError(f"{data_dir / items.path}: there is no such file")
    with workshop(lake, memory_limit, threads) as (connection, folder):
        connection.create_function("unescape_html", html.unescape, ["VARCHAR"], "VARCHAR")
        connection.execute(STAGED_ITEMS)
        read = sum(_stage(connection, items, n, file, limits) for n, file in enumerate(files)) if items else 0
        if items is not None:
            rows, faults = staged_faults(connection, _TABLE)
            check_bad_share(connection, rows, faults, files, items, [items.columns.item_id], max_bad_share)
        report = _count(connection)
        accepted, refused = folder / "accepted.parquet", folder / "refused.parquet"
        write_days(connection, _accepted(spec), lambda _: accepted, empty=accepted)
        write_days(connection, _rejected(spec), lambda _: refused)
        report.changed = publish_lake(accepted, lake / "items" / ITEMS, _manifest(spec, files, report))
        report.changed |= publish_quarantine(refused, quarantine / "items")
    summed = total(spec.name, {"items": report}, read - report.read)
    return summed.model_copy(update={"days": {}})


def _stage(
    connection: duckdb.DuckDBPyConnection,
    items: ItemsSpec,
    number: int,
    file: LandedFile,
    limits: Limits | None,
) -> int:
    columns = items.columns
    origins: list[Column | ListColumn | None] = [
        getattr(columns, name) for name in type(columns).model_fields if name != "attributes"
    ]
    objects = [columns.attributes] if isinstance(columns.attributes, str) else []
    if isinstance(columns.attributes, dict):
        origins += columns.attributes.values()
    opened = open_file(connection, file, items, used_columns(origins, items.filters, objects), limits)

    def select(rows: Rows) -> str:
        return staged_items(items, rows, number, file.name, file.day)

    read = 0 if opened is None else stage_file(connection, file, opened, _TABLE, select)
    if not read:
        raise IngestError(f"{file.name}: the file holds no rows")
    return read


def _count(connection: duckdb.DuckDBPyConnection) -> DayReport:
    groups = connection.execute(f"SELECT reason, count(*) FROM {_TABLE} GROUP BY ALL ORDER BY ALL").fetchall()
    reasons = {reason: rows for reason, rows in groups if reason is not None}
    read = sum(rows for _, rows in groups)
    bad = sum(reasons.values())
    return DayReport(read=read, accepted=read - bad, quarantined=bad, reasons=reasons)


def _accepted(spec: SourceSpec) -> str:
    return f"""
        SELECT CAST(NULL AS DATE), item_id, title, description, brand, categories, price, attributes, valid_from,
            {literal(spec.name)} AS source, source_file, source_row
        FROM {_TABLE} WHERE reason IS NULL ORDER BY file_no, source_row"""


def _rejected(spec: SourceSpec) -> str:
    return f"""
        SELECT CAST(NULL AS DATE), {rejected_columns(spec.name)}
        FROM {_TABLE} WHERE reason IS NOT NULL ORDER BY file_no, source_row"""


def _manifest(spec: SourceSpec, files: list[LandedFile], report: DayReport) -> dict[str, Any]:
    return {
        "source": spec.name,
        "spec_hash": hash_json(spec.model_dump(mode="json", include={"name", "items"})),
        "files": [{"name": file.name, "bytes": file.bytes} for file in files],
        **report.model_dump(include={"read", "accepted", "quarantined", "reasons"}),
    }
