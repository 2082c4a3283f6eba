"""The Feast registry as a file that is replaced, never rewritten in place.

Feast's own store truncates the file and then writes it, so that a reader in between finds a registry without a view,
and so does everybody after a kill in between.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from feast.infra.registry.file import FileRegistryStore

from ml.artifacts import write_bytes


class AtomicRegistryStore(FileRegistryStore):
    """A registry file of which readers see the old state or the new; named in ``feature_store.yaml``."""

    def _write_registry(self, registry_proto: Any) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(datetime.now(UTC).replace(tzinfo=None))
        write_bytes(self._filepath, registry_proto.SerializeToString())
