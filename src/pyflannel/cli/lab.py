"""flannelctl lab: a cluster on this machine."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from pyflannel.cli import render
from pyflannel.lab import faults
from pyflannel.lab.cluster import Cluster, Plan
from pyflannel.lab.measure import matrix, median, throughput, until_back
from pyflannel.lab.node import Node
from pyflannel.lab.shell import LabError, need
from pyflannel.model.rows import PROTOCOL

app = typer.Typer(help="A whole cluster on this machine, of namespaces and real daemons.", no_args_is_help=True)
say = render.console.print

Name = Annotated[str, typer.Option("--name", help="The lab's name; several can be up at once.")]
Nodes = Annotated[int, typer.Option(help="How many nodes.")]
Pods = Annotated[int, typer.Option(help="How many pods on each node.")]
Backend = Annotated[str, typer.Option(help="vxlan or host-gw.")]
Ipv6 = Annotated[bool, typer.Option("--ipv6", help="IPv6 alone.")]
DualStack = Annotated[bool, typer.Option("--dual-stack", help="IPv4 and IPv6.")]
StoreKind = Annotated[str, typer.Option("--store", help="local, or etcd (a real one is started).")]
Members = Annotated[int, typer.Option(help="Members of the etcd cluster.")]
Mtu = Annotated[int, typer.Option(help="The underlay's MTU in bytes.")]
Direct = Annotated[bool, typer.Option("--direct-routing", help="vxlan: plain routes to peers on the same link.")]
Routed = Annotated[bool, typer.Option("--routed", help="Nodes on two links, a router between.")]


@app.command()
def up(
    nodes: Nodes = 3,
    pods: Pods = 1,
    backend: Backend = "vxlan",
    ipv6: Ipv6 = False,
    dual_stack: DualStack = False,
    store: StoreKind = "local",
    members: Members = 1,
    mtu: Mtu = 1500,
    direct_routing: Direct = False,
    routed: Routed = False,
    name: Name = "lab",
) -> None:
    """Make a cluster and leave it running."""
    options = {"DirectRouting": True} if direct_routing else {}
    plan = Plan(name, nodes, pods, backend, options, not ipv6, ipv6 or dual_stack, store, members, mtu, routed)
    cluster = _up(plan)
    render.topology(cluster)
    say(f"next: flannelctl lab ping --name {name} · exec n1 ip route · cut n2 · bench · down")


@app.command()
def ping(name: Name = "lab") -> None:
    """Every pod pings every other; fails if one is lost."""
    if not render.ping_matrix(matrix(Cluster.load(name))):
        raise typer.Exit(1)


@app.command()
def bench(seconds: Annotated[int, typer.Option(help="For each run.")] = 3, name: Name = "lab") -> None:
    """TCP from pod to pod, beside the bare underlay in the same run."""
    need("iperf3")
    cluster = Cluster.load(name)
    if len(cluster.nodes) < 2 or not cluster.pods:
        raise LabError("lab bench needs two nodes with pods: flannelctl lab up --nodes 2")
    one, two = cluster.nodes[0], cluster.nodes[1]
    underlay, overlay = [], []
    for _ in range(3):  # interleaved: what else the machine does hits both
        underlay.append(throughput(one.netns, two.netns, two.address, seconds))
        overlay.append(throughput(one.pods[0], two.pods[0], two.pods[0].address, seconds))
    times = [ping.rtt_ms for ping in matrix(cluster) if ping.rtt_ms is not None]
    bare, tunnelled = median(underlay), median(overlay)
    say(f"underlay {bare:.2f} Gb/s, pod to pod {tunnelled:.2f} Gb/s: {tunnelled / bare:.0%}")
    say(f"RTT between pods, median: {median(times):.2f} ms")


@app.command("exec", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def execute(
    context: typer.Context,
    where: Annotated[str, typer.Argument(help="A node (n1) or a pod (n1p1).")],
    name: Name = "lab",
) -> None:
    """Run a command on a node or in a pod."""
    cluster = Cluster.load(name)
    pod = next((pod for pod in cluster.pods if pod.name == where), None)
    enter = ("ip", "netns", "exec", pod.netns) if pod else cluster.node(where).enter()
    if not context.args:
        raise LabError(f"which command? flannelctl lab exec {where} ip route")
    os.execvp(enter[0], [*enter, *context.args])


@app.command()
def cut(node: str, name: Name = "lab") -> None:
    """Pull a node's cable."""
    cluster = Cluster.load(name)
    faults.cut(cluster, cluster.node(node))


@app.command()
def heal(node: str, name: Name = "lab") -> None:
    """Put a node's cable back."""
    cluster = Cluster.load(name)
    faults.heal(cluster, cluster.node(node))


@app.command()
def restart(node: str, name: Name = "lab") -> None:
    """Restart a node's flanneld."""
    cluster = Cluster.load(name)
    found = cluster.node(node)
    found.stop_flanneld()
    found.start_flanneld()
    say(f"ready after {found.wait_ready():.1f} s")
    cluster.save()


@app.command()
def logs(node: str, name: Name = "lab") -> None:
    """What a node's flanneld says."""
    print(Cluster.load(name).node(node).log(), end="")


@app.command()
def status(name: Name = "lab") -> None:
    """Nodes, their subnets, and whether they are ready."""
    cluster = Cluster.load(name)
    render.topology(cluster)
    for node in cluster.nodes:
        code, body = node.http("readyz") if node.running() else (0, "flanneld does not run")
        say(f"{node.name}: [{'green' if code == 200 else 'red'}]{'; '.join(body.splitlines()) or 'no answer'}[/]")


@app.command()
def down(name: Name = "lab") -> None:
    """End it; leaves nothing, not even what a crash left."""
    try:
        cluster = Cluster.load(name)
    except LabError:
        cluster = Cluster(Plan(name))
    cluster.down()


@app.command()
def demo(
    nodes: Nodes = 3,
    backend: Backend = "vxlan",
    dual_stack: DualStack = False,
    store: StoreKind = "local",
    name: Name = "demo",
) -> None:
    """Up, look, ping, break, see it heal, down."""
    began = time.monotonic()
    cluster = _up(Plan(name, nodes, 1, backend, ipv6=dual_stack, store=store))
    try:
        say("")
        render.topology(cluster)
        say("")
        if not render.ping_matrix(matrix(cluster)):
            raise typer.Exit(1)
        say("")
        for what, milliseconds in _break(cluster):
            say(f"{what}: back after [green]{milliseconds:.0f} ms[/]")
    finally:
        cluster.down()
    say(f"\nall of it in {time.monotonic() - began:.1f} s, and nothing left behind")


def _break(cluster: Cluster) -> list[tuple[str, float]]:
    """Disturb the first node by hand, in a few ways, and see how long it takes to mend itself."""
    node = cluster.nodes[0]
    found = [_disturb(node, "the routes deleted", f"ip route flush proto {PROTOCOL}", "ip route")]
    device = next((link["ifname"] for link in node.ip_json("link") if link["ifname"].startswith("flannel")), None)
    if device is not None:
        show = f"bridge fdb show dev {device}"
        found.append(_disturb(node, "the FDB flushed", f"bridge fdb flush dev {device}", show))
        found.append(_disturb(node, f"the device {device} deleted", f"ip link del {device}", "ip route"))
    found.append(_disturb(node, "the firewall flushed", "nft flush ruleset", "nft list ruleset"))
    return found


def _disturb(node: Node, what: str, command: str, show: str) -> tuple[str, float]:
    def shown() -> list[str]:
        return sorted(line.strip() for line in node.exec(*show.split()).stdout.splitlines() if _lasting(line))

    before = shown()
    node.exec(*command.split(), check=True)
    return what, until_back(lambda: shown() == before)


def _lasting(line: str) -> bool:
    """Not the kernel's own entries: they come back in their own time."""
    return "permanent" in line or "flannel" in line or "saddr" in line or f"proto {PROTOCOL}" in line


def _up(plan: Plan) -> Cluster:
    began = time.monotonic()
    with render.console.status("…") as spinner:

        def progress(text: str) -> None:
            spinner.update(text)
            say(f"[dim]{time.monotonic() - began:4.1f} s[/]  {text}")

        cluster = Cluster(plan, progress).up()
        say(f"[dim]{time.monotonic() - began:4.1f} s[/]  up")
    return cluster
