"""What is told of failures: when, in which words, and to whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr, ValidationError

from orchestration.alerts import (
    ATTEMPTS,
    AlertError,
    FinishedRun,
    MessageRefusedError,
    Problem,
    State,
    check_webhook,
    message,
    post,
)
from orchestration.defs import alerts as sensors
from orchestration.settings import Settings
from tests.orchestration.receiver import Receiver, receiver

NOW = datetime(2025, 3, 2, 2, 0, tzinfo=UTC)
STEP = Problem("step", "marts", "disk full")
CHECK = Problem("check", "item_index: recall_against_exact", "recall 0.4")
WARNING = Problem("check", "raw_events: volume", "few rows", "WARN")


def run(*failed: Problem, name: str = "r1", passed: tuple[Problem, ...] = ()) -> FinishedRun:
    return FinishedRun(
        name, "nightly", "2025-03-01", NOW, failed, frozenset(problem.key for problem in passed)
    )


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as state:
        yield state


def test_one_message_holds_all_that_failed_in_a_run() -> None:
    problems = [STEP, CHECK, WARNING]
    told = message(run(*problems), problems, "data@shop.example", "https://dagster.shop.example/")
    assert told["text"].splitlines() == [
        "nightly 2025-03-01: 3 failed, data@shop.example please look",
        "- step marts (ERROR): disk full",
        "- check item_index: recall_against_exact (ERROR): recall 0.4",
        "- check raw_events: volume (WARN): few rows",
        "https://dagster.shop.example/runs/r1",
    ]
    assert (told["owner"], told["job"], told["partition"]) == ("data@shop.example", "nightly", "2025-03-01")
    assert told["problems"][1] == {
        "kind": "check",
        "name": "item_index: recall_against_exact",
        "reason": "recall 0.4",
        "severity": "ERROR",
    }


def test_long_messages_are_cut() -> None:
    problems = [Problem("step", f"s{n}", "x\ny " * 500) for n in range(30)]
    told = message(run(WARNING, *problems), [WARNING, *problems], None, "u")
    lines = told["text"].splitlines()
    assert len(lines) == 23
    assert lines[0] == "nightly 2025-03-01: 31 failed"
    assert lines[-2] == "- and 11 more"
    assert max(len(line) for line in lines) < 600
    # What programs read is cut too, and no error is cut off before a warning.
    assert [problem["name"] for problem in told["problems"]] == [f"s{n}" for n in range(20)]


def test_the_same_failure_is_told_once_until_it_passes_or_most_of_a_day_has_gone() -> None:
    state = State(NOW - timedelta(hours=1))
    first = run(STEP)
    assert state.is_news(first, first.failed, NOW)
    state = state.with_told(first, first.failed, NOW).past(first)
    again = run(STEP, name="r2")
    assert not state.is_news(again, again.failed, NOW + timedelta(hours=19))
    assert state.is_news(again, again.failed, NOW + timedelta(hours=20))
    # Another thing in the same job is news, and so is the same thing in another job.
    assert state.is_news(run(STEP, CHECK), (STEP, CHECK), NOW)
    assert state.is_news(FinishedRun("r3", "retrain", None, NOW, (STEP,)), (STEP,), NOW)
    state = state.past(run(passed=(STEP,), name="r4"))
    assert state.is_news(again, again.failed, NOW + timedelta(hours=1))


@pytest.mark.parametrize("jitter", [-1800, -1, 1, 1800])
def test_what_fails_every_night_is_told_every_night(jitter: int) -> None:
    state, told = State(NOW), []
    for night in range(7):
        at = NOW + timedelta(days=night, seconds=jitter * (night % 2))
        failed = run(STEP, name=f"n{night}")
        told.append(state.is_news(failed, failed.failed, at))
        state = (state.with_told(failed, failed.failed, at) if told[-1] else state).past(failed)
    assert told == [True] * 7


def test_warnings_alone_are_no_reason_for_a_message() -> None:
    assert not State(NOW).is_news(run(WARNING), (WARNING,), NOW)


def test_check_that_was_listed_as_a_warning_is_news_as_an_error() -> None:
    first, error = run(STEP, WARNING), replace(WARNING, severity="ERROR")
    state = State(NOW).with_told(first, first.failed, NOW).past(first)
    assert state.is_news(run(STEP, error), (STEP, error), NOW + timedelta(hours=1))


def test_a_cursor_is_read_as_it_was_written() -> None:
    state = State(NOW).with_told(run(STEP), (STEP,), NOW).past(run(STEP))
    assert State.read(state.dump(), NOW) == state
    assert State.read(None, NOW) == State(NOW - timedelta(days=1))
    later = FinishedRun("r9", "backfill", None, NOW + timedelta(days=31))
    assert state.past(later).told == {}


def test_cursor_of_a_clock_that_was_ahead_looks_at_the_last_day() -> None:
    ahead = NOW + timedelta(days=400)
    late = replace(run(STEP), ended_at=ahead)
    state = State.read(State(ahead).with_told(late, (STEP,), ahead).past(late).dump(), NOW)
    assert (state.after, state.recent) == (NOW - timedelta(days=1), ("r1",))
    # What was told then counts as told now, and not as told until the clock is there again.
    assert not state.is_news(run(STEP), (STEP,), NOW + timedelta(hours=19))
    assert state.is_news(run(STEP), (STEP,), NOW + timedelta(hours=20))


@pytest.mark.parametrize(
    "url", ["https://chat.example/hook", "http://127.0.0.1:9/x", "http://[::1]/x", "http://localhost"]
)
def test_safe_webhooks_are_taken(url: str) -> None:
    assert check_webhook(url) == url
    assert Settings(alert_webhook=SecretStr(url)).alert_webhook is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://chat.example/hook",
        "ftp://x",
        "file:///etc/passwd",
        "https://",
        "http://127.0.0.1.evil.example/",
    ],
)
def test_other_webhooks_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must be https"):
        Settings(alert_webhook=SecretStr(url))


def test_owner_is_as_dagster_wants_it() -> None:
    assert Settings(owner="team:recs").owner == "team:recs"
    with pytest.raises(ValidationError, match="owner"):
        Settings(owner="somebody")


def test_busy_webhook_is_asked_again(hook: Receiver) -> None:
    hook.answers = [503, 429]
    post(hook.url, {"text": "a"}, wait_s=0)
    assert (hook.asked, hook.messages) == (3, [{"text": "a"}])


@pytest.mark.parametrize(("answers", "asked"), [([500] * 9, ATTEMPTS), ([404], 1), ([302], 1)])
def test_message_that_does_not_arrive_is_told_without_the_secret(
    hook: Receiver, answers: list[int], asked: int
) -> None:
    hook.answers = list(answers)
    with pytest.raises(AlertError, match=rf"^the webhook at 127\.0\.0\.1 answered {answers[0]}$"):
        post(hook.url, {"text": "a"}, wait_s=0)
    assert hook.asked == asked


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused_message_is_no_failure_of_the_webhook(hook: Receiver, status: int) -> None:
    hook.answers = [status]
    with pytest.raises(MessageRefusedError, match=rf"answered {status}$"):
        post(hook.url, {"text": "a"}, wait_s=0)
    assert hook.asked == 1


def test_answer_that_is_no_http_is_told(hook: Receiver) -> None:
    hook.answers = [0] * ATTEMPTS
    with pytest.raises(AlertError, match=r"^the webhook at 127\.0\.0\.1 does not speak HTTP: BadStatusLine$"):
        post(hook.url, {"text": "a"}, wait_s=0)
    assert hook.asked == ATTEMPTS


def test_webhook_that_is_down_is_told(hook: Receiver) -> None:
    with receiver() as gone:
        url = gone.url
    with pytest.raises(AlertError, match=r"^the webhook at 127\.0\.0\.1 cannot be reached: .*refused$"):
        post(url, {}, wait_s=0)


class World:
    """An instance, a receiver, and a job whose step and check fail on demand."""

    def __init__(self, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance = instance
        self.monkeypatch = monkeypatch
        self.cursors: dict[str, str | None] = {}

    def set(self, webhook: str | None) -> None:
        secret = SecretStr(webhook) if webhook else None
        settings = Settings(alert_webhook=secret, owner="team:recs", ui_url="http://ui")
        self.monkeypatch.setattr(sensors, "get_settings", lambda: settings)

    def run(
        self,
        step: str | None = None,
        checks: dict[str, str] | None = None,
        second: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> str:
        """Run the job; return the id. ``checks`` maps those that fail to their severity."""
        failing = checks or {}

        @dg.asset(check_specs=[dg.AssetCheckSpec(name, asset="index") for name in ("recall", "size")])
        def index() -> Iterator[dg.MaterializeResult]:
            if step:
                raise dg.Failure(description=step, allow_retries=False)
            yield dg.MaterializeResult(
                check_results=[
                    dg.AssetCheckResult(
                        check_name=name,
                        passed=name not in failing,
                        severity=dg.AssetCheckSeverity(failing.get(name, "ERROR")),
                        metadata={"found": 0.4, "big": dg.MetadataValue.json({"a": 1})},
                    )
                    for name in ("recall", "size")
                ]
            )

        @dg.asset
        def lists() -> None:
            if second:
                raise ValueError(second)

        job = dg.Definitions(assets=[index, lists], jobs=[dg.define_asset_job("nightly")]).resolve_job_def(
            "nightly"
        )
        return job.execute_in_process(instance=self.instance, raise_on_error=False, tags=tags).run_id

    def tick(self, sensor: dg.SensorDefinition) -> str:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursors.get(sensor.name))
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.cursors[sensor.name] = result.cursor
        assert isinstance(result.skip_reason, dg.SkipReason)
        return str(result.skip_reason.skip_message)


@pytest.fixture
def world(hook: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with dg.instance_for_test() as instance:
        made = World(instance, monkeypatch)
        made.set(hook.url)
        monkeypatch.setattr(sensors, "post", lambda url, content: post(url, content, wait_s=0))
        yield made


def test_failed_run_is_told_once_with_all_its_steps(world: World, hook: Receiver) -> None:
    failed = world.run(step="the index file is gone", second="no lists\nof any kind")
    assert world.tick(sensors.failed_runs()) == "1 messages sent"
    (told,) = hook.messages
    assert (told["run_id"], told["link"], told["owner"]) == (failed, f"http://ui/runs/{failed}", "team:recs")
    reasons = {problem["name"]: problem["reason"] for problem in told["problems"]}
    assert reasons == {"index": "the index file is gone", "lists": "ValueError: no lists"}
    assert world.tick(sensors.failed_runs()) == "nothing new failed"
    world.run(step="the index file is gone", second="no lists")
    assert world.tick(sensors.failed_runs()) == "nothing new failed"
    world.run()
    world.run(second="no lists")
    assert world.tick(sensors.failed_runs()) == "1 messages sent"
    assert [problem["name"] for problem in hook.messages[-1]["problems"]] == ["lists"]


def test_failed_checks_of_a_run_that_went_through_are_one_message(world: World, hook: Receiver) -> None:
    world.run(checks={"size": "WARN"})
    assert world.tick(sensors.failed_checks()) == "nothing new failed"
    world.run(checks={"recall": "ERROR", "size": "WARN"})
    assert world.tick(sensors.failed_checks()) == "1 messages sent"
    assert [(p["name"], p["severity"], p["reason"]) for p in hook.messages[0]["problems"]] == [
        ("index: recall", "ERROR", "found 0.4"),
        ("index: size", "WARN", "found 0.4"),
    ]
    assert world.tick(sensors.failed_runs()) == "nothing new failed"
    world.run(checks={"recall": "ERROR"})
    assert world.tick(sensors.failed_checks()) == "nothing new failed"


def test_webhook_that_was_down_is_told_later(world: World, hook: Receiver) -> None:
    hook.answers = [500] * ATTEMPTS
    world.run(step="first")
    said = world.tick(sensors.failed_runs())
    assert said == "not told, to be tried again: the webhook at 127.0.0.1 answered 500"
    world.run(step="first", second="second")
    assert world.tick(sensors.failed_runs()) == "2 messages sent"
    assert [len(told["problems"]) for told in hook.messages] == [1, 2]


def test_refused_message_holds_up_no_later_one(world: World, hook: Receiver) -> None:
    hook.answers = [200, 413]
    world.run(step="first")
    refused = world.run(second="second")
    world.run(checks={"recall": "ERROR"}, second="second")
    said = world.tick(sensors.failed_runs())
    assert said == f"2 messages sent; run {refused} is not told: the webhook at 127.0.0.1 answered 413"
    # What was not told is told when it fails the next time.
    assert [[p["name"] for p in told["problems"]] for told in hook.messages] == [
        ["index"],
        ["index: recall", "lists"],
    ]
    assert world.tick(sensors.failed_runs()) == "nothing new failed"
    assert hook.asked == 3


def test_bad_answer_repeats_no_earlier_message(world: World, hook: Receiver) -> None:
    hook.answers = [200] + [0] * ATTEMPTS
    world.run(step="first")
    world.run(second="second")
    assert world.tick(sensors.failed_runs()).startswith("1 messages sent; not told, to be tried again: ")
    assert world.tick(sensors.failed_runs()) == "1 messages sent"
    assert [told["problems"][0]["name"] for told in hook.messages] == ["index", "lists"]


def set_clock(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Let the sensors' clock differ from that of the runs."""

    class Moved(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Moved:
            return cls.fromtimestamp((datetime.now(tz) + by).timestamp(), tz)

    monkeypatch.setattr(sensors, "datetime", Moved)


def test_clock_that_was_ahead_does_not_silence_what_fails_after_it(
    world: World, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(step="first")
    world.cursors = {
        "alert_of_failed_runs": State(datetime.now(UTC) + timedelta(days=400), ("of then",)).dump()
    }
    assert world.tick(sensors.failed_runs()) == "1 messages sent"
    # Runs whose own stamps are ahead are told, once, and keep no later one from being told.
    set_clock(monkeypatch, -timedelta(hours=1))
    world.run(second="second")
    assert world.tick(sensors.failed_runs()) == "1 messages sent"
    cursor = world.cursors["alert_of_failed_runs"]
    assert cursor is not None
    assert datetime.fromisoformat(json.loads(cursor)["after"]) < datetime.now(UTC) - timedelta(minutes=59)
    assert world.tick(sensors.failed_runs()) == "nothing new failed"
    assert [told["problems"][0]["name"] for told in hook.messages] == ["index", "lists"]


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({}, None),
        ({"": "2025-03-01"}, "2025-03-01"),
        ({"_range_start": "2025-03-01", "_range_end": "2025-03-30"}, "2025-03-01...2025-03-30"),
        ({"_range_start": "2025-03-01", "_range_end": "2025-03-01"}, "2025-03-01"),
    ],
)
def test_run_over_a_range_is_told_by_both_ends(
    world: World, hook: Receiver, tags: dict[str, str], told: str | None
) -> None:
    names = {end: f"dagster/{'asset_' if end else ''}partition{end}" for end in tags}
    world.run(step="first", tags={names[end]: day for end, day in tags.items()})
    world.tick(sensors.failed_runs())
    assert [sent["partition"] for sent in hook.messages] == [told]


def test_without_a_webhook_nothing_is_told_and_nothing_is_lost(world: World, hook: Receiver) -> None:
    world.set(None)
    world.run(step="first")
    assert world.tick(sensors.failed_runs()) == "TESSERA_ALERT_WEBHOOK is not set"
    world.set(hook.url)
    assert world.tick(sensors.failed_runs()) == "1 messages sent"


def test_sensors_run_by_themselves_where_there_is_a_webhook(world: World, hook: Receiver) -> None:
    def status() -> set[tuple[str, str]]:
        return {(s.name, s.default_status.value) for s in sensors.alert_sensors().sensors or ()}

    names = ("alert_of_failed_runs", "alert_of_failed_checks")
    assert status() == {(name, "RUNNING") for name in names}
    world.set(None)
    assert status() == {(name, "STOPPED") for name in names}


def test_killed_run_is_told(world: World, hook: Receiver) -> None:
    run_id = world.run()
    run = world.instance.get_run_by_id(run_id)
    assert run is not None
    world.instance.report_run_failed(run, message="The process of this run was killed.")
    world.tick(sensors.failed_runs())
    (told,) = hook.messages
    assert [(p["kind"], p["name"], p["reason"]) for p in told["problems"]] == [
        ("run", "nightly", "The process of this run was killed.")
    ]


def test_owner_of_the_settings_owns_every_asset_that_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration import definitions

    monkeypatch.setattr(definitions, "get_settings", lambda: Settings(home=tmp_path, owner="team:recs"))
    graph = definitions.defs().resolve_asset_graph()
    keys = [key for key in graph.get_all_asset_keys() if graph.get(key).is_materializable]
    owners = {key.to_user_string(): tuple(graph.get(key).owners) for key in keys}
    assert owners["marts"] == owners["champion"] == owners["raw_events"] == ("team:recs",)
    # What a dbt model says of itself stays.
    assert owners["marts/dim_items"] == ("team:warehouse",)
    assert all(owners.values())
