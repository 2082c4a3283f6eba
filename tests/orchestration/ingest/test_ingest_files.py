from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from orchestration.ingest.errors import IngestError
from orchestration.ingest.files import expected_name, find_files


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(pattern: str, folder: Path) -> list[tuple[str, date | None]]:
    return [(file.name, file.day) for file in find_files(pattern, folder)]


def test_daily_files_are_found_by_their_day(tmp_path: Path) -> None:
    touch(tmp_path, "events/2025-03-02.jsonl", "events/2025-03-01.jsonl", "events/2025-02-30.jsonl")
    touch(tmp_path, "events/.2025-03-03.jsonl", "events/2025-03-04.jsonl.part", "events/old/2025-03-05.jsonl")
    assert found("events/{day}.jsonl", tmp_path) == [
        ("events/2025-03-01.jsonl", date(2025, 3, 1)),
        ("events/2025-03-02.jsonl", date(2025, 3, 2)),
    ]


def test_days_may_be_folders_with_several_files(tmp_path: Path) -> None:
    touch(tmp_path, "2025/03/01/b.csv", "2025/03/01/a.csv", "2025/03/02/a.csv", "2025/03/02/deep/a.csv")
    assert found("{day:%Y/%m/%d}/*.csv", tmp_path) == [
        ("2025/03/01/a.csv", date(2025, 3, 1)),
        ("2025/03/01/b.csv", date(2025, 3, 1)),
        ("2025/03/02/a.csv", date(2025, 3, 2)),
    ]


def test_names_are_taken_literally(tmp_path: Path) -> None:
    touch(tmp_path, "a.b[1].csv", "aXb[1].csv", "a.b1.csv")
    assert found("a.b[1].csv", tmp_path) == [("a.b[1].csv", None)]


def test_expected_name() -> None:
    assert expected_name("e/{day}.csv", date(2025, 3, 1)) == "e/2025-03-01.csv"
    assert expected_name("{day:%Y%m%d}-*.csv", date(2025, 3, 1)) == "20250301-*.csv"


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=r"nowhere: there is no such folder of landing files$"):
        find_files("{day}.csv", tmp_path / "nowhere")
