"""A day against the days before it: how many, what is missing, how values are spread.

Every comparison is a :class:`Measure`: a value and the limits that it may not leave. What has too little history to be
compared is a measure too, without limits and with the reason, so that it is counted and seen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import Any

import numpy as np

from orchestration.quality.drift import (
    grouped,
    jensen_shannon,
    jensen_shannon_by_chance,
    psi,
    psi_by_chance,
    quantile_groups,
)
from orchestration.quality.profiles import ALL, Counts, Profile
from orchestration.quality.thresholds import (
    Band,
    Drift,
    EventThresholds,
    FeatureThresholds,
    ItemThresholds,
    Limit,
    Nulls,
    Window,
)

_GROUPS = 10
_CHANCE = 1e-4
_MAD_TO_DEVIATION = 1.4826
_SAME_WEEKDAYS = 3
# Few buckets, each of which means something: not joined to groups.
_AS_IT_IS = frozenset({"hour", "popularity", "days_late", "type", "category"})


@dataclass(frozen=True)
class Measure:
    """One comparison.

    Parameters
    ----------
    day
        What was looked at.
    rule
        Which promise it belongs to, for example ``"rows by type"`` or ``"drift of hour"``.
    of
        What of it: an event type, a column; empty where there is nothing to tell apart.
    value
        What was found.
    at_least, at_most
        What it may be; None where a side is open.
    skipped
        Why it was not compared; empty where it was.
    """

    day: str
    rule: str
    of: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    skipped: str = ""

    @property
    def excess(self) -> float:
        """How far the value is outside, as a factor of its limit: 0 within."""
        if self.at_least is not None and self.value < self.at_least:
            return (self.at_least - self.value) / max(abs(self.at_least), 1e-9)
        if self.at_most is not None and self.value > self.at_most:
            return (self.value - self.at_most) / max(abs(self.at_most), 1e-9)
        return 0.0


def event_rules(limits: EventThresholds) -> dict[str, Limit]:
    """Return the rules for a lake day that are on, with their limits."""
    drifts = {f"drift of {name}": getattr(limits.drift, name) for name in type(limits.drift).model_fields}
    rules: dict[str, Limit] = {
        "rows": limits.rows,
        "rows by type": limits.rows_by_type,
        "users": limits.users,
        "items": limits.items,
        "nulls": limits.nulls,
        "new types": limits.new_types,
        "absent types": limits.absent_types,
        **drifts,
    }
    return _switched_on(rules)


def item_rules(limits: ItemThresholds) -> dict[str, Limit]:
    """Return the rules for a catalogue that are on, with their limits."""
    drifts = {f"drift of {name}": getattr(limits.drift, name) for name in type(limits.drift).model_fields}
    return _switched_on({"rows": limits.rows, "items": limits.items, "nulls": limits.nulls, **drifts})


def feature_rules(limits: FeatureThresholds, features: Sequence[str]) -> dict[str, Limit]:
    """Return the rules for a feature mart that are on, with their limits."""
    drifts = {f"drift of {name}": limits.drift for name in features if name not in limits.without_drift}
    return _switched_on({"rows": limits.rows, "nulls": limits.nulls, **drifts})


def compare(
    day: str, today: Profile, past: Mapping[str, Profile], window: Window, rules: Mapping[str, Limit]
) -> list[Measure]:
    """Hold a day against its trailing days.

    Parameters
    ----------
    day
        Names it: ``YYYY-MM-DD``, or anything else where there are no weekdays.
    today
        Its profile.
    past
        The profiles that :func:`trailing` chose.
    window
        How much history there must be.
    rules
        Rule to its limits.

    Returns
    -------
    list of Measure
        In the order of the rules; none for a rule that had nothing to look at.
    """
    if len(past) < window.min_days:
        told = f"not enough history: {len(past)} of {window.min_days} days"
        return [Measure(day, rule, "", float(today.total), skipped=told) for rule in rules]
    return [
        measure
        for rule, limit in rules.items()
        for measure in _measures(day, today, past, window, rule, limit)
    ]


def trailing(day: str, profiles: Mapping[str, Profile], window: Window) -> dict[str, Profile]:
    """Return the days of the window before ``day``, those at the start of the history left out."""
    end = date.fromisoformat(day)
    first = end - timedelta(days=window.days)
    if profiles and window.warm_up:
        first = max(first, date.fromisoformat(min(profiles)) + timedelta(days=window.warm_up))
    return {d: p for d, p in profiles.items() if first <= date.fromisoformat(d) < end}


def _measures(
    day: str, today: Profile, past: Mapping[str, Profile], window: Window, rule: str, limit: Limit
) -> Iterator[Measure]:
    if rule == "rows":
        yield _counted(day, rule, "", today.total, {d: p.total for d, p in past.items()}, limit)
    elif rule in ("users", "items"):
        usual = {d: p.distinct.get(rule, 0) for d, p in past.items()}
        yield _counted(day, rule, "", today.distinct.get(rule, 0), usual, limit)
    elif rule == "nulls":
        yield from _nulls(day, today, past, limit)
    elif rule.startswith("drift of "):
        yield _drift(day, rule.removeprefix("drift of "), today, past, window, limit)
    else:
        yield from _types(day, rule, today, past, limit)


def _types(day: str, rule: str, today: Profile, past: Mapping[str, Profile], limit: Any) -> Iterator[Measure]:
    known = sorted({kind for profile in past.values() for kind in profile.rows})
    if rule == "new types":
        for kind in sorted(today.rows.keys() - set(known)):
            yield Measure(day, rule, kind, today.rows[kind], at_most=0)
        return
    for kind in known:
        usual = {d: p.rows.get(kind, 0) for d, p in past.items()}
        rows = today.rows.get(kind, 0)
        if rule == "absent types":
            if _usual(day, usual) >= limit.expected:
                yield Measure(day, rule, kind, rows, at_least=1)
        elif rows:
            # One that has vanished is told once, as absent.
            yield _counted(day, rule, kind, rows, usual, limit)


def _counted(day: str, rule: str, of: str, count: int, usual: Mapping[str, int], limit: Any) -> Measure:
    """Hold a count against the usual one of its weekday, within what the days of the window do themselves.

    The band is wide enough for the factors of the limit, for so many robust deviations of the logarithms of the
    window's counts from their own weekdays, and for the square root by which any count of independent events varies.
    """
    band: Band = limit
    expected = _usual(day, usual)
    ratios = [math.log((count_ + 1) / (_usual(d, usual) + 1)) for d, count_ in usual.items()]
    spread = band.deviations * _MAD_TO_DEVIATION * float(np.median(np.abs(ratios)))
    chance = band.deviations * math.sqrt(expected + 1)
    low = min(expected * min(band.at_least, math.exp(-spread)), expected - chance)
    high = max(expected * max(band.at_most, math.exp(min(spread, 50.0))), expected + chance)
    return Measure(day, rule, of, count, max(low, 0.0), high)


def _deviation(values: Sequence[float]) -> float:
    """Return a standard deviation that outliers cannot move: 1.4826 times the median absolute deviation."""
    return _MAD_TO_DEVIATION * float(np.median(np.abs(np.asarray(values) - np.median(values))))


def _usual(day: str, counts: Mapping[str, int]) -> float:
    """Return the median of the same weekday where there are enough, else that of all days."""
    same = [count for d, count in counts.items() if _weekday(d) == _weekday(day)]
    return float(np.median(same if len(same) >= _SAME_WEEKDAYS else list(counts.values())))


def _nulls(day: str, today: Profile, past: Mapping[str, Profile], limit: Any) -> Iterator[Measure]:
    """Hold the share of nulls of each column against what the window's groups would have in today's mix of groups.

    So a day with more searches, which have no item, has no more nulls than it should.
    """
    nulls: Nulls = limit
    rows = {group: sum(p.rows.get(group, 0) for p in past.values()) for group in today.rows}
    mixed = sum(today.rows[group] for group in rows if rows[group])
    columns = sorted({column for group in today.nulls.values() for column in group})
    for column in columns:
        if not mixed:
            yield Measure(
                day, "nulls", column, 0.0, skipped="not enough history: no type of the day is known"
            )
            continue
        found = expected = 0.0
        for group, count in rows.items():
            if count:
                missing = sum(p.nulls.get(group, {}).get(column, 0) for p in past.values())
                expected += today.rows[group] * missing / count
                found += today.nulls[group].get(column, 0)
        found, expected = found / mixed, expected / mixed
        chance = nulls.deviations * math.sqrt(max(expected * (1 - expected), 1 / mixed) / mixed)
        yield Measure(day, "nulls", column, found, at_most=min(1.0, expected + max(nulls.max, chance)))


def _drift(
    day: str, name: str, today: Profile, past: Mapping[str, Profile], window: Window, limit: Any
) -> Measure:
    """Hold a distribution against that of the whole window.

    Sessions, fashions and weekdays make honest days differ by more than chance. So the limit is also as wide as the
    days of the window differ from it themselves: the median of their distances, and so many robust deviations more.
    """
    drift: Drift = limit
    rule = f"drift of {name}"
    histograms = [_histograms(profile, name) for profile in past.values()]
    groups = {group for histogram in histograms for group in histogram}
    behind = {group: _summed([h.get(group, {}) for h in histograms]) for group in sorted(groups)}
    counts, reference = _paired(name, _histograms(today, name), behind)
    rows, rows_behind = float(sum(counts)), float(sum(sum(h.values()) for h in behind.values()))
    if rows < window.min_rows or rows_behind < window.min_rows:
        told = f"not enough rows: {min(rows, rows_behind):,.0f} of {window.min_rows}"
        return Measure(day, rule, name, 0.0, skipped=told)
    by_chance = psi_by_chance if drift.by == "psi" else jensen_shannon_by_chance
    usual = [_distance(drift, name, histogram, behind) for histogram in histograms]
    known = [distance for distance in usual if distance is not None]
    at_most = max(
        drift.max,
        by_chance(len(counts), rows, rows_behind, _CHANCE),
        float(np.median(known)) + drift.deviations * _deviation(known) if known else 0.0,
    )
    return Measure(day, rule, name, _apart(drift, counts, reference, rows_behind), at_most=at_most)


def _distance(
    drift: Drift, name: str, histogram: Mapping[str, Counts], behind: Mapping[str, Counts]
) -> float | None:
    counts, reference = _paired(name, histogram, behind)
    return _apart(drift, counts, reference, sum(reference)) if sum(counts) else None


def _apart(drift: Drift, counts: list[float], reference: list[float], rows_behind: float) -> float:
    # A mixture of shares has no weight of its own, on which smoothing depends: it gets that of its rows.
    weighed = np.asarray(reference) * (rows_behind / max(sum(reference), 1e-9))
    return (psi if drift.by == "psi" else jensen_shannon)(counts, weighed)


def _paired(
    name: str, groups: Mapping[str, Counts], behind: Mapping[str, Counts]
) -> tuple[list[float], list[float]]:
    """Return a day's counts and the window's over the same buckets; the window's groups mixed as the day's are."""
    reference: dict[int, float] = {}
    counts: dict[int, float] = {}
    for group, found in groups.items():
        window = behind.get(group)
        if not window:
            continue  # a new type; it is told as such
        weight = sum(found.values()) / sum(window.values())
        for place, count in window.items():
            reference[place] = reference.get(place, 0.0) + count * weight
        for place, count in found.items():
            counts[place] = counts.get(place, 0.0) + count
    if not reference:
        return [], []
    ends = (
        quantile_groups(reference, _GROUPS) if name not in _AS_IT_IS else sorted({*counts, *reference})[:-1]
    )
    return grouped(counts, ends).tolist(), grouped(reference, ends).tolist()


def _histograms(profile: Profile, name: str) -> Mapping[str, Counts]:
    """Return a histogram; one of words with the same buckets whatever other words there are."""
    if name == "type":
        return {ALL: {_word_bucket(word): count for word, count in profile.rows.items()}}
    groups = profile.histograms.get(name, {})
    labels = profile.labels.get(name)
    if labels is None:
        return groups
    counts = groups.get(ALL, {})
    return {ALL: {_word_bucket(word): counts.get(place, 0) for word, place in labels.items()}}


@cache
def _word_bucket(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "big")


def _summed(histograms: Sequence[Counts]) -> Counts:
    total: Counts = {}
    for histogram in histograms:
        for place, count in histogram.items():
            total[place] = total.get(place, 0) + count
    return total


def _weekday(day: str) -> int:
    try:
        return date.fromisoformat(day).weekday()
    except ValueError:
        return -1  # versions of a catalogue are numbered


def _switched_on(rules: Mapping[str, Limit]) -> dict[str, Limit]:
    return {name: limit for name, limit in rules.items() if limit.level != "off"}
