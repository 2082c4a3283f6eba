from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from orchestration.ingest import erased
from orchestration.ingest.errors import IngestError


def test_nobody_is_erased_without_a_list(tmp_path: Path) -> None:
    assert erased.load(tmp_path / "erased.json") is None


def test_the_list_holds_salted_digests_and_no_id(tmp_path: Path) -> None:
    path = tmp_path / "erased.json"
    erased.add(path, ["anna", "b\u00e9n"])
    told = json.loads(path.read_text())
    salt = bytes.fromhex(told["salt"])
    assert set(told) == {"salt", "digests"}
    assert told["digests"] == sorted(
        hashlib.sha256(salt + user.encode()).hexdigest() for user in ("anna", "b\u00e9n")
    )
    assert "anna" not in path.read_text()
    found = erased.load(path)
    assert found is not None
    assert "anna" in found
    assert "b\u00e9n" in found
    assert "annb" not in found


def test_adding_keeps_the_salt_and_who_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "erased.json"
    first = erased.add(path, ["anna"])
    second = erased.add(path, ["ben", "anna"])
    assert second.salt == first.salt
    assert len(second.digests) == 2
    before = path.stat().st_mtime_ns
    assert erased.add(path, ["anna"]) == second == erased.load(path)
    assert path.stat().st_mtime_ns == before


def test_an_empty_list_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "erased.json"
    made = erased.add(path, [])
    erased.write(path, made)
    assert erased.load(path) == made


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"salt": "xyz", "digests": []}', '{"salt": "00", "digests": ["abcd"]}']
)
def test_a_damaged_list_is_no_empty_list(tmp_path: Path, content: str) -> None:
    path = tmp_path / "erased.json"
    path.write_text(content)
    with pytest.raises(IngestError, match="is no list of erased users"):
        erased.load(path)
