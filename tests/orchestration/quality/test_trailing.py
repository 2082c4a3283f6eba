"""What is usual: by weekday, and as wide as days vary."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from orchestration.quality.profiles import ALL, Profile
from orchestration.quality.thresholds import Band, Nulls, Window
from orchestration.quality.trailing import compare, trailing

WINDOW = Window(days=28, min_days=7, min_rows=50)
BAND = Band(level="warning", at_least=0.5, at_most=2.0, deviations=5)
MONDAY = date(2025, 3, 31)


def weeks(counts: list[int]) -> dict[str, Profile]:
    """Return days that end on the Sunday before MONDAY."""
    first = MONDAY - timedelta(days=len(counts))
    return {
        (first + timedelta(days=n)).isoformat(): Profile(content="", rows={ALL: count})
        for n, count in enumerate(counts)
    }


@pytest.mark.parametrize(
    ("day", "rows", "outside"), [(0, 10_000, False), (5, 10_000, True), (5, 1_000, False), (0, 1_000, True)]
)
def test_a_shop_that_rests_on_weekends(day: int, rows: int, outside: bool) -> None:
    past = weeks([10_000, 10_000, 10_000, 10_000, 10_000, 1_000, 1_000] * 4)
    today = (MONDAY + timedelta(days=day)).isoformat()
    (found,) = compare(today, Profile(content="", rows={ALL: rows}), past, WINDOW, {"rows": BAND})
    assert (found.excess > 0) is outside
    usual = 1_000 if day == 5 else 10_000
    assert (found.at_least, found.at_most) == (usual * 0.5, usual * 2.0)


def test_bands_are_as_wide_as_days_vary_and_as_chance() -> None:
    steady = compare(
        MONDAY.isoformat(), Profile(content="", rows={ALL: 9}), weeks([20] * 28), WINDOW, {"rows": BAND}
    )
    # Five square roots of 20 are more than half of it.
    assert steady[0].at_least == 0
    assert steady[0].at_most == pytest.approx(20 + 5 * 21**0.5)
    wild = weeks([2_000 if n // 7 % 2 else 50_000 for n in range(28)])
    varied = compare(
        MONDAY.isoformat(), Profile(content="", rows={ALL: 100_000}), wild, WINDOW, {"rows": BAND}
    )
    assert varied[0].excess == 0


def test_window_ends_before_the_day_and_leaves_the_warm_up_out() -> None:
    profiles = weeks([10] * 60) | {MONDAY.isoformat(): Profile(content="")}
    found = trailing(MONDAY.isoformat(), profiles, WINDOW)
    assert (min(found), max(found), len(found)) == ("2025-03-03", "2025-03-30", 28)
    late = WINDOW.model_copy(update={"warm_up": 40})
    assert len(trailing(MONDAY.isoformat(), profiles, late)) == 20


def test_nulls_follow_the_mix_of_groups() -> None:
    """Searches have no item: a day of searches has many nulls and no fault."""
    past = {
        day: Profile(
            content="",
            rows={"view": 900, "search": 100},
            nulls={"view": {"item_id": 0}, "search": {"item_id": 100}},
        )
        for day in weeks([0] * 28)
    }
    rules = {"nulls": Nulls(level="warning", max=0.05, deviations=6)}
    searches = Profile(
        content="",
        rows={"view": 100, "search": 900},
        nulls={"view": {"item_id": 0}, "search": {"item_id": 900}},
    )
    (found,) = compare(MONDAY.isoformat(), searches, past, WINDOW, rules)
    assert (found.value, found.excess) == (0.9, 0)
    lost = searches.model_copy(update={"nulls": {"view": {"item_id": 80}, "search": {"item_id": 900}}})
    (found,) = compare(MONDAY.isoformat(), lost, past, WINDOW, rules)
    assert found.value == pytest.approx(0.98)
    assert found.excess > 0
