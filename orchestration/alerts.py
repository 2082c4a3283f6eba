"""Alerts: which failures of finished runs are news, one message for each run, and its way to a webhook. No Dagster."""

from __future__ import annotations

import http.client
import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

TIMEOUT_S = 5.0
ATTEMPTS = 3
# Less than the day between two nights, which never begin and fail at the same second.
_AGAIN = timedelta(hours=20)
_FIRST = timedelta(days=1)
_FORGOTTEN = timedelta(days=30)
_REASON = 500
_LISTED = 20
_RECENT = 100
# These blame the message; 401, 403 or 404 the webhook, which may be mended.
_REFUSED = {400, 413, 422}


class AlertError(Exception):
    """A message did not arrive; one line, without the webhook's path, which may be a secret."""


class MessageRefusedError(AlertError):
    """The webhook does not take this message, and never will."""


class _TransientError(AlertError):
    """A message did not arrive, and may at the next attempt."""


@dataclass(frozen=True)
class Problem:
    """One thing that failed.

    Parameters
    ----------
    kind
        A step, an asset check, or the run itself where no step can be blamed.
    name
        Of the step, ``ASSET: CHECK``, or of the job.
    reason
        One line.
    severity
        What a check says of itself; a ``WARN`` is told beside errors, and is no reason to send a message.
    """

    kind: Literal["step", "check", "run"]
    name: str
    reason: str
    severity: Literal["ERROR", "WARN"] = "ERROR"

    @property
    def key(self) -> str:
        """What makes it the same thing, whichever the partition."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended: what failed in it, and the keys of what passed; ``FIRST...LAST`` of a range of partitions."""

    run_id: str
    job: str
    partition: str | None
    ended_at: datetime
    failed: Sequence[Problem] = ()
    passed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class State:
    """What has been told: the cursor of a sensor.

    Parameters
    ----------
    after
        Runs that ended before this were looked at.
    recent
        Ids of the last of them: times alone do not tell runs apart.
    told
        ``JOB KEY`` of what fails to when that was last told as an error.
    """

    after: datetime
    recent: tuple[str, ...] = ()
    told: dict[str, datetime] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str | None, now: datetime) -> Self:
        """Read a cursor; without one, or where it lies in the future, begin with what ended in the last day.

        A clock that was ahead leaves such a cursor, and until then no run would be looked at.
        """
        if not text:
            return cls(now - _FIRST)
        content = json.loads(text)
        after = datetime.fromisoformat(content["after"])
        told = {key: min(datetime.fromisoformat(at), now) for key, at in content["told"].items()}
        return cls(after if after <= now else now - _FIRST, tuple(content["recent"]), told)

    def dump(self) -> str:
        """Write a cursor."""
        told = {key: at.isoformat() for key, at in sorted(self.told.items())}
        return json.dumps({"after": self.after.isoformat(), "recent": self.recent, "told": told})

    def is_news(self, run: FinishedRun, problems: Sequence[Problem], now: datetime) -> bool:
        """Tell whether any of the errors of a run has not been told since it last passed, nor within 20 hours."""
        return any(
            now - self.told.get(f"{run.job} {problem.key}", datetime.min.replace(tzinfo=now.tzinfo)) >= _AGAIN
            for problem in problems
            if problem.severity == "ERROR"
        )

    def with_told(self, run: FinishedRun, problems: Sequence[Problem], now: datetime) -> State:
        """Note that the errors of a run were told; a check that only warned may still fail as an error."""
        errors = {f"{run.job} {problem.key}": now for problem in problems if problem.severity == "ERROR"}
        return replace(self, told=self.told | errors)

    def past(self, run: FinishedRun) -> State:
        """Go past a run: what passed in it is told again when it fails the next time."""
        failed = {problem.key for problem in run.failed}
        passed = {f"{run.job} {key}" for key in run.passed - failed}
        told = {
            key: at for key, at in self.told.items() if key not in passed and run.ended_at - at < _FORGOTTEN
        }
        recent = (*self.recent, run.run_id)[-_RECENT:]
        return State(max(self.after, run.ended_at), recent, told)


def message(run: FinishedRun, problems: Sequence[Problem], owner: str | None, ui: str) -> dict[str, Any]:
    """Return one message for all that failed in a run.

    Parameters
    ----------
    owner
        Who is to look.
    ui
        Where Dagster's UI is.

    Returns
    -------
    JSON-able: ``text`` for people, as the usual chat webhooks show it, and the same in parts for programs. Of many
    problems only the first are named, errors before warnings: webhooks refuse long messages.
    """
    link = f"{ui.rstrip('/')}/runs/{run.run_id}"
    where = f"{run.job} {run.partition}" if run.partition else run.job
    ordered = sorted(problems, key=lambda problem: problem.severity)
    told = [replace(problem, reason=_one_line(problem.reason)) for problem in ordered[:_LISTED]]
    lines = [f"{where}: {len(problems)} failed" + (f", {owner} please look" if owner else "")]
    lines += [f"- {p.kind} {p.name} ({p.severity}): {p.reason}" for p in told]
    if len(problems) > len(told):
        lines.append(f"- and {len(problems) - len(told)} more")
    return {
        "text": "\n".join([*lines, link]),
        "owner": owner,
        "job": run.job,
        "partition": run.partition,
        "run_id": run.run_id,
        "ended_at": run.ended_at.isoformat(),
        "link": link,
        "problems": [vars(problem) for problem in told],
    }


def check_webhook(url: str) -> str:
    """Return the address of a webhook that messages may be sent to.

    Raises
    ------
    ValueError
        If it is neither https nor http on the loopback interface.
    """
    parts = urlsplit(url)
    if parts.hostname and (
        parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))
    ):
        return url
    raise ValueError("must be https://..., or http:// on the loopback interface")


def post(webhook: str, content: dict[str, Any], wait_s: float = 1.0) -> None:
    """Send a message, at most three times; redirects are not followed.

    Parameters
    ----------
    wait_s
        Seconds before the second attempt; twice that before the third.

    Raises
    ------
    AlertError
        If it does not arrive; :class:`MessageRefusedError` if another attempt is of no use.
    """
    for attempt in Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=wait_s),
        retry=retry_if_exception_type(_TransientError),
        reraise=True,
    ):
        with attempt:
            _post_once(check_webhook(webhook), content)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _post_once(webhook: str, content: dict[str, Any]) -> None:
    request = urllib.request.Request(
        webhook,
        json.dumps(content).encode(),
        {"Content-Type": "application/json", "User-Agent": "tessera"},
        method="POST",
    )
    host = urlsplit(webhook).hostname
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        raise _kind_of(error.code)(f"the webhook at {host} answered {error.code}") from None
    except OSError as error:
        cause = getattr(error, "reason", error)
        raise _TransientError(f"the webhook at {host} cannot be reached: {_one_line(str(cause))}") from None
    except http.client.HTTPException as error:
        # Its text may hold the webhook's path.
        raise _TransientError(f"the webhook at {host} does not speak HTTP: {type(error).__name__}") from None


def _kind_of(status: int) -> type[AlertError]:
    if status in _REFUSED:
        return MessageRefusedError
    return _TransientError if status == 429 or status >= 500 else AlertError


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _REASON else f"{line[: _REASON - 1]}…"
