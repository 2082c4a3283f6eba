"""Sensors that tell a webhook what failed: one message for each run, once until it passes again."""

# Dagster compares the annotation of `context` with its classes, so annotations must not be strings here.

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

import dagster as dg

from orchestration.alerts import AlertError, FinishedRun, MessageRefusedError, Problem, State, message, post
from orchestration.settings import get_settings

_LOOKED_AT = {
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
# Stamps of runs that end at the same time may reach the storage in another order.
_OVERLAP = timedelta(seconds=5)
_MOST_RUNS = 100
_PARTITION = "dagster/partition"
_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@dg.definitions
def alert_sensors() -> dg.Definitions:
    """Return the sensors; they run by themselves where there is a webhook."""
    return dg.Definitions(sensors=[failed_runs(), failed_checks()])


def failed_runs() -> dg.SensorDefinition:
    """Tell the webhook of each run that failed: its steps, and its checks with them."""
    return _sensor("alert_of_failed_runs", failed_runs.__doc__, dg.DagsterRunStatus.FAILURE)


def failed_checks() -> dg.SensorDefinition:
    """Tell the webhook of each run that went through although checks failed."""
    return _sensor("alert_of_failed_checks", failed_checks.__doc__, dg.DagsterRunStatus.SUCCESS)


def _sensor(name: str, told: str | None, status: dg.DagsterRunStatus) -> dg.SensorDefinition:
    running = get_settings().alert_webhook is not None

    @dg.sensor(
        name=name,
        description=told,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
    )
    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return _tell(context, status)

    return look


def _tell(context: dg.SensorEvaluationContext, status: dg.DagsterRunStatus) -> dg.SensorResult:
    settings, now = get_settings(), datetime.now(UTC)
    if settings.alert_webhook is None:
        return dg.SensorResult(skip_reason="TESSERA_ALERT_WEBHOOK is not set", cursor=context.cursor)
    state, sent = State.read(context.cursor, now), 0
    said: list[str] = []
    for run, ended in _finished_runs(context.instance, state, now):
        problems = run.failed if ended == status else ()
        if state.is_news(run, problems, now):
            content = message(run, problems, settings.owner, settings.ui_url)
            try:
                post(settings.alert_webhook.get_secret_value(), content)
                state, sent = state.with_told(run, problems, now), sent + 1
            except MessageRefusedError as error:
                # Trying again would hold up every later run, and be refused again.
                context.log.error(f"run {run.run_id} is not told: {error}")
                said.append(f"run {run.run_id} is not told: {error}")
            except AlertError as error:
                # The cursor stays before this run, so that the next tick tries again.
                context.log.error(f"run {run.run_id} was not told: {error}")
                said.append(f"not told, to be tried again: {error}")
                break
        state = state.past(run)
    told = [f"{sent} messages sent"] if sent else []
    return dg.SensorResult(skip_reason="; ".join(told + said) or "nothing new failed", cursor=state.dump())


def _finished_runs(
    instance: dg.DagsterInstance, state: State, now: datetime
) -> Iterator[tuple[FinishedRun, dg.DagsterRunStatus]]:
    """Yield the runs that ended since, in the order in which they did."""
    records = instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE],
            updated_after=state.after - _OVERLAP,
        ),
        limit=_MOST_RUNS,
        order_by="update_timestamp",
        ascending=True,
    )
    for record in records:
        run = record.dagster_run
        if run.run_id in state.recent:
            continue
        failed, passed = _outcomes(instance, run)
        partition = run.tags.get(_PARTITION) or "...".join(
            dict.fromkeys(run.tags[tag] for tag in _RANGE if tag in run.tags)
        )
        ended = record.update_timestamp
        ended = ended if ended.tzinfo is not None else ended.replace(tzinfo=UTC)
        # A stamp of a clock that was ahead would put the cursor past runs that are yet to end.
        ended = min(ended, now)
        yield (
            FinishedRun(run.run_id, run.job_name, partition or None, ended, failed, frozenset(passed)),
            run.status,
        )


def _outcomes(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[list[Problem], set[str]]:
    """Return what failed in a run, and the keys of what passed."""
    found: dict[str, Problem | None] = {}
    lost = "the run ended without a failing step; its log says why"
    for entry in instance.all_logs(run.run_id, of_type=_LOOKED_AT):
        event = entry.get_dagster_event()
        if event.event_type == dg.DagsterEventType.RUN_FAILURE:
            lost = event.message or lost
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            told = event.asset_check_evaluation_data
            name = f"{told.asset_key.to_user_string()}: {told.check_name}"
            severity: Literal["ERROR", "WARN"] = (
                "WARN" if told.severity == dg.AssetCheckSeverity.WARN else "ERROR"
            )
            problem = Problem("check", name, _why(told), severity)
            found[problem.key] = None if told.passed else problem
        else:
            problem = Problem("step", event.step_key or "?", _cause(event))
            found[problem.key] = problem if event.is_step_failure else None
    failed = [problem for problem in found.values() if problem is not None]
    own = Problem("run", run.job_name, lost)
    if run.status == dg.DagsterRunStatus.SUCCESS:
        found[own.key] = None
    elif not failed:
        failed.append(own)
    return failed, {key for key, problem in found.items() if problem is None}


def _cause(event: dg.DagsterEvent) -> str:
    if not event.is_step_failure:
        return ""
    data = event.step_failure_data
    told = data.user_failure_data.description if data.user_failure_data else None
    error = (data.error.cause or data.error) if data.error else None
    lines = (told or (error.message if error else "")).strip().splitlines()
    return lines[0] if lines else "unknown cause"


def _why(check: dg.AssetCheckEvaluation) -> str:
    """Return what a check says of itself, else its metadata."""
    if check.description:
        return check.description
    told = [f"{name} {value.value}" for name, value in check.metadata.items() if _is_short(value.value)]
    return ", ".join(told) or "no reason was given"


def _is_short(value: object) -> bool:
    return isinstance(value, int | float | str)
