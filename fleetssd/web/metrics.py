"""The report as Prometheus metrics; every scrape reads anew, and nothing global is registered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleetssd.status import Report, Status


def render(report: Report) -> bytes:
    """Return the text exposition of a report."""
    return exposition(lambda: _metrics(report))


def exposition(metrics: Callable[[], Iterator[Metric]]) -> bytes:
    """Return the text exposition of what is read at this moment."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(metrics))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


def _metrics(report: Report) -> Iterator[Metric]:
    status = report.status
    yield _gauge("records", "Records by state.", "state", _states(status))
    yield _gauge("refused_records", "Refused records by reason.", "reason", status.records.reasons)
    yield _gauge("nights", "Nights by verdict, or by state where there is none.", "verdict", _verdicts(report))
    yield _gauge("swaps", "Proven lines of the swap log by kind.", "kind", _swaps(report))
    yield _one("pending_promotion", "1 where a promoted checkpoint waits for dawn.", float(status.pending is not None))
    share = status.canary.share if status.canary else 0.0
    yield _one("canary_share", "The running canary's share of tasks; 0 where none runs.", share)
    yield _one("unproven_swap", "1 where a swap was begun and not proven.", float(status.unproven is not None))
    if status.served:
        yield _served(status)
    moments = {"poll_cursor": status.cursor, "next_night": status.next.night, "next_dawn": status.next.dawn}
    for name, moment in moments.items():
        if moment:
            yield _moment(name, moment)
    scores = (status.last_night or {}).get("pass_1") or {}
    if scores:
        yield _gauge("pass_1", "pass@1 of the last night by arm.", "arm", {k: v["point"] for k, v in scores.items()})


def _served(status: Status) -> Metric:
    assert status.served is not None  # noqa: S101  the caller looked
    labels = {"digest": status.served.digest, "model": status.served.model, "kind": status.served.kind}
    metric = GaugeMetricFamily("fleetssd_served", "The checkpoint that serves the fleet.", labels=list(labels))
    metric.add_metric(list(labels.values()), 1.0)
    return metric


def _states(status: Status) -> dict[str, int]:
    counts = status.records
    return {"train": counts.train, "held_out": counts.held_out, "refused": counts.refused}


def _verdicts(report: Report) -> Counter[str]:
    return Counter(str(line["verdict"] or line["state"]) for line in report.nights)


def _swaps(report: Report) -> Counter[str]:
    return Counter(str(line["kind"]) for line in report.swaps if line["done"])


def _moment(name: str, moment: datetime) -> Metric:
    return _one(f"{name}_timestamp_seconds", "Unix time.", moment.timestamp())


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"fleetssd_{name}", text, value=value)


def _gauge(name: str, text: str, label: str, values: dict[str, int] | dict[str, float] | Counter[str]) -> Metric:
    metric = GaugeMetricFamily(f"fleetssd_{name}", text, labels=[label])
    for key, value in values.items():
        metric.add_metric([key], float(value))
    return metric
