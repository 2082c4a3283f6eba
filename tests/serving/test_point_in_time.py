"""Training rows see what was known at their time, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feature_marts import Row, day, history_of, row, write_marts

from serving.feature_store import FeatureStoreError, apply_definitions, training_features

TTL_DAYS = {"user_activity": 30, "user_history": 730, "item_stats": 30}


def random_rows(rng: np.random.Generator, prefix: str, n: int) -> list[Row]:
    """Return rows with distinct numbers; a third of them written up to 20 days after they happened."""
    rows = []
    for number in range(n):
        event = int(rng.integers(0, 80))
        lag = int(rng.integers(1, 20)) if rng.random() < 1 / 3 else 0
        rows.append(row(f"{prefix}{rng.integers(5)}", event, 100 + number, event + lag + number / 1e6))
    return rows


def known(rows: list[Row], key: str, at: pd.Timestamp, ttl_days: int) -> int | None:
    """Brute-force twin of the join."""
    ttl = timedelta(days=ttl_days)
    seen = [r for r in rows if r.key == key and r.event <= at and r.created <= at and r.event + ttl >= at]
    return max(seen, key=lambda r: (r.event, r.created)).number if seen else None


def entities(rows: list[tuple[str, str, float]]) -> pd.DataFrame:
    users, items, days = zip(*rows, strict=True)
    times = pd.Series(pd.to_datetime([day(d) for d in days])).astype("datetime64[us, UTC]")
    return pd.DataFrame(
        {"user_id": users, "item_id": items, "event_timestamp": times, "label": range(len(rows))}
    )


def test_join_equals_a_loop_over_all_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    users, items = random_rows(rng, "u", 60), random_rows(rng, "i", 60)
    write_marts(tmp_path, users, items)
    apply_definitions(tmp_path)
    asked = [(f"u{rng.integers(6)}", f"i{rng.integers(6)}", float(rng.integers(0, 130))) for _ in range(200)]

    joined = training_features(tmp_path, entities(asked))

    assert joined["label"].tolist() == list(range(200))
    hits = 0
    for (user, item, at), found in zip(asked, joined.to_dict("records"), strict=True):
        time = pd.Timestamp(day(at))
        activity = known(users, user, time, TTL_DAYS["user_activity"])
        history = known(users, user, time, TTL_DAYS["user_history"])
        stats = known(items, item, time, TTL_DAYS["item_stats"])
        assert pd.isna(found["user_activity__events_1d"]) if activity is None else True
        if activity is not None:
            assert found["user_activity__events_1d"] == activity
            assert found["user_activity__purchases_30d"] == activity + 6
        if history is None:
            assert pd.isna(found["user_history__history_length"])
        else:
            assert found["user_history__history_length"] == history
            assert list(found["user_history__recent_items"]) == history_of(history)
        if stats is None:
            assert pd.isna(found["item_stats__impressions_7d"])
        else:
            assert found["item_stats__impressions_7d"] == stats
        hits += (activity is not None) + (history is not None) + (stats is not None)
    # The random rows must exercise both outcomes.
    assert 150 < hits < 550


def test_planted_future_and_late_rows_are_not_seen(tmp_path: Path) -> None:
    users = [
        row("future", 5, 1),
        row("future", 11, 666),
        row("late", 5, 2),
        row("late", 8, 777, created_day=12),
    ]
    write_marts(tmp_path, users, [row("i0", 1, 1)])
    apply_definitions(tmp_path)

    joined = training_features(
        tmp_path,
        entities([("late", "i0", 10), ("future", "i0", 10), ("late", "i0", 12), ("future", "i0", 11)]),
    )

    # Both are seen as soon as they are known, so it is their time that kept them out.
    assert joined["user_activity__events_1d"].tolist() == [2, 1, 777, 666]
    assert joined["user_history__history_length"].tolist() == [2, 1, 777, 666]


def test_rows_keep_their_order_and_index(tmp_path: Path) -> None:
    write_marts(tmp_path, [row(f"u{n}", 1, n) for n in range(9)], [row("i0", 1, 1)])
    apply_definitions(tmp_path)
    asked = entities([(f"u{n}", "i0", 2) for n in (8, 3, 5, 0, 3)]).set_index(pd.Index([4, 1, 3, 0, 9]))

    joined = training_features(tmp_path, asked)

    assert joined["user_activity__events_1d"].tolist() == [8, 3, 5, 0, 3]
    assert joined.index.tolist() == [4, 1, 3, 0, 9]


def test_mistakes_are_named_in_one_line(tmp_path: Path) -> None:
    apply_definitions(tmp_path)
    asked = entities([("u0", "i0", 2)])

    with pytest.raises(FeatureStoreError, match=r"'ranker_v9' does not exist; there are: ranker_v1"):
        training_features(tmp_path, asked, service="ranker_v9")
    with pytest.raises(FeatureStoreError, match=r"marts/ftr_\w+/\*\.parquet does not exist"):
        training_features(tmp_path, asked)
    with pytest.raises(FeatureStoreError, match="no rows"):
        training_features(tmp_path, asked.iloc[:0])
    with pytest.raises(FeatureStoreError, match="no time zone"):
        training_features(tmp_path, asked.assign(event_timestamp=pd.Timestamp("2014-01-02")))
