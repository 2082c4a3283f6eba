"""The Feast registry is never seen half written."""

from __future__ import annotations

from pathlib import Path

import pytest
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig

from serving.feature_registry import AtomicRegistryStore


def store(folder: Path) -> AtomicRegistryStore:
    return AtomicRegistryStore(RegistryConfig(path=str(folder / "feast" / "registry.db")), folder)


def test_registry_comes_back_as_written(tmp_path: Path) -> None:
    registry = Registry(registry_schema_version="1")
    store(tmp_path).update_registry_proto(registry)
    found = store(tmp_path).get_registry_proto()
    assert (found.registry_schema_version, found.version_id) == ("1", registry.version_id)


def test_writer_that_dies_leaves_the_old_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path).update_registry_proto(Registry(registry_schema_version="1"))

    def dies(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", dies)
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path).update_registry_proto(Registry(registry_schema_version="2"))
    assert store(tmp_path).get_registry_proto().registry_schema_version == "1"
