"""Does the online store hold what the marts say? Asked of a sample, value by value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any

from serving.feature_source import FeatureSource
from serving.feature_store import FeatureStoreError, online_errors, open_store, source_files, writing
from serving.features import decode, entity_keys
from serving.materialize import materialized_end
from serving.online_keys import OnlineKeys, PushedKeys

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MISSING = "nothing"


@dataclass(frozen=True)
class Parity:
    """How one view compares.

    Parameters
    ----------
    start, end
        What both sides were asked for: from the TTL before the last materialization's end to that end.
    checked
        Entities compared.
    absent
        Of these, those that neither side serves: retired, or older than the TTL.
    pushed
        Entities passed over, as they were pushed since.
    differences
        One line each; at most one for an entity.
    unserved
        Time of the newest row, where the source has rows and none lies between ``start`` and ``end``: then both sides
        are equal because nothing is online. None elsewhere.
    """

    start: datetime
    end: datetime
    checked: int
    absent: int
    pushed: int
    differences: list[str]
    unserved: datetime | None = None


def check_parity(home: Path, sample: int, seed: int = 0) -> dict[str, Parity]:
    """Compare online values with the latest offline rows under the TTL, for a sample of each view's entities.

    Half as many again are drawn from the entities that were ever put online, so that those which vanished offline are
    looked at too.

    Parameters
    ----------
    home
        ``TESSERA_HOME``, materialized.
    sample
        Entities a view.
    seed
        Together with the end of the materialization it chooses them.

    Raises
    ------
    FeatureStoreError
        If no view was materialized yet, or Redis does not answer.
    """
    with writing(home), online_errors():
        store = open_store(home)
        ends = {view.name: materialized_end(home, view.name) for view in store.list_feature_views()}
        found = {
            view.name: _compare(home, store, view, end, sample, seed)
            for view in sorted(store.list_feature_views(), key=lambda view: view.name)
            if (end := ends[view.name]) is not None and source_files(view)
        }
    if not found:
        raise FeatureStoreError(f"{home / 'feast'}: nothing was materialized yet")
    return found


def _compare(home: Path, store: Any, view: Any, end: datetime, sample: int, seed: int) -> Parity:
    source = FeatureSource.of(home, view)
    start = end - view.ttl
    chosen_by = seed ^ int(end.timestamp())
    pushed = PushedKeys(home, view.name).read()
    keys = source.sample(sample, chosen_by, start, end)
    unserved = None if keys else source.newest()
    known = set(keys)
    keys += [key for key in OnlineKeys(home, view.name).sample(sample // 2, chosen_by) if key not in known]
    asked = [key for key in keys if key not in pushed]
    names = [feature.name for feature in view.features]
    rows = source.latest(asked, names, start, end).to_pylist()
    offline = {row[source.key]: row for row in rows}
    online = (
        store.provider.online_read(store.config, view, entity_keys(source.key, asked), list(names))
        if asked
        else []
    )
    differences, absent = [], 0
    for key, (written, stored) in zip(asked, online, strict=True):
        served = written is not None and written > _EPOCH and written >= start.replace(microsecond=0)
        row = offline.get(key)
        absent += not served and row is None
        if told := _difference(row, written if served else None, stored, names):
            differences.append(f"{view.name} of {source.key} {key}: {told}")
    return Parity(start, end, len(asked), absent, len(keys) - len(asked), differences, unserved)


def _difference(
    row: dict[str, Any] | None, written: datetime | None, stored: dict[str, Any] | None, names: list[str]
) -> str | None:
    """Return the first thing that differs, or None."""
    if row is None or written is None:
        if row is None and written is None:
            return None
        return f"online {written or _MISSING}, offline {row['event_timestamp'] if row else _MISSING}"
    assert stored is not None
    # SQLite keeps whole seconds.
    if int(written.timestamp()) != int(row["event_timestamp"].timestamp()):
        return f"event_timestamp online {written}, offline {row['event_timestamp']}"
    for name in names:
        ours = decode(stored[name])
        if _plain(ours) != _plain(row[name]):
            return f"{name} online {ours!r}, offline {row[name]!r}"
    return None


def _plain(value: Any) -> Any:
    """Return what the online store can tell apart: no empty list from none, and no NaN from none."""
    missing = value == [] or (isinstance(value, float) and isnan(value))
    return None if missing else value
