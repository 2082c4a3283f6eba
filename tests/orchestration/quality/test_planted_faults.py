"""A fault of each kind, planted into the last day of five clean weeks, breaks its own rules and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import lakes
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orchestration.quality import load_thresholds
from orchestration.quality.checks import Checker
from orchestration.quality.profiles import Engine
from orchestration.quality.profiling import event_profiles
from orchestration.quality.report import QualityReport
from orchestration.quality.trailing import compare, event_rules, trailing

LAST = 35
SEED = 1
THRESHOLDS = load_thresholds()


def events_checker(root: Path) -> Checker:
    return Checker(root / "quality", THRESHOLDS)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    lakes.write_lake(root / "lake", SEED)
    return root


@pytest.fixture
def root(clean: Path) -> Iterator[Path]:
    """The clean lake, whose last day and catalogue a test may spoil."""
    yield clean
    lakes.write_day(clean / "lake", LAST, lakes.events(LAST, SEED))
    lakes.write_items(clean / "lake", lakes.items(SEED))


def keep(share: float) -> lakes.Change:
    """Some users' events, as when a shard is not delivered."""

    def change(table: pa.Table, rng: np.random.Generator) -> pa.Table:
        users = sorted(set(table["user_id"].to_pylist()))
        kept = rng.choice(users, int(len(users) * share), replace=False).tolist()
        return table.filter(pc.is_in(table["user_id"], pa.array(kept)))

    return change


def without(kind: str) -> lakes.Change:
    return lambda table, _: table.filter(pc.not_equal(table["event_type"], kind))


def nulled(column: str, share: float) -> lakes.Change:
    def change(table: pa.Table, rng: np.random.Generator) -> pa.Table:
        gone = pa.array(rng.random(table.num_rows) < share)
        field = table.schema.field(column)
        return lakes.replaced(table, column, pc.if_else(gone, pa.scalar(None, field.type), table[column]))

    return change


def mapped(column: str, function: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> lakes.Change:
    return lambda table, _: lakes.replaced(table, column, function(table[column]))


def more(times: int) -> lakes.Change:
    return lambda table, _: pa.concat_tables([table] * times)


def renamed(old: str, new: str, share: float = 1.0) -> lakes.Change:
    def change(table: pa.Table, rng: np.random.Generator) -> pa.Table:
        hit = pc.and_(pc.equal(table["event_type"], old), pa.array(rng.random(table.num_rows) < share))
        return lakes.replaced(table, "event_type", pc.if_else(hit, new, table["event_type"]))

    return change


def later(hours: float) -> lakes.Change:
    def change(times: pa.ChunkedArray) -> pa.ChunkedArray:
        moved = pc.add(times.cast(pa.int64()), int(hours * 3_600_000_000))
        return moved.cast(lakes.TIME)

    return mapped("event_ts", change)


def crowd(users: int) -> lakes.Change:
    return lambda table, rng: lakes.replaced(
        table, "user_id", [f"u{k}" for k in rng.integers(0, users, table.num_rows)]
    )


def evenly_spread_items(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Every item gets as many events as any other, of as many items as there were."""
    named = table["item_id"].combine_chunks()
    distinct = sorted(set(named.drop_null().to_pylist()))
    turn = iter(range(table.num_rows))
    shuffled = rng.permutation(distinct).tolist()
    return lakes.replaced(
        table,
        "item_id",
        [None if item is None else shuffled[next(turn) % len(shuffled)] for item in named.to_pylist()],
    )


def late(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    days = np.where(rng.random(table.num_rows) < 0.4, 6, 0)
    moved = pc.subtract(table["event_ts"].cast(pa.int64()), pa.array(days * 86_400_000_000))
    return lakes.replaced(table, "event_ts", moved.cast(lakes.TIME))


FEWER = {
    "rows are at least as many as usual",
    "rows by type are at least as many as usual",
    "users are at least as many as usual",
}
MORE = {"rows are at most as many as usual", "rows by type are at most as many as usual"}
# Fault -> change of the last day, and the promises that break.
FAULTS: dict[str, tuple[lakes.Change, set[str]]] = {
    "volume drop": (keep(0.25), FEWER),
    "sent many times": (
        more(4),
        {*MORE, "drift of per_user is at most its limit", "drift of per_session is at most its limit"},
    ),
    "type vanishes": (without("cart"), {"no event type is absent", "drift of type is at most its limit"}),
    "type renamed": (
        renamed("cart", "like"),
        {"no event type is absent", "no event type is new", "drift of type is at most its limit"},
    ),
    "new type": (renamed("purchase", "like", 0.4), {"no event type is new"}),
    "sessions lost": (nulled("session_id", 0.3), {"nulls are at most as many as usual"}),
    "prices lost": (nulled("value", 0.5), {"nulls are at most as many as usual"}),
    "other currency": (
        mapped("value", lambda v: pc.multiply(v, 3.0)),
        {"drift of value is at most its limit"},
    ),
    "other time zone": (
        later(-9),
        {"drift of hour is at most its limit", "drift of days_late is at most its limit"},
    ),
    "lists turned round": (
        mapped("position", lambda p: pc.add(pc.divide(p, 4), 15)),
        {"drift of position is at most its limit"},
    ),
    "ids collapse": (
        crowd(90),
        {"users are at least as many as usual", "drift of per_user is at most its limit"},
    ),
    "few items are shown": (
        mapped("item_id", lambda i: pc.if_else(pc.equal(pc.utf8_length(i), 2), i, "i3")),
        {"items are at least as many as usual", "drift of popularity is at most its limit"},
    ),
    "random recommendations": (evenly_spread_items, {"drift of popularity is at most its limit"}),
    "deliveries lag": (late, {"drift of days_late is at most its limit"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_breaks_its_rules_and_no_others(root: Path, fault: str) -> None:
    change, expected = FAULTS[fault]
    spoilt = change(lakes.events(LAST, SEED), np.random.default_rng(5))
    day = lakes.write_day(root / "lake", LAST, spoilt)

    report = events_checker(root).events_history(root / "lake", [day])

    assert report is not None
    assert {failure.rule for failure in report.failures} == expected
    assert {failure.severity for failure in report.failures} == {"warning"}
    assert report.passed
    assert all(sample.startswith(day) for failure in report.failures for sample in failure.samples)


def test_clean_day_and_clean_weeks_break_nothing(root: Path) -> None:
    days = [lakes.day_name(n) for n in range(LAST + 1)]
    one = events_checker(root).events_history(root / "lake", days[-1:])
    all_ = events_checker(root).events_history(root / "lake", days)
    assert one is not None
    assert all_ is not None
    assert one.failures == all_.failures == []
    assert one.skipped == []
    # The first week has nothing to be compared with, and says so.
    assert "rows: not enough history: 6 of 7 days, on 7 days" in all_.skipped
    assert len(all_.skipped) == len(event_rules(THRESHOLDS.events))
    assert "skipped (rows: not enough history" in all_.summary


def test_no_false_alarm_over_seeds(tmp_path: Path) -> None:
    for seed in range(10, 13):
        days = lakes.write_lake(tmp_path / str(seed), seed)
        profiles = event_profiles(tmp_path / str(seed), tmp_path / f"p{seed}", days, Engine())
        limits = THRESHOLDS.events
        for day in days[14:]:
            past = trailing(day, profiles, limits.window)
            measures = compare(day, profiles[day], past, limits.window, event_rules(limits))
            assert [measure for measure in measures if measure.excess] == []


def test_worst_day_of_a_range_is_told_first(root: Path) -> None:
    rng = np.random.default_rng(0)
    for number, share in ((33, 0.3), (34, 0.05), (35, 0.25)):
        lakes.write_day(root / "lake", number, keep(share)(lakes.events(number, SEED), rng))
    days = [lakes.day_name(n) for n in range(30, 36)]
    report = events_checker(root).events_history(root / "lake", days)
    for number in (33, 34):
        lakes.write_day(root / "lake", number, lakes.events(number, SEED))
    assert report is not None
    rows = report.failures[0]
    assert rows.rule == "rows are at least as many as usual"
    assert rows.unexpected == 3
    assert rows.samples[0].startswith(days[4])


def test_level_is_for_the_thresholds_to_say(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "events: {rows: {level: error}, rows_by_type: {level: off}, users: {level: off}, items: {level: 'off'}}"
    )
    day = lakes.write_day(root / "lake", LAST, keep(0.25)(lakes.events(LAST, SEED), np.random.default_rng(5)))
    report = Checker(root / "quality", load_thresholds(own)).events_history(root / "lake", [day])
    assert report is not None
    assert [(f.rule, f.severity) for f in report.failures] == [
        ("rows are at least as many as usual", "error")
    ]
    assert not report.passed


ITEM_FAULTS: dict[str, tuple[Callable[[pa.Table], pa.Table], set[str]]] = {
    "half the catalogue": (
        lambda t: t.slice(0, 100),
        {"rows are at least as many as usual", "items are at least as many as usual"},
    ),
    "prices in cents": (
        lambda t: lakes.replaced(t, "price", pc.multiply(t["price"], 100.0)),
        {"drift of price is at most its limit"},
    ),
    "titles lost": (
        lambda t: lakes.replaced(t, "title", [None if k % 3 else "x" for k in range(t.num_rows)]),
        {"nulls are at most as many as usual"},
    ),
    "another tree of categories": (
        lambda t: lakes.replaced(t, "categories", [["toys"]] * t.num_rows),
        {"drift of category is at most its limit"},
    ),
}


@pytest.mark.parametrize("fault", ITEM_FAULTS)
def test_catalogue_is_held_against_the_one_before(root: Path, tmp_path: Path, fault: str) -> None:
    change, expected = ITEM_FAULTS[fault]
    checker = Checker(tmp_path / "quality", THRESHOLDS)
    first = checker.items_history(root / "lake")
    assert "rows: not enough history: 0 of 1 days" in first.skipped
    lakes.write_items(root / "lake", change(lakes.items(SEED)))
    second = checker.items_history(root / "lake")
    assert {failure.rule for failure in second.failures} == expected
    assert (first.batch, second.batch) == ("00001", "00002")
    # Looked at again it is still the second, held against the first.
    assert checker.items_history(root / "lake").failures == second.failures


def test_versions_of_an_item_at_one_time_are_a_warning(root: Path) -> None:
    table = lakes.items(SEED)
    twice = pa.concat_tables([table, table.slice(0, 2)])
    lakes.write_items(root / "lake", lakes.replaced(twice, "source_row", list(range(1, twice.num_rows + 1))))
    report: QualityReport = events_checker(root).items(root / "lake")
    assert [(f.rule, f.severity, f.unexpected) for f in report.failures] == [
        ("no two rows have the same item_id and valid_from", "warning", 4)
    ]
