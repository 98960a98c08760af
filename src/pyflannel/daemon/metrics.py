"""The daemon's status as Prometheus metrics. Pure: from what `status()` says, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

NOTES = ("missing", "black hole", "elsewhere", "departed", "foreign")  # each is there, also with 0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(status: dict[str, Any]) -> bytes:
    """*status* in the text format."""
    registry = CollectorRegistry()
    registry.register(_Once(list(families(status))))
    return generate_latest(registry)


def families(status: dict[str, Any]) -> Iterator[Metric]:
    """The metrics of *status*, as /status shows it."""
    yield _gauge("ready", "1 if this node's rows are as they should be", float(status["ready"]))
    if "tables" not in status:
        return
    yield _gauge("peers", "Other nodes with a lease", status["peers"])
    yield _gauge("unreachable_peers", "Of them, those no row leads to", len(status["unreachable"]))
    yield _gauge("mtu_bytes", "MTU for pods", status["backend"]["mtu"])
    yield InfoMetricFamily("pyflannel_backend", "What carries packets", {"type": status["backend"]["type"]})
    for key in ("rows", "failing"):
        found = GaugeMetricFamily(f"pyflannel_table_{key}", f"{key.capitalize()} by table", labels=["table"])
        for name, table in status["tables"].items():
            found.add_metric([name], table[key])
        yield found
    if cloud := status.get("cloud"):
        notes = GaugeMetricFamily("pyflannel_cloud_notes", "Cloud routes that a person should look at", labels=["kind"])
        kinds = [note["kind"] for note in cloud["notes"]]
        for kind in NOTES:
            notes.add_metric([kind], kinds.count(kind))
        yield notes
    if engine := status.get("engine"):
        yield from _engine(engine)


def _engine(engine: dict[str, Any]) -> Iterator[Metric]:
    yield InfoMetricFamily("pyflannel_engine", "The udp backend's packet engine", {"kind": engine["kind"]})
    packets = CounterMetricFamily("pyflannel_engine_packets", "Inner packets", labels=["part", "way"])
    volume = CounterMetricFamily("pyflannel_engine_bytes", "Bytes of inner packets", labels=["part", "way"])
    drops = CounterMetricFamily("pyflannel_engine_drops", "Packets dropped", labels=["part", "reason"])
    for part, values in engine["parts"].items():
        for name, value in values["counters"].items():
            way, _, what = name.partition("_")
            if way == "drop":
                drops.add_metric([part, what], value)
            elif what in ("packets", "bytes"):
                (packets if what == "packets" else volume).add_metric([part, way], value)
    yield from (packets, volume, drops)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"pyflannel_{name}", text, value)


class _Once:
    """A collector of what is there already."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> list[Metric]:
        return self._found
