from __future__ import annotations

from pathlib import Path

import pytest

from ml import artifacts
from ml.artifacts import ArtifactError, Manifest, consistently, publish


def put(folder: Path, files: dict[str, str]) -> None:
    with publish(folder) as staging:
        for name, text in files.items():
            (staging / name).write_text(text)


def test_publish_replaces_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    with publish(target) as staging:
        (staging / "a").write_text("1")
    with publish(target) as staging:
        (staging / "b").write_text("2")
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_publish_that_fails_leaves_what_stood(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    with publish(target) as staging:
        (staging / "a").write_text("1")
    with pytest.raises(RuntimeError, match="disk"), publish(target) as staging:
        (staging / "a").write_text("half")
        raise RuntimeError("disk")
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_publish_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_exchange", lambda left, right: False)
    test_publish_replaces_whole_folder(tmp_path)


def test_current_needs_a_complete_version(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no live version"):
        artifacts.current(tmp_path)
    (tmp_path / "v1").mkdir()
    with pytest.raises(ArtifactError, match="incomplete"):
        artifacts.set_current(tmp_path, "v1")
    artifacts.write_manifest(tmp_path / "v1", Manifest(kind="index", version="v1"))
    artifacts.set_current(tmp_path, "v1")
    assert artifacts.current(tmp_path) == tmp_path / "v1"


def test_manifest_kind_is_checked(tmp_path: Path) -> None:
    artifacts.write_manifest(tmp_path, Manifest(kind="index", version="v1", metrics={"recall": 0.99}))
    assert artifacts.read_manifest(tmp_path, "index").metrics == {"recall": 0.99}
    with pytest.raises(ArtifactError, match="holds a index, not a tokenizer"):
        artifacts.read_manifest(tmp_path, "tokenizer")


@pytest.mark.parametrize("content", [b"", b'{"kind": "index", "ver', b"[]", b"\xff\0"])
def test_damaged_manifest_is_one_line_and_its_version_is_none(tmp_path: Path, content: bytes) -> None:
    artifacts.write_manifest(tmp_path / "v1", Manifest(kind="index", version="v1"))
    artifacts.set_current(tmp_path, "v1")
    (tmp_path / "v1" / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"^{tmp_path}/v1/manifest\.json\W") as told:
        artifacts.read_manifest(tmp_path / "v1")
    assert "\n" not in str(told.value)
    assert not artifacts.is_complete(tmp_path / "v1")
    with pytest.raises(ArtifactError, match="named as live but does not exist or is incomplete"):
        artifacts.current(tmp_path)


def test_manifest_that_lacks_a_field_is_one_line(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "manifest.json", {"kind": "index"})
    with pytest.raises(ArtifactError, match=rf"^{tmp_path}/manifest\.json: version: Field required$"):
        artifacts.read_manifest(tmp_path)


def test_hashes_depend_on_content_alone(tmp_path: Path) -> None:
    assert artifacts.hash_json({"a": 1, "b": 2}) == artifacts.hash_json({"b": 2, "a": 1})
    assert artifacts.hash_bytes(b"ab", b"c") != artifacts.hash_bytes(b"a", b"bc")
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("same")
        artifacts.write_manifest(tmp_path / name, Manifest(kind="k", version=name))
    assert artifacts.hash_folder(tmp_path / "x") == artifacts.hash_folder(tmp_path / "y")


def test_json_is_readable_by_others_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    artifacts.write_json(path, {"a": 1})
    artifacts.write_json(path, {"b": 2})
    assert artifacts.read_json(path) == {"b": 2}
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    path.write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        artifacts.read_json(path)
    with pytest.raises(ArtifactError, match="deep cannot be read: Is a directory"):
        artifacts.read_json(path.parent)


def test_reading_is_done_again_where_the_folder_was_replaced_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    put(target, {"left": "old", "right": "old"})
    calls = []

    def read() -> tuple[str, str]:
        left = (target / "left").read_text()
        if not calls:
            put(target, {"left": "new", "right": "new"})
        calls.append(left)
        return left, (target / "right").read_text()

    assert consistently(target, read) == ("new", "new")
    assert calls == ["old", "new"]


def test_file_that_vanished_with_its_folder_is_no_error(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    put(target, {"part-1": "old"})
    calls = []

    def read() -> list[str]:
        names = sorted(path.name for path in target.iterdir())
        if not calls:
            put(target, {"part-2": "new"})
        calls.append(names)
        return [(target / name).read_text() for name in names]

    assert consistently(target, read) == ["new"]
    assert calls == [["part-1"], ["part-2"]]


def test_what_is_wrong_with_a_folder_that_stands_is_raised_at_once(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    put(target, {"a": "1"})
    calls = []

    def read() -> str:
        calls.append(1)
        return (target / "b").read_text()

    with pytest.raises(FileNotFoundError):
        consistently(target, read)
    assert len(calls) == 1


def test_folder_that_is_not_there_or_never_rests_is_named(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    with pytest.raises(ArtifactError, match="thing does not exist"):
        consistently(target, lambda: None, attempts=2)
    put(target, {"a": "1"})
    with pytest.raises(ArtifactError, match="replaced each of the 3 times"):
        consistently(target, lambda: put(target, {"a": "2"}), attempts=3)


def test_sweep_brings_back_what_was_moved_aside_and_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an exchange of folders, a kill between the two renames leaves none at the target."""
    target = tmp_path / "thing"
    put(target, {"a": "old"})
    monkeypatch.setattr(artifacts, "_exchange", lambda left, right: False)
    rename = Path.rename

    def killed(path: Path, to: Path) -> Path:
        if to == target:
            raise KeyboardInterrupt
        return rename(path, to)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        put(target, {"a": "new"})
    assert not target.exists()
    artifacts.sweep(tmp_path)
    assert (target / "a").read_text() == "old"
    put(target, {"a": "new"})
    assert (target / "a").read_text() == "new"
    artifacts.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_what_was_made_from_something_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    artifacts.write_manifest(folder, Manifest(kind="model", version="m", inputs={"snapshot": "s1"}))
    assert artifacts.check_made_from(folder, {"snapshot": "s1"}).version == "m"
    assert artifacts.check_made_from(folder, {}).version == "m"
    with pytest.raises(ArtifactError, match="model was built on snapshot s1, not on s2"):
        artifacts.check_made_from(folder, {"snapshot": "s2"})
    with pytest.raises(ArtifactError, match=r"model was built on index \(unknown\), not on i"):
        artifacts.check_made_from(folder, {"snapshot": "s1", "index": "i"})
