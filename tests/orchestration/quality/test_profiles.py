"""Profiles are what counting by hand gives, and are made again only where the content has changed."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import duckdb
import lakes
import pytest

from orchestration.quality import profiling
from orchestration.quality.profiles import Engine, bucket
from orchestration.quality.profiling import event_profiles, item_profile, part_profiles

ENGINE = Engine("500MB", 2)


def by_hand(value: float) -> int:
    if value == 0 or not math.isfinite(value):
        return 0
    place = math.floor(math.log2(abs(value)) * 8) + 10000
    return place if value > 0 else -place


def test_buckets_rise_with_the_value_eight_to_each_power_of_two() -> None:
    values = [-9.0, -1.0, -1e-300, 0.0, 1e-300, 0.5, 1.0, 1.05, 1.1, 2.0, 5.0, 1e300]
    found = duckdb.sql(f"SELECT {bucket('v')} FROM (SELECT unnest({values}::DOUBLE[]) AS v)").fetchall()
    places = [place for (place,) in found]
    assert places == [by_hand(value) for value in values]
    assert places == sorted(places)
    assert by_hand(2.0) - by_hand(1.0) == 8
    odd = duckdb.sql(
        f"SELECT {bucket('v')} FROM (VALUES ('nan'::DOUBLE), ('inf'::DOUBLE)) AS t (v)"
    ).fetchall()
    assert odd == [(0,), (0,)]


@pytest.mark.parametrize("together", [1, 2_000_000])
def test_event_profiles_are_counted_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """Whether days are profiled one by one or together."""
    monkeypatch.setattr(profiling, "_ROWS_TOGETHER", together)
    tables = {
        lakes.write_day(tmp_path, n, lakes.events(n, 3, 200)): lakes.events(n, 3, 200) for n in range(3)
    }
    profiles = event_profiles(tmp_path, tmp_path / "kept", [*tables, "2031-01-01"], ENGINE)
    assert list(profiles) == sorted(tables)
    for day, table in tables.items():
        rows, profile = table.to_pylist(), profiles[day]
        assert profile.rows == dict(sorted(Counter(row["event_type"] for row in rows).items()))
        assert profile.distinct == {
            "users": len({row["user_id"] for row in rows}),
            "items": len({row["item_id"] for row in rows} - {None}),
        }
        nulls = Counter(row["event_type"] for row in rows if row["value"] is None)
        assert {kind: counts["value"] for kind, counts in profile.nulls.items()} == {
            kind: nulls[kind] for kind in profile.rows
        }
        values = Counter(by_hand(row["value"]) for row in rows if row["event_type"] == "cart")
        assert profile.histograms["value"]["cart"] == dict(values)
        hours = Counter(hour for _, hour in {(row["user_id"], row["event_ts"].hour) for row in rows})
        assert profile.histograms["hour"][""] == dict(hours)
        lags = Counter(max(0, (row["arrival_date"] - row["event_ts"].date()).days) for row in rows)
        assert profile.histograms["days_late"][""] == dict(lags)
        users = Counter(by_hand(n) for n in Counter(row["user_id"] for row in rows).values())
        assert profile.histograms["per_user"][""] == dict(users)
        popular = sorted(Counter(row["item_id"] for row in rows if row["item_id"]).values(), reverse=True)
        head, mid = math.ceil(0.1 * len(popular)), math.ceil(0.5 * len(popular))
        assert profile.histograms["popularity"][""] == {
            0: sum(popular[:head]),
            1: sum(popular[head:mid]),
            2: sum(popular[mid:]),
        }


def test_profiles_are_kept_until_the_day_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = [lakes.write_day(tmp_path, n, lakes.events(n, 3, 50)) for n in range(3)]
    made: list[str] = []
    honest = profiling._profile_events

    def watched(connection: object, contents: dict[str, str], paths: dict[str, Path]) -> object:
        made.extend(contents)
        return honest(connection, contents, paths)  # type: ignore[arg-type]

    monkeypatch.setattr(profiling, "_profile_events", watched)
    first = event_profiles(tmp_path, tmp_path / "kept", days, ENGINE)
    assert made == days
    assert event_profiles(tmp_path, tmp_path / "kept", days, ENGINE) == first
    assert made == days
    lakes.write_day(tmp_path, 1, lakes.events(1, 4, 80))
    (tmp_path / "kept" / f"{days[2]}.json").write_text("{half a")
    again = event_profiles(tmp_path, tmp_path / "kept", days, ENGINE)
    assert made == [*days, *days[1:]]
    assert again[days[0]] == first[days[0]]
    assert again[days[1]] != first[days[1]]
    assert again[days[2]] == first[days[2]]


def test_catalogue_profile(tmp_path: Path) -> None:
    table = lakes.items(1)
    lakes.write_items(tmp_path, table)
    profile = item_profile(tmp_path / "items" / "items.parquet", "abc", ENGINE)
    assert (profile.total, profile.distinct["items"], profile.nulls[""]["description"]) == (200, 200, 200)
    assert profile.histograms["price"][""] == dict(Counter(by_hand(v) for v in table["price"].to_pylist()))
    words = {
        word: profile.histograms["category"][""][place] for word, place in profile.labels["category"].items()
    }
    assert words == dict(Counter(path[0] for path in table["categories"].to_pylist()))


def test_profiles_of_parts_are_by_known_day(tmp_path: Path) -> None:
    lakes.write_part(tmp_path, "ftr_item__stats", "2025-01-06", lakes.features(0, 3, 1, entities=20))
    parts = {"2025-01-06": tmp_path / "ftr_item__stats" / "2025-01-06.parquet"}
    profiles = part_profiles(parts, {"2025-01-06": "x"}, tmp_path / "kept", ENGINE)
    assert list(profiles) == ["2025-01-06", "2025-01-07", "2025-01-08"]
    second = lakes.features(1, 2, 1, entities=20)
    assert profiles["2025-01-07"].total == 20
    assert profiles["2025-01-07"].histograms["price"][""] == dict(
        Counter(by_hand(v) for v in second["price"].to_pylist())
    )
    assert part_profiles(parts, {"2025-01-06": "x"}, tmp_path / "kept", Engine("no such limit")) == profiles
