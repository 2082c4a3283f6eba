from __future__ import annotations

import errno
import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import FAULTLESS, SMALL, Simulated, contents, run

from orchestration.simulate import SimulationConfig, SimulationError, simulate
from orchestration.simulate import run as run_module
from orchestration.simulate.write import start_ms

TINY = SimulationConfig(days=3, items=30, users=20, events=400)
CONFIGS = st.builds(
    SimulationConfig,
    seed=st.integers(0, 2**40),
    days=st.integers(1, 5),
    start=st.dates(date(1999, 1, 1), date(2030, 1, 1)),
    items=st.integers(2, 60),
    users=st.integers(1, 60),
    events=st.integers(1, 400),
    late=st.floats(0, 0.5),
    duplicated=st.floats(0, 0.5),
    out_of_order=st.floats(0, 0.5),
    broken=st.floats(0, 0.5),
    chunk=st.integers(100, 200),
)


def test_the_same_configuration_gives_the_same_bytes(small: Simulated, tmp_path: Path) -> None:
    again = run(SMALL, tmp_path)
    assert contents(again.landing) == contents(small.landing)
    for name in ("users.parquet", "items.parquet"):
        assert (again.truth / name).read_bytes() == (small.truth / name).read_bytes()
    assert again.report == small.report


def test_another_seed_gives_other_logs(small: Simulated, tmp_path: Path) -> None:
    other = contents(run(SMALL.model_copy(update={"seed": 4}), tmp_path).landing)
    mine = contents(small.landing)
    assert all(other[name] != mine[name] for name in other.keys() & mine.keys())


def test_nothing_but_daily_files_lands(small: Simulated) -> None:
    days = {f"{SMALL.start + timedelta(days=n)}.jsonl" for n in range(SMALL.days)}
    assert {path.name for path in (small.landing / "events").iterdir()} == days
    assert {path.name for path in (small.landing / "items").iterdir()} <= days
    assert {path.name for path in small.landing.iterdir()} == {"events", "items"}
    assert set(small.report.files) == set(contents(small.landing))


def test_a_complete_simulation_is_left_as_it_is(tmp_path: Path) -> None:
    first = run(TINY, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(TINY, tmp_path).report == first.report
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps


def test_a_lost_or_shortened_file_is_made_again(tmp_path: Path) -> None:
    whole = contents(run(TINY, tmp_path).landing)
    events = tmp_path / "landing" / "events"
    for path, harm in zip(
        sorted(events.iterdir()), (Path.unlink, lambda p: p.write_bytes(b"")), strict=False
    ):
        harm(path)
        assert contents(run(TINY, tmp_path).landing) == whole
    (tmp_path / "truth" / "items.parquet").unlink()
    run(TINY, tmp_path)
    assert (tmp_path / "truth" / "items.parquet").is_file()


def test_another_configuration_replaces_its_own_files_only(tmp_path: Path) -> None:
    run(TINY, tmp_path)
    own = tmp_path / "landing" / "events" / "1999-12-31.jsonl"
    own.write_text("{}\n")
    shorter = TINY.model_copy(update={"days": 2, "seed": 9})
    run(shorter, tmp_path)
    expected = contents(run(shorter, tmp_path / "elsewhere").landing)
    found = contents(tmp_path / "landing")
    assert found.pop("events/1999-12-31.jsonl") == b"{}\n"
    assert found == expected


def test_a_killed_run_leaves_whole_files_and_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = TINY.model_copy(update={"days": 6})
    write_events = run_module._write_events

    def killed_on_day_four(world, day, *rest):  # type: ignore[no-untyped-def]
        if day == 4:
            raise KeyboardInterrupt
        write_events(world, day, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "_write_events", killed_on_day_four)
        with pytest.raises(KeyboardInterrupt):
            run(long, tmp_path)
    assert not (tmp_path / "truth" / "simulation.json").exists()
    partial = contents(tmp_path / "landing")
    whole = contents(run(long, tmp_path / "elsewhere").landing)
    assert len([name for name in partial if name.startswith("events/")]) == 4
    assert partial.items() <= whole.items()
    # A different, shorter simulation after the killed one leaves none of its files behind.
    assert contents(run(TINY, tmp_path).landing) == contents(run(TINY, tmp_path / "fresh").landing)


def test_days_are_written_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[list[str]] = []
    day_chunks = run_module.day_chunks

    def watched(world, day):  # type: ignore[no-untyped-def]
        written.append(sorted(path.stem for path in (tmp_path / "landing" / "events").glob("2*.jsonl")))
        return day_chunks(world, day)

    monkeypatch.setattr(run_module, "day_chunks", watched)
    run(TINY, tmp_path)
    assert written == [[], ["2025-03-01"], ["2025-03-01", "2025-03-02"]]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "landing" / "events" / "2025-03-01.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("old\n")
    monkeypatch.setattr("orchestration.simulate.write.os.fsync", no_space)
    with pytest.raises(SimulationError, match=r"^[^\n]*No space left on device$"):
        simulate(TINY, tmp_path / "landing", tmp_path / "truth")
    assert contents(tmp_path / "landing") == {"events/2025-03-01.jsonl": b"old\n"}


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "landing").write_text("")
    with pytest.raises(SimulationError, match=r"^[^\n]*landing[^\n]*$"):
        simulate(TINY, tmp_path / "landing", tmp_path / "truth")


@settings(max_examples=25, deadline=None)
@given(config=CONFIGS)
def test_any_configuration_holds_its_promises(
    config: SimulationConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    simulated = run(config, tmp_path_factory.mktemp("any"))
    lines = [line for _, lines in simulated.files("events") for line in lines]
    assert simulated.report.events == config.events
    assert len(lines) == config.events + simulated.report.faults["duplicated"]
    assert len(list(simulated.files("events"))) == config.days
    assert {item["id"] for item in simulated.items()} == {f"i{n:05d}" for n in range(config.items)}


@settings(max_examples=25, deadline=None)
@given(config=CONFIGS)
def test_any_faultless_logs_are_unique_sorted_and_of_their_day(
    config: SimulationConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    simulated = run(config.model_copy(update=FAULTLESS), tmp_path_factory.mktemp("any"))
    events = simulated.events()
    assert len({event["id"] for event in events}) == config.events
    times = [event["ts"] for event in events]
    assert times == sorted(times)
    start = start_ms(config)
    assert start <= times[0]
    assert times[-1] < start + config.days * 86_400_000
    for _, rows in simulated.files("events"):
        assert all(json.loads(row)["user"].startswith("u") for row in rows)
