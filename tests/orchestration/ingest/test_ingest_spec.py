from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from landed import DAILY

from orchestration.ingest.errors import IngestError
from orchestration.ingest.spec import SourceSpec, day_format, load_spec, spec_names

SHIPPED = [
    "amazon-beauty-2014",
    "amazon-sports-2014",
    "deskdrop",
    "ml-100k",
    "simulator",
    "trivago-2019-100k",
]


def test_shipped_sources_are_known() -> None:
    assert spec_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_source_is_valid_and_named_like_its_file(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    assert set(spec.history_event_types) <= spec.events.produced_types


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(IngestError) as caught:
        load_spec("netflix")
    assert str(caught.value) == (
        f"unknown source 'netflix'; known are {', '.join(SHIPPED)}, or give the path of a .yaml file"
    )


def test_path_of_a_missing_spec(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=r"mine\.yaml: there is no such source spec$"):
        load_spec(tmp_path / "mine.yaml")


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_path_of_a_spec_is_read(tmp_path: Path) -> None:
    assert load_spec(str(write(tmp_path, DAILY))) == SourceSpec.model_validate(DAILY)


def changed(**events: Any) -> dict[str, Any]:
    return DAILY | {"events": DAILY["events"] | events}


COLUMNS = DAILY["events"]["columns"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: [", "not valid YAML: "),
        ("just text", "Input should be a valid dictionary or instance of SourceSpec"),
        (DAILY | {"nmae": "x"}, "nmae: Extra inputs are not permitted"),
        ({k: v for k, v in DAILY.items() if k != "start_date"}, "start_date: Field required"),
        (DAILY | {"end_date": "2024-01-01"}, "end_date is before start_date"),
        (DAILY | {"name": "../shop"}, "name: String should match pattern"),
        (
            DAILY | {"history_event_types": ["like"], "events": changed(event_types={"V": "view"})["events"]},
            "history_event_types: no event of this source becomes like",
        ),
        (changed(path="/etc/{day}.jsonl"), "events.path: must be a path below the data folder"),
        (changed(path="../{day}.jsonl"), "events.path: must be a path below the data folder"),
        (changed(path="{dya}.jsonl"), "events.path: may hold one placeholder, {day} or {day:FORMAT}"),
        (
            changed(path="{day:%Y-%m}.jsonl"),
            "events.path: the format of {day} needs each of %Y, %m and %d once",
        ),
        (changed(format="xml"), "events.format: Input should be 'csv', 'tsv', 'jsonl' or 'parquet'"),
        (changed(delimiter=";"), "events: delimiter, quote and header are for csv and tsv"),
        (changed(time_unit="h"), "events.time_unit: Input should be 's', 'ms', 'us' or 'iso'"),
        (changed(event_types={"VIEW": "veiw"}), "events.event_types.VIEW: Input should be 'impression', "),
        (
            changed(columns={k: v for k, v in COLUMNS.items() if k != "user_id"}),
            "events.columns.user_id: Field required",
        ),
        (
            changed(columns=COLUMNS | {"user_id": {"constant": "u", "column": "user"}}),
            "events.columns.user_id: needs exactly one of column, constant",
        ),
        (
            changed(columns=COLUMNS | {"event_type": {"constant": "veiw"}}),
            "events: columns.event_type.constant: 'veiw' is not an event type of this source",
        ),
        (
            changed(columns={k: v for k, v in COLUMNS.items() if k != "item_id"}),
            "events: columns.item_id: needed by every event type but search",
        ),
        (
            changed(filters=[{"column": "type", "in": ["a"], "not_in": ["b"]}]),
            "events.filters.0: needs exactly one of in, not_in",
        ),
        (
            changed(natural_key=["id"]),
            "events: natural_key and repeats are for sources without an event_id column",
        ),
    ],
)
def test_malformed_spec_is_told_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(IngestError) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_more_problems_are_counted(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=r"a: Extra inputs are not permitted \(and 1 more\)$"):
        load_spec(write(tmp_path, DAILY | {"a": 1, "b": 2}))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("x.csv", None), ("{day}.csv", "%Y-%m-%d"), ("{day:%Y/%m/%d}/part-*.csv", "%Y/%m/%d")],
)
def test_day_format(pattern: str, expected: str | None) -> None:
    assert day_format(pattern) == expected
