"""Tables and trees for the terminal; JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import Ping
from pyflannel.model.lease import Lease

console = Console(highlight=False)


def lease_dict(lease: Lease) -> dict[str, Any]:
    """A lease as JSON: addresses as text, expiry as Unix seconds (null: a reservation)."""
    attrs = lease.attrs
    return {
        "ipv4": str(lease.subnets.ipv4) if lease.subnets.ipv4 else None,
        "ipv6": str(lease.subnets.ipv6) if lease.subnets.ipv6 else None,
        "public_ip": str(attrs.public_ip) if attrs.public_ip else None,
        "public_ipv6": str(attrs.public_ipv6) if attrs.public_ipv6 else None,
        "backend": attrs.backend_type,
        "data": json.loads(attrs.backend_data) if attrs.backend_data else None,
        "data6": json.loads(attrs.backend_v6_data) if attrs.backend_v6_data else None,
        "expires": lease.expires,
    }


def leases(found: Sequence[Lease], now: float) -> None:
    """A table of leases."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("SUBNET", "NODE", "BACKEND", "DATA", "EXPIRES"):
        table.add_column(name, overflow="fold")
    for lease in found:
        nodes = (str(ip) for ip in (lease.attrs.public_ip, lease.attrs.public_ipv6) if ip)
        data = " ".join(text for text in (lease.attrs.backend_data, lease.attrs.backend_v6_data) if text)
        table.add_row(
            str(lease.subnets), " ".join(nodes), lease.attrs.backend_type or "-", data or "-", _when(lease, now)
        )
    console.print(table if found else "no leases")


def _when(lease: Lease, now: float) -> str:
    if lease.expires is None:
        return "never (reserved)"
    return time.strftime("%m-%d %H:%M", time.localtime(lease.expires)) if lease.expires > now else "expired"


def topology(cluster: Cluster) -> None:
    """A picture of the lab: underlay, nodes, pods, with their addresses."""
    plan = cluster.plan
    tree = Tree(f"[bold]{plan.name}[/]: {plan.backend} over the {plan.store} store, underlay MTU {plan.mtu}")
    for node in cluster.nodes:
        env = node.subnet_env()
        subnets = " ".join(env[name] for name in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") if name in env)
        underlay = node.address if plan.ipv4 else node.address6
        branch = tree.add(
            f"[cyan]{node.name}[/]  {underlay}  [dim]cni0[/] {subnets}  [dim]MTU[/] {env.get('FLANNEL_MTU')}"
        )
        for pod in node.pods:
            branch.add(f"[green]{pod.name}[/]  {' '.join(pod.addresses)}")
    console.print(tree)


def ping_matrix(found: Sequence[Ping]) -> bool:
    """Who reaches whom, RTT in ms (the worst of a pod's addresses). True if all do."""
    names = sorted({ping.source for ping in found} | {ping.target for ping in found})
    table = Table(
        box=None, header_style="bold", pad_edge=False, title="RTT in ms, from row to column", title_justify="left"
    )
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for source in names:
        cells = []
        for target in names:
            times = [ping.rtt_ms for ping in found if (ping.source, ping.target) == (source, target)]
            if source == target:
                cells.append("[dim]·[/]")
            elif None in times:
                cells.append("[red]lost[/]")
            else:
                cells.append(f"[green]{max(time for time in times if time is not None):.2f}[/]")
        table.add_row(source, *cells)
    console.print(table)
    lost = [ping for ping in found if ping.rtt_ms is None]
    console.print(f"{len(found) - len(lost)} of {len(found)} pings answered" + (f", {len(lost)} lost" if lost else ""))
    return not lost
