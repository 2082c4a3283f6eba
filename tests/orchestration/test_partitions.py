from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime

import pytest

from orchestration import partitions
from orchestration.ingest.spec import SourceSpec, load_spec


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    def apply(**changes: object) -> SourceSpec:
        spec = load_spec("ml-100k").model_copy(update=changes)
        monkeypatch.setattr(partitions, "source_spec", lambda: spec)
        partitions.landing_partitions.cache_clear()
        return spec

    yield apply
    partitions.landing_partitions.cache_clear()


def test_daily_partitions_cover_the_log(use) -> None:
    use(cadence="daily", start_date=date(2025, 3, 1), end_date=date(2025, 3, 3))
    assert partitions.landing_partitions().get_partition_keys() == ["2025-03-01", "2025-03-02", "2025-03-03"]
    assert partitions.partition_keys_of([date(2025, 3, 2)]) == ("2025-03-02", "2025-03-02")


def test_monthly_partitions_hold_first_and_last_day(use) -> None:
    use(cadence="monthly", start_date=date(2024, 11, 12), end_date=date(2025, 1, 31))
    keys = partitions.landing_partitions().get_partition_keys()
    assert keys == ["2024-11-01", "2024-12-01", "2025-01-01"]
    assert partitions.partition_keys_of([date(2025, 1, 31), date(2024, 11, 12)]) == (keys[0], keys[-1])


def test_weekly_partitions_begin_on_monday(use) -> None:
    use(cadence="weekly", start_date=date(2025, 3, 1), end_date=date(2025, 3, 10))
    keys = partitions.landing_partitions().get_partition_keys()
    assert keys == ["2025-02-24", "2025-03-03", "2025-03-10"]
    assert partitions.partition_keys_of([date(2025, 3, 1), date(2025, 3, 9)]) == (keys[0], keys[1])


def test_growing_log_has_no_end(use) -> None:
    use(cadence="daily", start_date=date(2025, 3, 1), end_date=None)
    keys = partitions.landing_partitions().get_partition_keys(current_time=datetime(2025, 3, 4, 1))
    assert keys[-1] == "2025-03-03"


def test_days_between_excludes_the_end() -> None:
    assert partitions.days_between(date(2025, 2, 27), date(2025, 3, 1)) == [
        date(2025, 2, 27),
        date(2025, 2, 28),
    ]
