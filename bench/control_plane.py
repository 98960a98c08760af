"""From start to subnet.env, to all rows, and the memory held: with 1 … 5,000 peers in the store. Run as root.

The peers are leases of nodes that don't exist; the node under test is a real flanneld in a lab of one.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from pyflannel.lab.cluster import Cluster, Plan
from pyflannel.lab.node import Node, wait_for
from pyflannel.store.etcd.client import Etcd
from pyflannel.store.local.sqlite import Sqlite
from pyflannel.table.netns import inside

PREFIX = "/coreos.com/network"
CONFIG = '{{"Network": "10.0.0.0/8", "Backend": {{"Type": "{}"}}}}'


def peer(number: int, backend: str) -> tuple[str, str]:
    net = f"10.{1 + (number >> 8)}.{number & 255}.0-24"
    # Off the link for vxlan; host-gw's have to be on it: the underlay is a /16 there.
    address = f"192.168.{100 + (number >> 8)}.{number & 255}"
    data = ""
    if backend == "vxlan":
        data = f',"BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"}}'
    return f"{PREFIX}/subnets/{net}", f'{{"PublicIP":"{address}","PublicIPv6":null,"BackendType":"{backend}"{data}}}'


async def fill(cluster: Cluster, count: int, backend: str) -> None:
    database = (
        Sqlite(cluster.folder / "store.db") if cluster.plan.store == "local" else Etcd(["http://192.168.77.1:2379"])
    )
    entries = dict(peer(number, backend) for number in range(count))
    keys = list(entries)
    for start in range(0, count, 100):
        await database.commit({}, {key: entries[key] for key in keys[start : start + 100]})
    await database.close()


def rss_mb(node: Node) -> float:
    text = Path(f"/proc/{node.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def rows(node: Node) -> int:
    return node("ip route").count("proto 241")


def measure(backend: str, count: int, store: str) -> tuple[float, float, float]:
    plan = Plan("bench", 1, 1, backend, store=store, flags=("--iface=e0",))
    cluster = Cluster(plan)
    try:
        cluster.up()
        node = cluster.nodes[0]
        node.stop_flanneld()
        node.exec("ip", "link", "del", "flannel.1")
        node.exec("ip", "addr", "replace", f"{node.address}/16", "dev", "e0")
        node.exec("ip", "addr", "del", f"{node.address}/24", "dev", "e0")
        (node.path / "run/subnet.env").unlink()
        cluster.write_config(CONFIG.format(backend))
        with inside(cluster.underlay):
            asyncio.run(fill(cluster, count, backend))
        began = time.perf_counter()
        node.start_flanneld()
        assert wait_for(lambda: (node.path / "run/subnet.env").exists(), 60, 0.002)
        to_env = time.perf_counter() - began
        assert wait_for(lambda: rows(node) == count, 60, 0.002), (rows(node), node.log())
        to_rows = time.perf_counter() - began
        time.sleep(3)
        return to_env, to_rows, rss_mb(node)
    finally:
        cluster.down()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="local")
    parser.add_argument("--peers", type=int, nargs="*", default=[0, 1, 100, 1_000, 5_000])
    arguments = parser.parse_args()
    print(
        f"{'backend':8} {'peers':>6} {'to subnet.env':>14} {'to all rows':>12} {'RSS':>8}   ({arguments.store} store)"
    )
    for backend in ("vxlan", "host-gw"):
        for count in arguments.peers:
            runs = sorted(measure(backend, count, arguments.store) for _ in range(3))
            to_env, to_rows, rss = runs[1]
            print(f"{backend:8} {count:6} {to_env:12.2f} s {to_rows:10.2f} s {rss:5.1f} MB", flush=True)


if __name__ == "__main__":
    main()
