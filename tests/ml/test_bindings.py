from __future__ import annotations

from pathlib import Path

import pytest

from ml.artifacts import ArtifactError, Manifest, write_manifest, write_text
from ml.bindings import bind, check_bound, content_hash


@pytest.fixture
def part(tmp_path: Path) -> Path:
    folder = tmp_path / "trie"
    for name, text in (("trie.safetensors", "codes"), ("sub/more.json", "{}"), ("users.parquet", "u1 u2")):
        write_text(folder / name, text)
    write_manifest(folder, Manifest(kind="trie", version="v"))
    return folder


def test_data_is_bound_and_what_tells_of_it_is_not(part: Path) -> None:
    before = content_hash(part)
    write_text(part / "report.html", "a page")
    write_text(part / "report.json", "{}")
    write_text(part / "users.parquet", "u1")
    write_manifest(part, Manifest(kind="trie", version="v", metrics={"users": 1}))
    assert content_hash(part) == before
    write_text(part / "sub" / "more.json", "[]")
    assert content_hash(part) != before


@pytest.mark.parametrize("how", ["changed", "file gone", "personal file gone", "another file", "incomplete"])
def test_changed_part_is_named(part: Path, how: str) -> None:
    bound = bind({"trie": part})
    check_bound(bound, {"trie": part})
    if how == "changed":
        write_text(part / "trie.safetensors", "cades")
    elif how == "another file":
        write_text(part / "more.safetensors", "")
    else:
        names = {
            "file gone": "trie.safetensors",
            "personal file gone": "users.parquet",
            "incomplete": "manifest.json",
        }
        (part / names[how]).unlink()
    with pytest.raises(ArtifactError, match=r"^trie: .*trie (has changed|is missing or incomplete)[^\n]*$"):
        check_bound(bound, {"trie": part})


def test_only_what_may_be_gone_may_be_gone(part: Path) -> None:
    bound = bind({"vectors": part})
    part.rename(part.with_name("elsewhere"))
    check_bound(bound, {"vectors": part}, may_be_gone=("vectors",))
    with pytest.raises(ArtifactError, match=r"vectors: .* is missing"):
        check_bound(bound, {"vectors": part})
    with pytest.raises(ArtifactError, match=r"vectors: .* is missing"):
        bind({"vectors": part})


def test_what_was_never_bound_is_not_looked_at(part: Path) -> None:
    check_bound({}, {"index": part.with_name("nowhere")})
