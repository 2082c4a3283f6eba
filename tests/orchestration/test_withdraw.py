"""Items withdrawn by command, and the lists of the next night without them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.settings import get_settings
from serving.withdrawn import WithdrawnItems


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    get_settings.cache_clear()
    (tmp_path / "marts").mkdir()
    pq.write_table(pa.table({"item_id": ["a", "b", "c"]}), tmp_path / "marts" / "dim_items.parquet")
    return tmp_path


def test_withdraw_and_restore(home: Path) -> None:
    assert CliRunner().invoke(app, ["withdraw", "a", "b"]).output == "withdrawn: a, b\n"
    assert WithdrawnItems(home).now() == {"a", "b"}
    assert CliRunner().invoke(app, ["restore", "a"]).exit_code == 0
    assert WithdrawnItems(home).now() == {"b"}


def test_a_damaged_file_is_told_in_one_line(home: Path) -> None:
    (home / "withdrawn.json").write_text("{}")
    for command in ("withdraw", "restore"):
        done = CliRunner().invoke(app, [command, "a"])
        assert done.exit_code == 1
        assert done.output == f"error: {home / 'withdrawn.json'} is no file of withdrawn items\n"


def test_a_mistyped_item_changes_nothing(home: Path) -> None:
    done = CliRunner().invoke(app, ["withdraw", "a", "aa"])
    assert done.exit_code == 1
    assert "has no item 'aa'; nothing was withdrawn" in done.output
    assert WithdrawnItems(home).now() == frozenset()
    assert "the item 'a' is not withdrawn" in CliRunner().invoke(app, ["restore", "a"]).output
