"""What Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest, values

from serving.answers import Recommendations

# Feast, when it is imported, asks for counts in files that all registries of a process share; ours are each app's own.
values.ValueClass = values.MutexValue

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_HOUR, _DAY = 3600, 86_400
_AGE = (_HOUR, 6 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY, 30 * _DAY, 90 * _DAY, 365 * _DAY)


class Metrics:
    """The metrics of one app; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = to = CollectorRegistry()
        self.requests = Counter(
            "tessera_requests", "Requests by route and status.", ["method", "route", "status"], registry=to
        )
        self.seconds = Histogram(
            "tessera_request_seconds",
            "Seconds to the end of a response.",
            ["route"],
            buckets=_LATENCY,
            registry=to,
        )
        self.answers = Counter(
            "tessera_answers", "Answers by who gave them.", ["route", "source"], registry=to
        )
        self.events = Counter(
            "tessera_events", "Posted events by what became of them.", ["outcome"], registry=to
        )
        self.lookups = Counter(
            "tessera_lookups",
            "Look-ups in the online store by what became of them.",
            ["outcome"],
            registry=to,
        )
        self.age = Histogram(
            "tessera_history_age_seconds",
            "Age of the histories that were looked up.",
            buckets=_AGE,
            registry=to,
        )
        self.ready = Gauge("tessera_ready", "1 while requests can be answered.", registry=to)
        self.served = Info("tessera_served", "What is served.", registry=to)

    def answered(self, route: str, answer: Recommendations) -> None:
        """Count an answer."""
        self.answers.labels(route, answer.source).inc()
        if answer.history_age is not None:
            self.age.observe(answer.history_age.total_seconds())

    def text(self, versions: Mapping[str, str] | None) -> bytes:
        """Return all of it as Prometheus reads it; ``versions`` are None while nothing is served."""
        self.ready.set(versions is not None)
        self.served.info(dict(versions or {}))
        return generate_latest(self.registry)
