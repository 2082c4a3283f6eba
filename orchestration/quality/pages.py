"""Data docs that open without a network: the pages of Great Expectations in a frame of our own, and an index."""

from __future__ import annotations

import copy
import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.artifacts import read_json
from orchestration.quality.trends import merged, trend_table

if TYPE_CHECKING:
    from orchestration.quality.report import Failure, QualityReport

_LISTED = 60
_SCRIPTS = re.compile(r"<script\b.*?</script>", re.DOTALL)
_CONTENT = re.compile(r'<div class="container-fluid.*?(?=<footer>)', re.DOTALL)
_SIDEBAR_TOOLS = re.compile(r'<div class="card mb-3">.*?Failed Only.*?(?:</div>\s*){5}', re.DOTALL)
_DETAILS = re.compile(
    r'<div id="section-1-content-block-3" .*?(?=</div>\s*</div>\s*<div id="section-2")', re.DOTALL
)
_SUITE_LINK = re.compile(r'<a href="[^"]*expectations/[^"]*" >(.*?)</a>', re.DOTALL)

# Great Expectations takes styles and icons from public servers, and asks one of them for its logo on each view. This
# is what its pages need of them.
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --bad: #c62828; --good: #2e7d32; --warn: #b26a00 }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 1rem }
a { color: #1a73e8 }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem }
td, th { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top }
ul { margin: 0; padding-left: 1.1rem }
h5, h6 { font-size: 1.05rem; margin: .3rem 0 }
.alert { background: var(--soft); border-radius: 6px; padding: .5rem .8rem; margin: 1.2rem 0 .4rem }
.badge { background: var(--soft); border-radius: 4px; padding: .05rem .35rem; margin: 0 .1rem }
.ge-navigation-sidebar-content { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0 }
.card-header, .cooltip .top { display: none }
.fa-check-circle::before { content: "\\2714"; color: var(--good) }
.fa-times::before { content: "\\2718"; color: var(--bad) }
.fa-exclamation-triangle::before { content: "\\25B2"; color: var(--warn) }
.text-danger, .failed { color: var(--bad) } .text-success, .passed { color: var(--good) }
.text-warning, .warned { color: var(--warn) }
[hidden] { display: none }
"""


def result_page(report: QualityReport, result: Any) -> str:
    """Return the page of one verdict: our summary, then Great Expectations' own rendering of it.

    Parameters
    ----------
    report
        The verdict.
    result
        The ``ExpectationSuiteValidationResult`` that it was made from.
    """
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    # Values come from logs that anyone can write to, and Great Expectations puts them on the page as they are.
    safe = copy.deepcopy(result)
    for outcome in safe.results:
        outcome.result = _escaped(outcome.result)
    page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(safe))
    found = _CONTENT.search(_SCRIPTS.sub("", page))
    content = found.group(0) if found else ""
    for pattern, replacement in ((_SIDEBAR_TOOLS, ""), (_DETAILS, ""), (_SUITE_LINK, r"\1")):
        content = pattern.sub(replacement, content, count=1)
    title = f"{report.suite} · {report.batch}"
    return frame(title, f'<p><a href="../index.html">All data docs</a></p>{_verdict(report)}{content}')


def index_page(docs: Path) -> str:
    """Return the page that lists the newest verdicts of every suite below ``docs``, and how its measures went.

    Older verdicts keep their pages and results; they are only not listed, so that a night does not read them all.
    """
    sections = []
    for folder in sorted((docs / "results").iterdir()):
        names = sorted((path.stem for path in folder.glob("*.json")), reverse=True)
        records = [read_json(folder / f"{name}.json") for name in names[:_LISTED]]
        if not records:
            continue
        rows = "".join(_row(record) for record in records)
        head = "".join(
            f"<th>{name}</th>" for name in ("Batch", "Verdict", "Rows", "Promises", "Broken", "Skipped")
        )
        older = f"<p>{len(names) - _LISTED} older ones are not listed.</p>" if len(names) > _LISTED else ""
        sections.append(
            f"<h2>{escape(folder.name)}</h2>{trend_table(merged(records[::-1]))}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{older}"
        )
    return frame("Data docs", "".join(sections))


def _row(record: dict[str, Any]) -> str:
    errors = [failure for failure in record["failures"] if failure["severity"] == "error"]
    warnings = [failure for failure in record["failures"] if failure["severity"] == "warning"]
    suite, batch = escape(record["suite"]), escape(record["batch"])
    kind, word = _state(len(errors), len(warnings))
    told = "<br>".join(
        f'<span class="{"failed" if failure["severity"] == "error" else "warned"}">{escape(failure["rule"])}</span>'
        for failure in (*errors, *warnings)
    )
    skipped = len(record.get("skipped", ()))
    return (
        f'<tr><td><a href="{suite}/{batch}.html">{batch}</a></td><td class="{kind}">{word}</td>'
        f"<td>{record['rows']:,}</td><td>{record['rules']}</td><td>{told}</td><td>{skipped or ''}</td></tr>"
    )


def _verdict(report: QualityReport) -> str:
    kind, word = _state(len(report.errors), len(report.warnings))
    sampled = (
        "" if report.rows_checked == report.rows else f" (values checked on {report.rows_checked:,} of them)"
    )
    items = "".join(
        f'<li><span class="{"failed" if failure.severity == "error" else "warned"}">{failure.severity}</span>: '
        f"{escape(str(failure))}{' · ' + escape(failure.why) if failure.why else ''}{_rows(failure)}</li>"
        for failure in report.failures
    )
    return (
        f'<p><b class="{kind}">{word}</b>: {report.rules} promises on {report.rows:,} rows{sampled}.</p>'
        f"<ul>{items}{''.join(f'<li>not compared: {escape(told)}</li>' for told in report.skipped)}</ul>"
        f"{trend_table(report.trend)}"
    )


def _rows(failure: Failure) -> str:
    return f' · <a href="../{escape(failure.rows)}">failing rows (Parquet)</a>' if failure.rows else ""


def _state(errors: int, warnings: int) -> tuple[str, str]:
    if errors:
        return "failed", "failed"
    return ("warned", "passed with warnings") if warnings else ("passed", "passed")


def _escaped(value: Any) -> Any:
    """Return a nested value with every text in it made safe for a page."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {name: _escaped(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_escaped(part) for part in value)
    return value


def frame(title: str, body: str) -> str:
    """Return a page of ours that needs nothing beside it; ``body`` is HTML, ``title`` is not."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)} · Tessera</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )
