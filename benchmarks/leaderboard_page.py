"""The page of a leaderboard: Markdown of committed runs alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ml.evaluation.leaderboard import BASELINE, Run, Summary, left_out, summarise

_GENERATIVE = ("generative", "language_model")
#: TIGER's own recipes, that of most successors' size first; what they gain is measured against each that was run.
_FIRST = ("tiger", "tiger-wide", "tiger-paper")
_TYPE = "type="
_ACCURACY = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
_SHORT = {"recall@5": "R@5", "ndcg@5": "N@5", "recall@10": "R@10", "ndcg@10": "N@10"}
_LEGEND = """Written by `make leaderboard DATASET={dataset}` from `benchmarks/results/leaderboard/{dataset}/` alone; how it is
measured stands in [evaluation](../evaluation.md). Test queries only. A number is the mean over seeds, with the deviation of a
sample after ±; 'against' is the difference of NDCG@10 to `{baseline}` and its 95 % interval by paired bootstrap over
queries and seeds. 'ties' is what NDCG@10 would be, were items of equal score put in random order. 'published' is what the
paper, or whoever is named in the recipe, reports. Seconds are of training and evaluation, on the device that is named and on a
machine that may have had other work; those of CPU are the process's own."""
_SYSTEMS = """# Generative recommenders

Written by `python -m benchmarks.leaderboard systems` from `benchmarks/results/leaderboard/` alone: every generative recipe that was
measured, on every log. NDCG@10, leave-one-out, test queries, mean over seeds (without ± of one seed alone, whose interval then
knows nothing of seeds); after a stroke what the paper reports on that log. 'against' is the difference to TIGER, with its 95 %
interval by paired bootstrap over queries and seeds: to `tiger`, whose size most recipes have, where it was run. Below are the best
recipe without training and the best sequential one. Each log's own page says more."""


def page(dataset: str, runs: Sequence[Run]) -> str:
    """Return a dataset's leaderboard as Markdown."""
    parts = [f"# {dataset}", _LEGEND.format(dataset=dataset, baseline=BASELINE)]
    ablated = [run for run in runs if "@" in run.told["recipe"]]
    whole = [run for run in runs if run not in ablated]
    cold = {found.recipe: found for found in summarise(whole, "cold_items")}
    for protocol, title in (("leave_one_out", "Leave-one-out"), ("temporal", "Temporal")):
        if found := summarise(whole, protocol):
            parts += [
                f"## {title}",
                *_rules(found),
                _table(found, cold if protocol == "leave_one_out" else {}),
            ]
    if cold:
        parts += ["## Cold items", _cold_table(list(cold.values()))]
    if types := _types(whole):
        parts += ["## By event type of the target, leave-one-out", _types_table(whole, types)]
    if len({run.told["recipe"] for run in whole if _generative(run)}) > 1:
        parts += ["## Generative recommenders, leave-one-out", _generative_table(whole)]
    if ablated:
        parts += ["## Ablations, leave-one-out", _ablations(whole, ablated)]
    if stale := left_out(runs):
        parts.append("Of other data or parameters than the latest run, and not counted: " + ", ".join(stale))
    return "\n\n".join(parts) + "\n"


def _rules(found: Sequence[Summary]) -> list[str]:
    """Say what could be an answer, where it is not what it usually is."""
    allowed = [one.recipe for one in found if not one.runs[0].told.get("exclude_history", True)]
    if not allowed:
        return []
    which = "all recipes" if len(allowed) == len(found) else ", ".join(allowed)
    return [f"Items of the history could be answers (`--with-history`): {which}."]


def _table(found: Sequence[Summary], cold: dict[str, Summary]) -> str:
    head = ["recipe", "seeds", *(_SHORT[name] for name in _ACCURACY), "ties"]
    head += ["published R@10", "N@10", f"N@10 against {BASELINE}"] + (["cold R@10"] if cold else [])
    head += ["seconds", "of CPU", "MB", "device"]
    rows = []
    for one in found:
        told = one.runs[-1].told.get("published", {})
        row = [one.recipe, str(len(one.runs)), *(_spread(one, name) for name in _ACCURACY)]
        row += [
            _number(one.expected.get("ndcg@10")),
            *(_number(told.get(m)) for m in ("recall@10", "ndcg@10")),
        ]
        row.append(_interval(one))
        if cold:
            row.append(_spread(cold[one.recipe], "recall@10") if one.recipe in cold else "-")
        rows.append([*row, *_cost(one)])
    return _markdown(head, rows, left=1)


def _cold_table(found: Sequence[Summary]) -> str:
    head = ["recipe", "seeds", "R@10", "N@10", "R@10, ties shuffled", "queries", f"N@10 against {BASELINE}"]
    rows = [
        [
            one.recipe,
            str(len(one.runs)),
            _spread(one, "recall@10"),
            _spread(one, "ndcg@10"),
            _number(one.expected.get("recall@10")),
            str(one.runs[0].told["checks"]["queries"]),
            _interval(one),
        ]
        for one in sorted(found, key=lambda one: (-one.mean["recall@10"], one.recipe))
    ]
    return _markdown(head, rows, left=1)


def _generative(run: Run) -> bool:
    return run.told.get("recommender", {}).get("kind") in _GENERATIVE


def _firsts(whole: Sequence[Run]) -> list[str]:
    """Return TIGER's recipes that were run."""
    names = {run.told["recipe"] for run in whole if run.told["protocol"] == "leave_one_out"}
    return [name for name in _FIRST if name in names]


def _successors(whole: Sequence[Run], first: str) -> list[Summary]:
    """Return all generative recipes and two to be held against them, beside one of TIGER's.

    The two are the best that is not trained and the best sequential one.
    """
    every = summarise(whole, "leave_one_out", first)
    free = next((one for one in every if one.runs[0].told.get("training_free")), None)
    kind = "sequential"
    sequential = next((one for one in every if one.runs[0].told["recommender"]["kind"] == kind), None)
    held = [one for one in (free, sequential) if one is not None]
    return [one for one in every if _generative(one.runs[0])] + held


def _generative_table(whole: Sequence[Run]) -> str:
    """Return what generative recommenders gain over TIGER; the last rows are what they are held against."""
    firsts = _firsts(whole)
    beside = [_successors(whole, first) for first in firsts or [""]]
    head = ["recipe", "semantic IDs", "seeds", "R@10", "N@10", "published R@10", "N@10"]
    rows = []
    for one, *others in zip(*beside, strict=True):
        told = one.runs[-1].told
        ids = (told.get("tokenizer") or "default") if _generative(one.runs[0]) else "none"
        row = [one.recipe, ids, str(len(one.runs))]
        row += [_spread(one, name) for name in ("recall@10", "ndcg@10")]
        row += [_number(told.get("published", {}).get(name)) for name in ("recall@10", "ndcg@10")]
        rows.append([*row, *(_interval(each) for each in (one, *others))])
    return _markdown([*head, *(f"N@10 against {first}" for first in firsts or ["TIGER"])], rows, left=2)


def systems(boards: Mapping[str, Sequence[Run]]) -> str:
    """Return the page of all generative recommenders on all logs, as Markdown.

    Parameters
    ----------
    boards
        Runs by log; one without two generative recipes is left out.
    """
    columns: dict[str, dict[str, list[str]]] = {}
    head = ["recipe"]
    for dataset, runs in boards.items():
        whole = [run for run in runs if "@" not in run.told["recipe"]]
        first = next(iter(_firsts(whole)), "TIGER")
        found = _successors(whole, first)
        if sum(_generative(one.runs[0]) for one in found) > 1:
            head += [dataset, f"against {first}"]
            columns[dataset] = {one.recipe: [_beside(one), _interval(one)] for one in found}
    kinds = {run.told["recipe"]: _generative(run) for runs in boards.values() for run in runs}
    names = {name for column in columns.values() for name in column}
    rows = [
        [name, *(cell for column in columns.values() for cell in column.get(name, ["-", "-"]))]
        for name in sorted(names, key=lambda name: (not kinds[name], name))
    ]
    return f"{_SYSTEMS}\n\n{_markdown(head, rows, left=1)}\n"


def _beside(one: Summary) -> str:
    paper = one.runs[-1].told.get("published", {}).get("ndcg@10")
    return _spread(one, "ndcg@10") + ("" if paper is None else f" / {_number(paper)}")


def _types(whole: Sequence[Run]) -> dict[str, int]:
    """Return event types of targets, with the number of queries, where there are several."""
    slices = [run.told.get("slices", {}) for run in whole if run.told["protocol"] == "leave_one_out"]
    counted = {
        name: part["queries"] for told in slices for name, part in told.items() if name.startswith(_TYPE)
    }
    return counted if len(counted) > 1 else {}


def _types_table(whole: Sequence[Run], types: Mapping[str, int]) -> str:
    """Return NDCG@10 by event type of the target, the mean over seeds; the commonest type first."""
    order = sorted(types, key=lambda name: (-types[name], name))
    head = ["recipe", "seeds", *(f"{name.removeprefix(_TYPE)} ({types[name]:,})" for name in order)]
    rows = []
    for one in summarise(whole, "leave_one_out"):
        slices = [run.told.get("slices", {}) for run in one.runs]
        row = [one.recipe, str(len(one.runs))]
        for name in order:
            values = [told[name]["ndcg@10"] for told in slices if name in told]
            row.append(_number(sum(values) / len(values) if values else None))
        rows.append(row)
    return _markdown(head, rows, left=1)


def _ablations(whole: Sequence[Run], ablated: Sequence[Run]) -> str:
    """Return what is lost where a part of a recipe is taken away."""
    head = ["recipe", "ablation", "seeds", "R@10", "N@10", "N@10 against the whole recipe"]
    rows = []
    for parent in sorted({run.told["recipe"].split("@")[0] for run in ablated}):
        family = [run for run in (*whole, *ablated) if run.told["recipe"].split("@")[0] == parent]
        for one in summarise(family, "leave_one_out", parent):
            row = [parent, one.recipe.partition("@")[2] or "-", str(len(one.runs))]
            rows.append([*row, *(_spread(one, name) for name in ("recall@10", "ndcg@10")), _interval(one)])
    return _markdown(head, rows, left=2)


def _cost(one: Summary) -> list[str]:
    made = [run.told["provenance"] for run in one.runs]
    seconds = sum(told["seconds"] for told in made) / len(made)
    memory = max(told.get("peak_device_memory_mb", told["peak_memory_mb"]) for told in made)
    cpu = [told["cpu_seconds"] for told in made if "cpu_seconds" in told]
    of_cpu = f"{sum(cpu) / len(cpu):.0f}" if cpu else "-"
    return [f"{seconds:.0f}", of_cpu, f"{memory:.0f}", ", ".join(sorted({told["device"] for told in made}))]


def _interval(one: Summary) -> str:
    if one.difference is None:
        return "-"
    return f"{one.difference.mean:+.4f} [{one.difference.low:+.4f}, {one.difference.high:+.4f}]"


def _spread(one: Summary, name: str) -> str:
    deviation = one.deviation[name]
    return _number(one.mean[name]) + ("" if math.isnan(deviation) else f" ±{_number(deviation)}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}".replace("0.", ".", 1)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    rule = "|---" * left + "|---:" * (len(head) - left) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])
