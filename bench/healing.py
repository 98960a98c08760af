"""How long each kind of row stays disturbed: from the end of the command that broke it. Run as root."""

from __future__ import annotations

import subprocess
import time

from pyflannel.lab.cluster import Cluster, Plan
from pyflannel.lab.measure import median
from pyflannel.lab.node import Node

ROUNDS = 15
# What is done, and the file or command whose output must be as before. `ip` costs 2 ms a look.
KINDS = {
    "route": ("ip route del {subnet}", "ip route show proto 241"),
    "neighbour": ("ip neigh del {base} dev flannel.1", "ip neigh show nud permanent dev flannel.1"),
    "FDB entry": ("bridge fdb del {mac} dev flannel.1 dst {remote} self", "bridge fdb show dev flannel.1"),
    "address": ("ip addr flush dev flannel.1", "ip -o -4 addr show dev flannel.1"),
    "device's MTU": ("ip link set flannel.1 mtu 1300", "cat /sys/class/net/flannel.1/mtu"),
    "device's MAC": ("ip link set flannel.1 address 02:66:66:66:66:66", "cat /sys/class/net/flannel.1/address"),
    "device": ("ip link del flannel.1", "ip route show proto 241"),
    "firewall": ("nft flush ruleset", "nft list ruleset"),
}


def main() -> None:
    with Cluster(Plan("bench", 2)) as cluster:
        node, other = cluster.nodes
        env = other.subnet_env()["FLANNEL_SUBNET"]
        subnet = env.replace(".1/", ".0/")
        words = {
            "subnet": subnet,
            "base": subnet.split("/")[0],
            "mac": other("cat /sys/class/net/flannel.1/address").strip(),
            "remote": other.address,
        }
        print(f"{'kind':14} {'median':>9} {'worst':>9}   ({ROUNDS} rounds, a look at the state included)")
        for kind, (command, show) in KINDS.items():
            times = [once(node, command.format(**words).split(), show.split()) for _ in range(ROUNDS)]
            print(f"{kind:14} {median(times):6.1f} ms {max(times):6.1f} ms", flush=True)
        told = [line.split("mended in ")[1] for line in node.log().splitlines() if "mended in " in line]
        inner = [float(text.split()[0]) for text in told]
        print(f"the daemon's own account, from notification to mended: median {median(inner):.1f} ms")


def once(node: Node, command: list[str], show: list[str]) -> float:
    enter = ["ip", "netns", "exec", node.netns]
    look = [*enter, *show]
    before = subprocess.run(look, capture_output=True, check=False).stdout
    subprocess.run([*enter, *command], check=True)
    began = time.perf_counter()
    while subprocess.run(look, capture_output=True, check=False).stdout != before:
        assert time.perf_counter() - began < 10, command
    taken = (time.perf_counter() - began) * 1e3
    time.sleep(0.3)  # a daemon that is disturbed 20 times in 2 s pauses on purpose
    return taken


if __name__ == "__main__":
    main()
