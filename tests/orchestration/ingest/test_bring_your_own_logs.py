"""The example of docs/bring-your-own-logs.md, run as it stands there."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
from landed import Home

from orchestration.ingest.errors import IngestError
from orchestration.ingest.spec import (
    Column,
    EventColumns,
    EventsSpec,
    ItemColumns,
    ItemsSpec,
    ListColumn,
    SourceSpec,
    load_spec,
)

PAGE = (Path(__file__).parents[3] / "docs" / "bring-your-own-logs.md").read_text(encoding="utf-8")
DAY = date(2025, 3, 1)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def bookshop(home: Home) -> SourceSpec:
    """The example's spec; its files are in the landing folder."""
    clicks, books = blocks("csv")
    (home.landing / "clicks").mkdir()
    (home.landing / "clicks" / f"{DAY}.csv").write_text(clicks)
    (home.landing / "books.csv").write_text(books)
    (home.root / "bookshop.yaml").write_text(blocks("yaml")[0])
    return load_spec(home.root / "bookshop.yaml")


def test_example_stops_as_the_page_says(home: Home, bookshop: SourceSpec) -> None:
    with pytest.raises(IngestError) as caught:
        home.ingest(bookshop)
    assert str(caught.value) == blocks("text")[0].strip()


def test_example_yields_what_the_page_says(home: Home, bookshop: SourceSpec) -> None:
    report = home.ingest(bookshop, max_bad_share=0.5)
    assert (report.read, report.accepted, report.quarantined, report.filtered) == (6, 3, 3, 1)
    rows = home.events(str(DAY))
    assert [(r["user_id"], r["event_type"], r["item_id"], r["query"], r["value"]) for r in rows] == [
        ("anna", "view", "978-1", None, None),
        ("anna", "search", None, "tea, green", None),
        ("anna", "purchase", "978-2", None, 12.5),
    ]
    assert [(r["source_row"], r["reason"]) for r in home.rejected(str(DAY))] == [
        (4, "missing_user"),
        (6, "unknown_type"),
        (7, "unparsable_time"),
    ]


def test_example_catalogue(home: Home, bookshop: SourceSpec) -> None:
    home.ingest_items(bookshop)
    assert [(i["title"], i["categories"], i["price"], i["attributes"]) for i in home.items()] == [
        ("The Teapot", ["Home", "Kitchen"], 8.9, [("year", "2019")]),
        ("Green Tea", ["Home", "Garden"], 12.5, [("year", "2021")]),
    ]


@pytest.mark.parametrize(
    "model", [SourceSpec, EventsSpec, ItemsSpec, EventColumns, ItemColumns, Column, ListColumn]
)
def test_page_names_every_field(model: type[SourceSpec]) -> None:
    missing = [name for name in model.model_fields if f"`{name}`" not in PAGE and f"`{name}: " not in PAGE]
    assert missing == []


def test_page_names_every_reason() -> None:
    package = Path(__file__).parents[3] / "orchestration" / "ingest"
    sources = "".join((package / f"{name}.py").read_text() for name in ("fields", "staging"))
    reasons = set(re.findall(r"THEN '([a-z]+_[a-z0-9_]+)'", sources))
    assert len(reasons) == 15
    assert {reason for reason in reasons if f"`{reason}`" not in PAGE} == set()
