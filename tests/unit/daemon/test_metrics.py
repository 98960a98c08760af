"""The status as metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from pyflannel.daemon.metrics import exposition

STATUS: dict[str, Any] = {
    "ready": True,
    "peers": 3,
    "unreachable": {"10.5.9.0/24": "why"},
    "backend": {"type": "udp", "mtu": 1472},
    "tables": {"routes": {"rows": 4, "failing": 1}, "links": {"rows": 1, "failing": 0}},
    "cloud": {"notes": [{"kind": "missing", "text": "x"}, {"kind": "missing", "text": "y"}]},
    "engine": {
        "kind": "kernel",
        "parts": {
            "kernel": {"counters": {"tx_packets": 5, "tx_bytes": 500, "rx_packets": 6, "drop_not_ours": 7}},
            "user": {"counters": {"tx_packets": 1, "icmp_sent": 2}},
        },
    },
}


def samples(status: dict[str, Any]) -> dict[tuple[str, tuple[str, ...]], float]:
    found = {}
    for family in text_string_to_metric_families(exposition(status).decode()):
        for sample in family.samples:
            found[sample.name, tuple(sample.labels.values())] = sample.value
    return found


def test_everything_is_told() -> None:
    found = samples(STATUS)
    assert found == {
        ("pyflannel_ready", ()): 1,
        ("pyflannel_peers", ()): 3,
        ("pyflannel_unreachable_peers", ()): 1,
        ("pyflannel_cloud_notes", ("missing",)): 2,
        ("pyflannel_cloud_notes", ("black hole",)): 0,
        ("pyflannel_cloud_notes", ("elsewhere",)): 0,
        ("pyflannel_cloud_notes", ("departed",)): 0,
        ("pyflannel_cloud_notes", ("foreign",)): 0,
        ("pyflannel_mtu_bytes", ()): 1472,
        ("pyflannel_backend_info", ("udp",)): 1,
        ("pyflannel_table_rows", ("routes",)): 4,
        ("pyflannel_table_rows", ("links",)): 1,
        ("pyflannel_table_failing", ("routes",)): 1,
        ("pyflannel_table_failing", ("links",)): 0,
        ("pyflannel_engine_info", ("kernel",)): 1,
        ("pyflannel_engine_packets_total", ("kernel", "tx")): 5,
        ("pyflannel_engine_packets_total", ("kernel", "rx")): 6,
        ("pyflannel_engine_packets_total", ("user", "tx")): 1,
        ("pyflannel_engine_bytes_total", ("kernel", "tx")): 500,
        ("pyflannel_engine_drops_total", ("kernel", "not_ours")): 7,
    }


def test_a_daemon_that_starts_has_little_to_tell() -> None:
    assert samples({"ready": False}) == {("pyflannel_ready", ()): 0}
