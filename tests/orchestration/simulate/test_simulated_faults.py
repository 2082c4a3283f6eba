from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from simulated import FAULTLESS, SMALL, Simulated, run

from orchestration.simulate.faults import DAMAGES, OVERSIZED, damaged

LINE = b'{"id":"e1","ts":1709000000000,"type":"view","user":"u1","session":"s1","item":"i1"}\n'


def fault_of(line: bytes) -> str | None:
    """Say what is wrong with a line, in the way a reader would find out."""
    try:
        event = json.loads(line.decode())
    except UnicodeDecodeError:
        return "bad_utf8"
    except ValueError:
        return "truncated"
    if "user" not in event:
        return "missing_user"
    if event["type"] not in {"impression", "view", "cart", "purchase", "search"}:
        return "unknown_type"
    if not isinstance(event["ts"], int):
        return "unparsable_time"
    if event["ts"] > datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000:
        return "future_time"
    return "oversized_field" if any(len(str(value)) >= OVERSIZED for value in event.values()) else None


def arrivals(simulated: Simulated) -> list[tuple[date, dict[str, Any]]]:
    return [
        (day, json.loads(line))
        for day, lines in simulated.files("events")
        for line in lines
        if fault_of(line) is None
    ]


def happened(event: dict[str, Any]) -> date:
    return datetime.fromtimestamp(event["ts"] / 1000, UTC).date()


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_what_it_is_called(damage: str) -> None:
    for seed in range(20):
        line = damaged(LINE, damage, np.random.default_rng(seed))
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert fault_of(line[:-1]) == damage
    assert fault_of(LINE) is None


def test_the_report_counts_what_is_in_the_files(small: Simulated) -> None:
    lines = [line for _, lines in small.files("events") for line in lines]
    assert Counter(filter(None, map(fault_of, lines))) == small.report.damages
    assert sum(small.report.damages.values()) == small.report.faults["broken"]
    assert len(lines) == small.report.events + small.report.faults["duplicated"]
    intact = arrivals(small)
    repeated = sum(count - 1 for count in Counter(event["id"] for _, event in intact).values())
    assert repeated == small.report.faults["duplicated"]
    for kind in ("events", "items"):
        for day, rows in small.files(kind):
            name = f"{kind}/{day}.jsonl"
            assert small.report.files[name].lines == len(rows)
            assert small.report.files[name].bytes == (small.landing / name).stat().st_size


@pytest.mark.parametrize("fault", ["late", "duplicated", "out_of_order", "broken"])
def test_each_fault_strikes_at_its_rate(
    fault: str, clean: Simulated, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = SMALL.model_copy(update={**FAULTLESS, fault: 0.2, "events": 6_000})
    struck = run(config, tmp_path_factory.mktemp(fault))
    expected = 0.2 * 6_000
    if fault == "late":  # nothing is late on the last of the six days
        expected *= 5 / 6
    assert struck.report.faults[fault] == pytest.approx(expected, rel=0.15)
    assert {name for name, count in struck.report.faults.items() if count} == {fault}
    assert set(clean.report.faults.values()) == {0}


def test_late_events_arrive_within_three_days(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = SMALL.model_copy(update={**FAULTLESS, "late": 0.1})
    late = run(config, tmp_path_factory.mktemp("late"))
    delays = Counter((day - happened(event)).days for day, event in arrivals(late))
    assert set(delays) == {0, 1, 2, 3}
    assert late.report.faults["late"] == delays[1] + delays[2] + delays[3]
    assert delays[1] > delays[2] > delays[3] > 100  # the end of the period cuts long delays short


def test_duplicates_are_equal_lines_of_the_same_or_the_next_day(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = SMALL.model_copy(update={**FAULTLESS, "duplicated": 0.1})
    first: dict[str, tuple[date, dict[str, Any]]] = {}
    gaps = []
    for day, event in arrivals(run(config, tmp_path_factory.mktemp("duplicated"))):
        if event["id"] in first:
            assert first[event["id"]][1] == event
            gaps.append(day - first[event["id"]][0])
        else:
            first[event["id"]] = (day, event)
    assert set(gaps) == {timedelta(0), timedelta(days=1)}


def test_disorder_stays_within_the_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = SMALL.model_copy(update={**FAULTLESS, "out_of_order": 0.1})
    mixed = run(config, tmp_path_factory.mktemp("mixed"))
    assert all(day == happened(event) for day, event in arrivals(mixed))
    times = np.array([event["ts"] for _, event in arrivals(mixed)])
    behind = np.maximum.accumulate(times) - times
    assert (behind > 0).mean() == pytest.approx(0.1, rel=0.2)
    assert behind.max() < 15 * 60_000
