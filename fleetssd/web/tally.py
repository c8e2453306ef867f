"""What the gateway counts since it started, as Prometheus metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from fleetssd.calls import Call

BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds until an answer's first byte."""


@dataclass(slots=True)
class Tally:
    """Counts; a label is a checkpoint, an outcome or an agent with a key, never what a caller can make up."""

    calls: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    agents: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    first: dict[str, list[float]] = field(default_factory=dict)
    retries: int = 0
    warned: int = 0
    shadows_left_out: int = 0

    def count(self, call: Call) -> None:
        """Count a call that ended."""
        checkpoint = call.checkpoint or ""
        self.calls[checkpoint, call.fault or "ok", "shadow" if call.shadow else "answer"] += 1
        if call.first_ns is not None:
            seconds = call.first_ns / 1e9
            row = self.first.setdefault(checkpoint, [0.0] * (len(BUCKETS) + 2))
            row[next((at for at, edge in enumerate(BUCKETS) if seconds <= edge), len(BUCKETS))] += 1
            row[-1] += seconds


def metrics(tally: Tally, gauges: Mapping[str, float], dropped: int) -> Iterator[Metric]:
    """Yield the counts, and the gauges that others keep (name without its prefix: value)."""
    yield _counter(
        "calls", "Calls by checkpoint, outcome and kind.", ("checkpoint", "outcome", "kind"), tally.calls.items()
    )
    agents = [((name,), count) for name, count in tally.agents.items()]
    yield _counter("agent_calls", "Calls by the agent that a key names.", ("agent",), agents)
    refused = [((str(status),), count) for status, count in tally.refused.items()]
    yield _counter("refused", "Requests that the gateway refused, by status.", ("status",), refused)
    yield _counter("retries", "Further tries before the first byte.", (), [((), tally.retries)])
    yield _counter("temperature_warnings", "Callers' temperatures that met a baked one.", (), [((), tally.warned)])
    yield _counter("shadows_left_out", "Shadow calls beyond the limit.", (), [((), tally.shadows_left_out)])
    yield _counter("calls_lost", "Calls that found no room on their way to the database.", (), [((), dropped)])
    yield _first(tally)
    for name, value in gauges.items():
        yield GaugeMetricFamily(f"fleetssd_gateway_{name}", "As it is now.", value=value)


def _counter(name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], int]]) -> Metric:
    metric = CounterMetricFamily(f"fleetssd_gateway_{name}", text, labels=labels)
    for key, value in values:
        metric.add_metric(key, float(value))
    return metric


def _first(tally: Tally) -> Metric:
    metric = HistogramMetricFamily(
        "fleetssd_gateway_first_byte_seconds", "Until an answer's first byte.", labels=["checkpoint"]
    )
    edges = [*(str(edge) for edge in BUCKETS), "+Inf"]
    for checkpoint, (*row, total) in tally.first.items():
        sums = [sum(row[: at + 1]) for at in range(len(row))]
        metric.add_metric([checkpoint], buckets=list(zip(edges, sums, strict=True)), sum_value=total)
    return metric
