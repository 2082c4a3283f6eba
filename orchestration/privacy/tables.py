"""Parquet files without some of their rows; each is replaced in one step, or stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml.artifacts import MANIFEST, hash_file, publish, read_json, write_bytes, write_json
from orchestration.ingest.events import EVENTS
from orchestration.ingest.lake import REJECTED, remove
from orchestration.ingest.parquet import write_file
from orchestration.privacy.search import concerns, parquet_concerns

# Reasons of quarantined rows whose user cannot be told, so that it may be anybody.
UNREADABLE = ("bad_utf8", "malformed_csv", "malformed_json", "missing_user", "oversized_line")


def erase_days(lake: Path, quarantine: Path, users: Collection[str], daily: bool) -> int:
    """Take users out of lake and quarantine, day by day; return how many rows went.

    Files and manifests become what ingestion makes of the same landing files once the users are on the list of the
    erased, so that ingesting them again changes nothing.

    Parameters
    ----------
    lake, quarantine
        Roots.
    users
        Ids as they stand in the lake.
    daily
        Whether each day is a landed file, whose partition stays even without a row.
    """
    gone = 0
    names = {path.name for root in (lake, quarantine) for path in (root / "events").glob("day=*")}
    for name in sorted(names):
        gone += _erase_day(lake / "events" / name, quarantine / "events" / name, users, daily)
    return gone


def erase_rows(path: Path, users: Collection[str]) -> int:
    """Take users out of any Parquet file; return how many rows went. The file changes in one step."""
    if not parquet_concerns(path, users):
        return 0
    table = pq.read_table(path)
    kept = table.filter(pc.invert(concerns(table, users)))
    sink = pa.BufferOutputStream()
    pq.write_table(kept, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())
    return int(table.num_rows - kept.num_rows)


def _erase_day(day: Path, rejected: Path, users: Collection[str], daily: bool) -> int:
    """Quarantine first and the lake's manifest last, which is counted from both: so it can be done again."""
    gone = _erase_rejected(rejected, users)
    if not (day / EVENTS).is_file():
        return gone
    table = pq.read_table(day / EVENTS)
    about = concerns(table, users)
    kept = table.filter(pc.invert(about))
    manifest = read_json(day / MANIFEST)
    recounted = _recounted(manifest, kept, _reasons(rejected))
    if kept.num_rows == table.num_rows and recounted == manifest:
        return gone
    if not kept.num_rows and not daily:
        remove(day)
        return gone + table.num_rows
    with publish(day) as folder:
        write_file(folder / EVENTS, kept.schema, kept.combine_chunks().to_batches())
        write_json(folder / MANIFEST, recounted | {"content_hash": hash_file(folder / EVENTS)})
    return gone + int(table.num_rows - kept.num_rows)


def _erase_rejected(folder: Path, users: Collection[str]) -> int:
    """Take users out of a partition of the quarantine, and any text whose user nobody can tell."""
    if not (folder / REJECTED).is_file():
        return 0
    table = pq.read_table(folder / REJECTED)
    unreadable = pc.is_in(table["reason"], value_set=pa.array(UNREADABLE))
    told = pc.if_else(unreadable, pa.scalar(None, pa.string()), table["raw"])
    hidden = table.set_column(table.schema.get_field_index("raw"), "raw", told)
    kept = hidden.filter(pc.invert(concerns(hidden, users)))
    if not kept.num_rows:
        remove(folder)
    elif kept.num_rows < table.num_rows or told.null_count > table["raw"].null_count:
        with publish(folder) as staging:
            write_file(staging / REJECTED, kept.schema, kept.combine_chunks().to_batches())
    return int(table.num_rows - kept.num_rows)


def _reasons(rejected: Path) -> Counter[str]:
    """Count the reasons in a partition of the quarantine."""
    if not (rejected / REJECTED).is_file():
        return Counter()
    return Counter(pq.read_table(rejected / REJECTED, columns=["reason"])["reason"].to_pylist())


def _recounted(manifest: dict[str, Any], kept: pa.Table, reasons: Counter[str]) -> dict[str, Any]:
    """Return a day's manifest with what is counted from its rows counted anew; what is missing of them was erased."""
    dates = pc.min_max(kept["event_ts"].cast(pa.date32())).as_py()
    counts: dict[str, Any] = {
        "accepted": kept.num_rows,
        "quarantined": reasons.total(),
        "reasons": dict(sorted(reasons.items())),
        "min_event_date": str(dates["min"]) if dates["min"] else None,
        "max_event_date": str(dates["max"]) if dates["max"] else None,
    }
    erased = manifest["read"] - kept.num_rows - reasons.total()
    return manifest | counts | ({"erased": erased} if erased else {})
