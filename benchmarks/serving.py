"""The service under load: latency, the highest steady rate, swaps, batches, workers, and a soak.

``python -m benchmarks.serving --home HOME`` (``make bench-serving``) copies a finished home, publishes recipes in the copy, and
asks a service of its own process for each case; ``benchmarks.serving_load`` says how. Every case is written to
``results/serving.json`` as soon as it is done; one that fails is told, and the others go on.
"""

from __future__ import annotations

import itertools
import os
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks import serving_page
from benchmarks.record import RESULTS, Row, write
from benchmarks.serving_home import another_tokenizer, copy_home, publication
from benchmarks.serving_load import (
    Ask,
    Judge,
    Load,
    Service,
    bare_service,
    by_champion,
    cycle,
    load,
    serving,
)
from ml.artifacts import read_json, write_json
from orchestration.settings import REPO, Settings, home_from_environment

RATE = 100
SEED = 0
LIMIT_MS = 50.0
_USERS = 1000
_BETWEEN_SWAPS_S = 2
_PATH = "/v1/users/{}/recommendations?k=10"
_console = Console(width=150, soft_wrap=True)


@dataclass
class Bench:
    """What the cases share.

    Parameters
    ----------
    settings
        Of the copied home.
    seconds
        How long one load lasts.
    minutes
        How long the soak lasts.
    """

    settings: Settings
    seconds: float
    minutes: float

    @property
    def home(self) -> Path:
        """The copied home."""
        return self.settings.home

    @cached_property
    def users(self) -> list[str]:
        """Users with a history, drawn by seed."""
        import pyarrow.parquet as pq

        column = pq.read_table(self.settings.marts / "user_histories.parquet", columns=["user_id"])["user_id"]
        known = sorted(column.unique().to_pylist())
        return np.random.default_rng(SEED).choice(known, min(_USERS, len(known)), replace=False).tolist()

    def publication(self, name: str) -> dict[str, Any]:
        """Return what is published for a recipe; ``RECIPE/other`` is of another tokenizer, snapshot and seed.

        It is made once, and then read from the copied home.
        """
        kept = self.home / "published" / f"{name.replace('/', '-')}.json"
        if not kept.is_file():
            recipe, _, other = name.partition("/")
            with another_tokenizer(self.settings) if other else nullcontext(self.settings) as settings:
                write_json(kept, publication(settings, recipe))
        published: dict[str, Any] = read_json(kept)
        return published

    def publish(self, name: str) -> None:
        """Make a publication the live one."""
        write_json(self.home / "champion.json", self.publication(name))

    def asks(self, more: str = "") -> Iterator[Ask]:
        """Ask for each user in turn."""
        return cycle(Ask(_PATH.format(user) + more) for user in self.users)


def steady(bench: Bench, service: Service, rate: float, seconds: float | None = None) -> Load:
    """Warm the service up, and ask it at a rate."""
    load(service.base, bench.asks(), min(rate, 50), 2, by_champion)
    return load(service.base, bench.asks(), rate, seconds or bench.seconds, by_champion)


def highest(ask: Callable[[float, float], Load], seconds: float, start: float) -> tuple[float, list[Any]]:
    """Climb by a quarter until p99 is over 50 ms, a request fails, or the generator is late; the last rate that held.

    A rate that does not hold is tried twice, for the machine may have been busy with something else.
    """
    held, steps, rate, again = 0.0, [], start, False
    while True:
        found = ask(rate, seconds)
        steps.append(found.told() | {"kept_up": found.kept_up})
        if not found.failures and found.quantile(0.99) <= LIMIT_MS and found.kept_up:
            held, rate, again = rate, round(rate * 1.25), False
        elif again:
            return held, steps
        else:
            again = True


def latency_rows(name: str, found: Load, more: dict[str, Any] | None = None) -> list[Row]:
    """Return p50 and p99 beside what they may be."""
    if found.failures:
        _console.print(f"[red]{name}: {found.failed}")
    return [
        Row(
            f"{name}: {label} at {found.rate:g} requests/s",
            found.quantile(q),
            limit,
            f"the limit that the service is held to, {limit:g} ms",
            "ms",
            "lower",
            found.told() | (more or {}),
        )
        for label, q, limit in (("p50", 0.5, 10.0), ("p99", 0.99, LIMIT_MS))
    ]


def rate_row(name: str, held: float, steps: list[Any], peer: float | None = None, peer_name: str = "") -> Row:
    """Return the highest rate that held."""
    told = "highest rate with p99 under 50 ms and no failure"
    return Row(f"{name}: {told}", held, peer, peer_name, "requests/s", "higher", {"steps": steps})


def champion(bench: Bench, recipe: str, what: str, climb: bool = True, **switches: object) -> list[Row]:
    """Latency at 100 requests/s, and the highest rate, of a recipe that is champion."""
    bench.publish(recipe)
    with serving(bench.home, **switches) as service:  # type: ignore[arg-type]
        before = service.cpu_seconds()
        found = steady(bench, service, RATE)
        cpu = 1000 * (service.cpu_seconds() - before) / len(found.seconds)
        rows = latency_rows(
            what, found, {"service_cpu_ms_per_request": round(cpu, 2), "rss_mb": service.rss_mb()}
        )
        if climb:
            ask = lambda rate, s: load(service.base, bench.asks(), rate, s, by_champion)  # noqa: E731
            held, steps = highest(ask, bench.seconds / 5, start=80)
            rows.append(rate_row(what, held, steps))
    return rows


def floor(bench: Bench) -> list[Row]:
    """Load an app that answers with fixed bytes: what HTTP, the machine and the generator cost."""
    with bare_service() as service:
        ask = lambda rate, seconds: load(service.base, bench.asks(), rate, seconds)  # noqa: E731
        ask(50, 1)
        found = ask(RATE, bench.seconds / 2)
        held, steps = highest(ask, bench.seconds / 6, start=400)
    name = "bare ASGI app (floor)"
    return [*latency_rows(name, found), rate_row(name, held, steps)]


def sequential(bench: Bench) -> list[Row]:
    """SASRec as champion."""
    return champion(bench, "sasrec", "sequential champion")


def heuristic(bench: Bench) -> list[Row]:
    """Transition counts as champion."""
    return champion(bench, "transitions", "heuristic champion", climb=False)


def generative(bench: Bench) -> list[Row]:
    """TIGER as champion, with requests decoded together and one by one."""
    bench.publish("tiger")
    found: dict[str, tuple[list[Load], float, list[Any]]] = {}
    rates = (20, RATE)
    for name, most in (("together", 16), ("one by one", 1)):
        with serving(bench.home, batch=most) as service:
            loads = [steady(bench, service, rate, bench.seconds / 2) for rate in rates]
            held, steps = highest(
                lambda rate, s: steady(bench, service, rate, s), bench.seconds / 6, start=10
            )
        found[name] = loads, held, steps
    (ours, held, steps), (theirs, peer, peer_steps) = found["together"], found["one by one"]
    rows = [
        Row(
            f"generative champion: p99 at {rate} requests/s, decoded together",
            mine.quantile(0.99),
            alone.quantile(0.99),
            "the same without batches",
            "ms",
            "lower",
            {"together": mine.told(), "one by one": alone.told()},
        )
        for rate, mine, alone in zip(rates, ours, theirs, strict=True)
    ]
    climbed = [{"together": steps, "one by one": peer_steps}]
    return [*rows, rate_row("generative champion", held, climbed, peer, "the same without batches")]


def swap(bench: Bench) -> list[Row]:
    """Two publications with different model, index and tokenizer take turns while requests run."""
    names = ("sasrec", "sasrec/other")
    published = {name: bench.publication(name) for name in names}
    judge = Judge(bench.home, list(published.values()))
    spans: list[tuple[float, float]] = []
    bench.publish(names[0])
    with serving(bench.home) as service, ThreadPoolExecutor(1) as pool:
        load(service.base, bench.asks("&explain=true"), 50, 3, judge)
        before = load(service.base, bench.asks("&explain=true"), RATE, bench.seconds / 2, judge)
        begun = pool.submit(load, service.base, bench.asks("&explain=true"), RATE, bench.seconds, judge)
        # Each is judged by answers, so the last must be over before the requests are.
        most = max(2, int(bench.seconds / (_BETWEEN_SWAPS_S + 2)))
        for name in itertools.islice(itertools.cycle(reversed(names)), most):
            time.sleep(_BETWEEN_SWAPS_S)
            written = time.perf_counter()
            judge.awaited = None
            bench.publish(name)
            spans.append((written, judge.until(published[name])))
        during = begun.result()
    in_swap = lambda due: any(a <= due <= b for a, b in spans)  # noqa: E731
    told = {
        "before": before.told(),
        "during": during.told(),
        "swaps": len(spans),
        "seconds_to_take_effect": [round(b - a, 2) for a, b in spans],
        "publications": [{k: v for k, v in p.items() if isinstance(v, str)} for p in published.values()],
    }
    mixed = sum(n for why, n in during.failed.items() if why.startswith("mixed"))
    p99 = during.quantile(0.99, in_swap)
    return [
        Row(
            f"swap: requests that failed in {len(spans)} swaps",
            during.failures - mixed,
            None,
            "",
            "requests",
            "lower",
            told,
        ),
        Row("swap: answers of a mixed pair", mixed, None, "", "requests", "lower"),
        Row(
            "swap: p99 of requests due during a swap",
            p99,
            before.quantile(0.99),
            "before the swaps",
            "ms",
            "lower",
        ),
    ]


def workers(bench: Bench) -> list[Row]:
    """Two processes on the same port."""
    return champion(bench, "sasrec", "sequential champion, 2 workers", workers=2)


def overload(bench: Bench) -> list[Row]:
    """Ask for three seconds for four times as much as is asked otherwise, and then, without a pause, for that again."""
    bench.publish("sasrec")
    with serving(bench.home) as service, ThreadPoolExecutor(1) as pool:
        load(service.base, bench.asks(), 50, 3, by_champion)
        burst = pool.submit(load, service.base, bench.asks(), 4 * RATE, 3)
        time.sleep(3)
        after = load(service.base, bench.asks(), RATE, 10)
        told = {"burst": burst.result().told(), "after": after.told()}
    name = f"{RATE} requests/s for 10 s after 3 s at {4 * RATE}"
    return [
        Row(f"{name}: not answered", after.failures, None, "", "requests", "lower", told),
        *latency_rows(name, after)[:1],
    ]


def soak(bench: Bench) -> list[Row]:
    """Minutes of mixed requests and posted events: memory must not grow."""
    bench.publish("sasrec")
    memory: list[tuple[float, float]] = []
    with serving(bench.home) as service, ThreadPoolExecutor(1) as pool:
        load(service.base, mixed(bench), RATE, 20)
        begun = pool.submit(load, service.base, mixed(bench), RATE, 60 * bench.minutes)
        begin = time.monotonic()
        while not begun.done():
            memory.append(((time.monotonic() - begin) / 60, service.rss_mb()))
            time.sleep(2)
        found = begun.result()
    minutes, rss = np.array(memory).T
    settled = minutes >= 0.2 * minutes[-1]
    slope = float(np.polyfit(minutes[settled], rss[settled], 1)[0])
    told = found.told() | {
        "mb_per_minute": round(slope, 3),
        "rss_mb": [round(r, 1) for r in rss[:: max(1, len(rss) // 30)]],
    }
    name = f"soak of {bench.minutes:g} minutes at {RATE} requests/s"
    return [
        Row(
            f"{name}: memory at the end",
            float(np.median(rss[-5:])),
            float(np.median(rss[:5])),
            "at the start",
            "MB",
            "lower",
            told,
        ),
        Row(f"{name}: requests that failed", found.failures, None, "", "requests", "lower"),
        *latency_rows(name, found),
    ]


def mixed(bench: Bench) -> Iterator[Ask]:
    """Ask for everything that the API has: mostly users, some sessions, similar items, lists, and events."""
    rng = np.random.default_rng(SEED)
    items = bench.publication("sasrec")["popular"][:200]
    for number in itertools.count():
        user, draw = bench.users[rng.integers(len(bench.users))], rng.random()
        some = [str(item) for item in rng.choice(items, 3)]
        if draw < 0.8:
            yield Ask(_PATH.format(user))
        elif draw < 0.9:
            yield Ask("/v1/recommendations", {"history": [{"item_id": item} for item in some]})
        elif draw < 0.95:
            yield Ask(f"/v1/items/{some[0]}/similar")
        elif draw < 0.98:
            yield Ask("/v1/popular" if number % 2 else "/v1/latest")
        else:
            event = {
                "event_id": f"bench-{time.time_ns()}",
                "user_id": user,
                "event_type": "view",
                "item_id": some[0],
            }
            yield Ask("/v1/events", {"events": [event]})


CASES = (floor, sequential, heuristic, generative, swap, workers, overload, soak)


def main(
    home: Annotated[Path | None, typer.Option(help="A finished home; by default TESSERA_HOME.")] = None,
    seconds: Annotated[float, typer.Option(help="How long one load lasts.")] = 30,
    minutes: Annotated[float, typer.Option(help="How long the soak lasts.")] = 10,
    quick: Annotated[
        bool, typer.Option(help="See that it runs: short loads, half a minute of soak.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help=", ".join(c.__name__ for c in CASES))] = None,
    work: Annotated[Path, typer.Option(help="Where the home is copied to.")] = REPO / ".tessera.serving",
    results: Annotated[Path, typer.Option(help="Where the record goes.")] = RESULTS,
) -> None:
    """Measure the service."""
    chosen = [case for case in CASES if not only or case.__name__ in only]
    try:
        settings = copy_home((home or home_from_environment()).resolve(), work.resolve())
    except FileNotFoundError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    # Nothing that reads the environment may touch the home that was copied.
    os.environ["TESSERA_HOME"] = str(settings.home)
    bench = Bench(settings, 8 if quick else seconds, 0.5 if quick else minutes)
    rows: list[Row] = []
    failed = []
    for case in chosen:
        begin = time.monotonic()
        _console.print(f"[bold]{case.__name__}")
        try:
            found = case(bench)
        except Exception:
            failed.append(case.__name__)
            _console.print(traceback.format_exc(), markup=False)
            continue
        for row in found:
            _console.print(
                f"  {row.case}: {row.ours:g} {row.unit} (peer {row.peer}, {row.peer_name})", markup=False
            )
        _console.print(f"  {time.monotonic() - begin:.0f} s")
        rows += found
        write("-".join(["serving", *(only or ())]), rows, SEED, results)
        if results == RESULTS:
            serving_page.main()
    if failed:
        typer.echo(f"error: failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
