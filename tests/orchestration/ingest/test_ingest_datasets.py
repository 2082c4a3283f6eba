"""The shipped sources on the real logs that they describe."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import duckdb
import pytest

from orchestration.ingest.events import available_days, ingest_events
from orchestration.ingest.items import ingest_items
from orchestration.ingest.report import IngestReport
from orchestration.ingest.spec import load_spec

REPOSITORY = Path(__file__).parents[3]
DATASETS = Path(os.environ.get("TESSERA_DATASETS", REPOSITORY.parent / "shared" / "datasets"))

pytestmark = pytest.mark.datasets

Ingested = Callable[[str], tuple[Path, IngestReport]]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    """Ingest a source once for all tests; returns where its lake is, and the report."""

    @cache
    def ingest(name: str) -> tuple[Path, IngestReport]:
        folder = DATASETS / name
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there; set TESSERA_DATASETS")
        spec, root = load_spec(name), tmp_path_factory.mktemp(name)
        lake, quarantine = root / "lake", root / "quarantine"
        ingest_items(spec, folder, lake, quarantine)
        return lake, ingest_events(spec, folder, available_days(spec, folder), lake, quarantine)

    return ingest


def one(lake: Path, query: str) -> tuple[object, ...]:
    events = f"read_parquet('{lake}/events/day=*/events.parquet')"
    items = f"read_parquet('{lake}/items/items.parquet')"
    row: tuple[object, ...] = duckdb.sql(query.format(events=events, items=items)).fetchall()[0]
    return row


@pytest.mark.parametrize(
    ("name", "read", "accepted", "filtered", "users", "items", "ids", "catalogue"),
    [
        ("amazon-beauty-2014", 198_502, 198_502, 0, 22_363, 12_101, 198_502, 12_101),
        ("amazon-sports-2014", 296_337, 296_337, 0, 35_598, 18_357, 296_337, 18_357),
        ("ml-100k", 100_000, 100_000, 0, 943, 1_682, 100_000, 1_682),
        ("deskdrop", 72_312, 72_312, 0, 1_895, 2_987, 70_028, 0),
        ("trivago-2019-100k", 91_752, 91_748, 8_251, 6_593, 13_949, 91_748, 0),
    ],
)
def test_counts(
    ingested: Ingested,
    name: str,
    read: int,
    accepted: int,
    filtered: int,
    users: int,
    items: int,
    ids: int,
    catalogue: int,
) -> None:
    lake, report = ingested(name)
    assert (report.read, report.accepted, report.filtered) == (read, accepted, filtered)
    columns = "count(*), count(DISTINCT user_id), count(DISTINCT item_id), count(DISTINCT event_id)"
    assert one(lake, f"SELECT {columns} FROM {{events}}") == (accepted, users, items, ids)
    assert one(lake, "SELECT count(*), count(DISTINCT item_id) FROM {items}") == (catalogue, catalogue)


def test_beauty_keeps_the_order_of_the_file_within_a_day(ingested: Ingested) -> None:
    lake, _ = ingested("amazon-beauty-2014")
    with gzip.open(DATASETS / "amazon-beauty-2014" / "interactions.csv.gz", "rt") as file:
        expected: dict[str, list[str]] = {}
        for row in csv.DictReader(file):
            expected.setdefault(row["user_id"], []).append(row["asin"])
    events = f"read_parquet('{lake}/events/day=*/events.parquet')"
    found = duckdb.sql(
        f"SELECT user_id, list(item_id ORDER BY event_ts, arrival_date, source_file, source_row) FROM {events} GROUP BY ALL"
    ).fetchall()
    assert dict(found) == expected


def test_beauty_brands_are_brands(ingested: Ingested) -> None:
    lake, _ = ingested("amazon-beauty-2014")
    brands, named = one(
        lake,
        "SELECT count(brand), count(*) FILTER (contains(lower(title), lower(split_part(brand, ' ', 1)))) FROM {items}",
    )
    assert (brands, round(int(str(named)) / int(str(brands)), 2)) == (7_456, 0.9)
    # A pair of scissors is of the brand "Scissors".
    assert one(
        lake, "SELECT count(*), any_value(brand) FROM {items} WHERE list_contains(categories, brand)"
    ) == (
        1,
        "Scissors",
    )


def test_ml_100k_items(ingested: Ingested) -> None:
    lake, _ = ingested("ml-100k")
    assert one(
        lake, "SELECT item_id, title, categories, attributes['year'] FROM {items} WHERE item_id = '1'"
    ) == (
        "1",
        "Toy Story",
        ["Animation", "Children's", "Comedy"],
        "1995",
    )
