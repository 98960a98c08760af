"""The lab for the eye: its topology, who reaches whom, what state it is in. Colours on a terminal, plain in a pipe."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import Ping, Speed
from pyflannel.lab.node import Node


def make_console(file: IO[str]) -> Console:
    """For *file*: a terminal, or a pipe, which has no width: nothing is wrapped or cut for the program that reads it.

    Without rich's emoji: it would make one of the `:a:` in fd00:10:244:a::1.
    """
    return Console(file=file, highlight=False, emoji=False, width=None if file.isatty() else 1000)


console = make_console(sys.stdout)
say = console.print

LOST_SHOWN = 10


def topology(cluster: Cluster) -> Tree:
    """Underlay, nodes and pods with their addresses."""
    plan = cluster.plan
    shape = "two links and a router" if plan.routed else "one link"
    tree = Tree(f"[bold]{plan.name}[/]: {plan.backend}, {plan.store} store; underlay: {shape}, MTU {plan.mtu}")
    for node in cluster.nodes:
        env = node.subnet_env()
        branch = tree.add(
            f"[bold cyan]{node.name}[/]  {underlay_address(cluster, node)}  [dim]cni0[/] {_gateways(env)}  "
            f"[dim]MTU[/] {env.get('FLANNEL_MTU', '?')}"
        )
        for pod in node.pods:
            branch.add(f"[green]{pod.name}[/]  {'  '.join(pod.addresses)}")
    return tree


def underlay_address(cluster: Cluster, node: Node) -> str:
    """The address that the other nodes know it by."""
    return node.address if cluster.plan.ipv4 else node.address6


def _gateways(env: dict[str, str]) -> str:
    found = [env[name] for name in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") if name in env]
    return "  ".join(found) or "[red]no subnet[/]"


# Who reaches whom


def natural(name: str) -> list[int]:
    """To sort names by: n2p1 before n10p1."""
    return [int(each) for each in re.findall(r"\d+", name)]


def worst(found: Sequence[Ping]) -> float | None:
    """The longest RTT in milliseconds, None if one was lost."""
    times = [ping.rtt_ms for ping in found if ping.rtt_ms is not None]
    return max(times) if len(times) == len(found) else None


def matrix(found: Sequence[Ping], width: int) -> Table | None:
    """RTTs in milliseconds from row to column, the worst of all addresses: pod by pod if that fits in *width*
    columns, else node by node; None if neither does."""
    for by_node in (False, True):
        cells: dict[tuple[str, str], list[Ping]] = {}
        for ping in found:
            pair = (ping.source, ping.target)
            key = (_node_of(pair[0]), _node_of(pair[1])) if by_node else pair
            cells.setdefault(key, []).append(ping)
        names = sorted({name for pair in cells for name in pair}, key=natural)
        if (len(names) + 1) * 8 <= width:
            return _grid(names, cells)
    return None


def _node_of(pod: str) -> str:
    return pod.partition("p")[0]


def _grid(names: Sequence[str], cells: dict[tuple[str, str], list[Ping]]) -> Table:
    table = Table(box=None, header_style="bold cyan", pad_edge=False)
    table.add_column("ms", style="bold cyan")
    for name in names:
        table.add_column(name, justify="right")
    for source in names:
        row = []
        for target in names:
            pings = cells.get((source, target))
            milliseconds = worst(pings) if pings else None
            row.append("[dim]·[/]" if not pings else "[red]lost[/]" if milliseconds is None else f"{milliseconds:.2f}")
        table.add_row(source, *row)
    return table


def show_matrix(found: Sequence[Ping]) -> bool:
    """Print who reaches whom. True if all do."""
    table = matrix(found, console.width)
    if table is not None:
        say(table)
    lost = [ping for ping in found if ping.rtt_ms is None]
    if not lost:
        say(f"[green]{len(found)} of {len(found)} pings answered[/]")
        return True
    say(f"[red]{len(found) - len(lost)} of {len(found)} pings answered, {len(lost)} lost[/]")
    for ping in lost[:LOST_SHOWN]:
        say(f"  {ping.source} → {ping.target} ({ping.address})")
    if len(lost) > LOST_SHOWN:
        say(f"  and {len(lost) - LOST_SHOWN} more")
    return False


# What state it is in


@dataclass(frozen=True, slots=True)
class State:
    """A node as it is now. `pid` is 0 and `said` says so if flanneld doesn't run."""

    name: str
    address: str
    subnets: str
    devices: str
    mtu: str
    pid: int
    ready: bool
    said: str


def states(cluster: Cluster) -> list[State]:
    """Every node's state, asked at once."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda node: _state(cluster, node), cluster.nodes))


def _state(cluster: Cluster, node: Node) -> State:
    env = node.subnet_env()
    code, body = node.http("readyz") if node.running() else (0, "flanneld does not run")
    # The daemon marks the devices it makes; a backend without one uses the underlay's.
    made = [link["ifname"] for link in node.ip_json("link") if str(link.get("ifalias", "")).startswith("pyflannel")]
    return State(
        node.name,
        underlay_address(cluster, node),
        _gateways(env),
        " ".join(made) or "e0",
        env.get("FLANNEL_MTU", "?"),
        node.pid if node.running() else 0,
        code == 200,
        "; ".join(body.splitlines()) or "no answer",
    )


def state_table(found: Sequence[State]) -> Table:
    """Nodes, a line each."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("NODE", "UNDERLAY", "SUBNET", "DEVICE", "MTU", "PID", "STATE"):
        table.add_column(name, overflow="fold")
    for state in found:
        said = f"[{'green' if state.ready else 'red'}]{escape(state.said)}[/]"
        row = (state.name, state.address, state.subnets, state.devices, state.mtu, str(state.pid or "-"), said)
        table.add_row(*row)
    return table


def speed_table(bare: Speed, pods: Speed) -> Table:
    """The underlay beside the pods that talk over it."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for name in ("TCP, Gb/s", "RTT p50, ms"):
        table.add_column(name, justify="right")
    table.add_row("underlay", f"{bare.gbps:.2f}", f"{bare.rtt_ms:.3f}")
    table.add_row("pod to pod", f"{pods.gbps:.2f}", f"{pods.rtt_ms:.3f}")
    table.add_row("ratio", f"{pods.gbps / bare.gbps:.0%}", f"{pods.rtt_ms / bare.rtt_ms:.0%}", style="bold")
    return table
