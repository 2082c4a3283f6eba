"""Keys are kept as hashes, found by what is presented, and gone when removed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from orchestration.keys import add, check_binding
from orchestration.settings import SettingsError
from serving.keys import KeyFile, KeyFileError


def test_a_key_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path)
    assert keys.all() == ()
    made = keys.add("shop", "read")
    stored = (tmp_path / "keys.json").read_text()
    assert made not in stored
    assert hashlib.sha256(made.encode()).hexdigest() in stored
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600
    other = KeyFile(tmp_path)
    found = other.find(made)
    assert found is not None
    assert (found.name, found.allows("read"), found.allows("write")) == ("shop", True, False)
    assert other.find(made + "x") is None
    assert other.find("") is None
    assert len({made, keys.add("two", "write"), keys.add("three", "write")}) == 3
    assert [key.name for key in other.all()] == ["shop", "two", "three"]
    keys.remove("shop")
    assert other.find(made) is None


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "é"])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="is no name for a key"):
        KeyFile(tmp_path).add(name, "read")


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path)
    keys.add("shop", "read")
    with pytest.raises(KeyFileError, match="there is a key 'shop' already"):
        keys.add("shop", "write")
    with pytest.raises(KeyFileError, match="there is no key 'web'"):
        keys.remove("web")
    with pytest.raises(SettingsError, match="'admin' is no scope: read or write"):
        add(tmp_path, "web", "admin")
    (tmp_path / "keys.json").write_text("[]")
    with pytest.raises(KeyFileError, match=r"keys\.json is no file of keys"):
        KeyFile(tmp_path).find("x")
    # Stands for a file that may not be read: no permission stops a test that runs as root.
    (tmp_path / "keys.json").unlink()
    (tmp_path / "keys.json").mkdir()
    with pytest.raises(KeyFileError, match=r"keys\.json is no file of keys"):
        KeyFile(tmp_path).find("x")


def test_other_addresses_than_loopback_need_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESSERA_API_KEYS", raising=False)
    for host in ("127.0.0.1", "::1", "localhost"):
        monkeypatch.setenv("TESSERA_HOST", host)
        assert not check_binding(tmp_path).needs_keys
    monkeypatch.setenv("TESSERA_HOST", "0.0.0.0")
    with pytest.raises(SettingsError, match=r"requests to 0\.0\.0\.0 need a key and there is none"):
        check_binding(tmp_path)
    monkeypatch.setenv("TESSERA_API_KEYS", "off")
    assert not check_binding(tmp_path).needs_keys
    monkeypatch.delenv("TESSERA_API_KEYS")
    add(tmp_path, "web", "read")
    assert check_binding(tmp_path).needs_keys
