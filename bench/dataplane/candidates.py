"""Who is measured, in the order of the tables. A new one is a line here."""

from __future__ import annotations

from bench.dataplane.ours import Cable, Flanneld, Naive
from bench.dataplane.peers import Fastd, Nebula, Tinc, WireguardGo
from bench.dataplane.world import Candidate

CANDIDATES: tuple[Candidate, ...] = (
    Cable(),
    Flanneld("hostgw", "host-gw", "host-gw"),
    Flanneld("vxlan", "vxlan (kernel)", "vxlan"),
    Flanneld("kernel", "udp, kernel engine", "udp", {"engine": "kernel"}, counted=True),
    Flanneld("user", "udp, user engine", "udp", {"engine": "user"}, counted=True),
    Naive(),
    WireguardGo(),
    Tinc(),
    Nebula(),
    Fastd(),
)
