from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq
import pytest
from landed import DAILY, Home, spec_of, write_lines

from orchestration.ingest.errors import IngestError
from orchestration.ingest.spec import SourceSpec

ITEMS: dict[str, Any] = {
    "path": "items/{day}.jsonl",
    "format": "jsonl",
    "time_unit": "ms",
    "columns": {
        "item_id": "id",
        "title": "title",
        "description": "about",
        "brand": "brand",
        "categories": "categories",
        "price": "price",
        "attributes": "attributes",
        "valid_from": "ts",
    },
}


def spec_with(**items: Any) -> SourceSpec:
    return spec_of(DAILY, ITEMS | items)


def land(home: Home, *items: dict[str, Any], day: str = "2025-03-01") -> None:
    write_lines(home.landing / "items" / f"{day}.jsonl", [json.dumps(item).encode() for item in items])


def test_item_is_stored_as_the_contract_says(home: Home) -> None:
    full = {
        "id": "i1",
        "title": "Tea & pot",
        "about": "for tea",
        "brand": "Ming",
        "categories": ["Kitchen", "Pots"],
        "price": 9.5,
        "attributes": {"colour": "blue", "litres": 2},
        "ts": 1740787200123,
    }
    land(home, full, {"id": "i2"})
    report = home.ingest_items(spec_with())
    schema = pq.ParquetFile(home.root / "lake/items/items.parquet").schema_arrow
    assert schema.names == [
        "item_id",
        "title",
        "description",
        "brand",
        "categories",
        "price",
        "attributes",
        "valid_from",
        "source",
        "source_file",
        "source_row",
    ]
    assert [str(schema.field(n).type) for n in ("categories", "attributes", "valid_from")] == [
        "list<element: string>",
        "map<string, string ('attributes')>",
        "timestamp[us, tz=UTC]",
    ]
    first, second = home.items()
    assert first == {
        "item_id": "i1",
        "title": "Tea & pot",
        "description": "for tea",
        "brand": "Ming",
        "categories": ["Kitchen", "Pots"],
        "price": 9.5,
        "attributes": [("colour", "blue"), ("litres", "2")],
        "valid_from": datetime(2025, 3, 1, 0, 0, 0, 123_000, UTC),
        "source": "shop",
        "source_file": "items/2025-03-01.jsonl",
        "source_row": 1,
    }
    assert (second["title"], second["categories"], second["attributes"]) == (None, [], None)
    assert second["valid_from"] == datetime(2025, 3, 1, tzinfo=UTC)
    assert (report.read, report.accepted, report.days) == (2, 2, {})


def test_every_version_of_an_item_stays_in_order(home: Home) -> None:
    land(home, {"id": "i1", "title": "new"}, day="2025-03-02")
    land(home, {"id": "i1", "title": "old"}, {"id": "i1", "title": "older"})
    home.ingest_items(spec_with())
    assert [item["title"] for item in home.items()] == ["old", "older", "new"]


@pytest.mark.parametrize(
    ("given", "origin", "expected"),
    [
        ([["A", "B"], ["C"]], "c", ["A", "B"]),
        (["A", None, " ", " B "], "c", ["A", "B"]),
        ("A", "c", ["A"]),
        (7, "c", ["7"]),
        ("[not json", "c", ["[not json"]),
        (None, "c", []),
        ([], "c", []),
        ("A, B,,A", {"column": "c", "split": ","}, ["A", "B", "A"]),
        (["Root", "A"], {"column": "c", "drop": ["Root"]}, ["A"]),
        (["Ming", "A"], {"column": "c", "without": "brand"}, ["A"]),
    ],
)
def test_categories(home: Home, given: Any, origin: Any, expected: list[str]) -> None:
    land(home, {"id": "i1", "brand": "Ming", "c": given})
    home.ingest_items(spec_with(columns={"item_id": "id", "brand": "brand", "categories": origin}))
    assert home.items()[0]["categories"] == expected


def test_brand_is_the_first_element_unless_that_is_no_brand(home: Home) -> None:
    land(
        home,
        {"id": "1", "a": ["Ming", "Pots"]},
        {"id": "2", "a": ["Pots", "Tea"]},
        {"id": "3", "a": []},
        {"id": "4"},
    )
    brand = {"column": "a", "first": True, "nulls": ["Pots"]}
    columns = {"item_id": "id", "brand": brand, "categories": {"column": "a", "without": "brand"}}
    home.ingest_items(spec_with(columns=columns))
    assert [(i["brand"], i["categories"]) for i in home.items()] == [
        ("Ming", ["Pots"]),
        (None, ["Pots", "Tea"]),
        (None, []),
        (None, []),
    ]


def test_html_entities(home: Home) -> None:
    land(home, {"id": "1", "title": "L&#39;Or &amp; &lt;", "brand": "B&reg;", "categories": ["a &amp; b"]})
    home.ingest_items(spec_with())
    assert home.items()[0]["title"] == "L&#39;Or &amp; &lt;"
    home.ingest_items(spec_with(unescape_html=True))
    (item,) = home.items()
    assert (item["title"], item["brand"], item["categories"]) == ("L'Or & <", "B®", ["a & b"])


def test_attributes_by_name(home: Home) -> None:
    land(home, {"id": "1", "y": 1995, "it's": "x"}, {"id": "2"})
    home.ingest_items(spec_with(columns={"item_id": "id", "attributes": {"year": "y", "o'clock": "it's"}}))
    assert [item["attributes"] for item in home.items()] == [[("year", "1995"), ("o'clock", "x")], []]


def test_bad_items_are_quarantined(home: Home) -> None:
    good = [{"id": f"i{n}"} for n in range(5)]
    bad: list[tuple[dict[str, Any], str]] = [
        ({"title": "x"}, "missing_item"),
        ({"id": "a", "price": "dear"}, "unparsable_number"),
        ({"id": "b", "ts": "now"}, "unparsable_time"),
        ({"id": "c", "attributes": [1]}, "malformed_attributes"),
        ({"id": "d", "title": "x" * 150_000}, "oversized_field"),
        ({"id": "e", "title": "x" * 250_000}, "oversized_line"),
    ]
    land(home, *good, *(item for item, _ in bad))
    report = home.ingest_items(spec_with(), max_bad_share=0.6)
    assert [(r["source_row"], r["reason"]) for r in home.rejected_items()] == [
        (6 + n, reason) for n, (_, reason) in enumerate(bad)
    ]
    assert (report.read, report.accepted, len(home.items())) == (11, 5, 5)
    land(home, *good)
    home.ingest_items(spec_with())
    assert not (home.root / "quarantine/items").exists()


def test_source_without_catalogue_leaves_an_empty_table(home: Home) -> None:
    report = home.ingest_items(spec_of(DAILY))
    assert (report.read, home.items()) == (0, [])
    assert (home.root / "lake/items/manifest.json").is_file()


def test_unchanged_catalogue_is_left_alone(home: Home) -> None:
    land(home, {"id": "i1"})
    assert home.ingest_items(spec_with()).changed
    assert not home.ingest_items(spec_with()).changed


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "items/{day}.jsonl: there is no such file"),
        ([], "items/2025-03-01.jsonl: the file holds no rows"),
        ([b'{"sku":"1"}'], "items/2025-03-01.jsonl: no column 'id'; the columns are sku"),
        (
            [b'{"id":"1"}', b"{"],
            "items/2025-03-01.jsonl: 1 of 2 rows (50.0%) are bad, 5.0% are allowed; "
            "most often malformed_json (first in row 2: not a JSON object)",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(home: Home, lines: list[bytes] | None, message: str) -> None:
    if lines is not None:
        write_lines(home.landing / "items/2025-03-01.jsonl", lines)
    with pytest.raises(IngestError) as caught:
        home.ingest_items(spec_with())
    assert str(caught.value).removeprefix(f"{home.landing}/") == message
    assert not (home.root / "lake/items").exists()
