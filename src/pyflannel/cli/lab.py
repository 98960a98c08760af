"""flannelctl lab: a cluster on this machine.

What a command needs is imported when it runs: `flannelctl --help` shall not wait for the lab.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pyflannel.lab.cluster import Cluster, Plan

app = typer.Typer(help="A whole cluster on this machine, of namespaces and real daemons.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", help="The lab's name; several can be up at once.")]
NodeName = Annotated[str, typer.Argument(help="A node: n1, n2, …", metavar="NODE")]
Nodes = Annotated[int, typer.Option(help="How many nodes.")]
Pods = Annotated[int, typer.Option(help="How many pods on each node.")]
Backend = Annotated[str, typer.Option(help="vxlan, host-gw, udp; aws-vpc, gce, ali-vpc, tencent-vpc (emulated).")]
Engine = Annotated[str, typer.Option(help="udp: kernel, user, or kernel,user (nodes in turn).")]
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
    engine: Engine = "auto",
    name: Name = "lab",
) -> None:
    """Make a cluster and leave it running."""
    from pyflannel.lab import picture
    from pyflannel.lab.cluster import Plan
    from pyflannel.lab.shell import LabError

    if ipv6 and dual_stack:
        raise LabError("--ipv6 is IPv6 alone, --dual-stack is both: give one of them")
    options = {"DirectRouting": True} if direct_routing else {}
    plan = Plan(
        name, nodes, pods, backend, options, not ipv6, ipv6 or dual_stack, store, members, mtu, routed, engine=engine
    )
    with _clean_end():
        cluster = _up(plan)
    picture.say(picture.topology(cluster))
    named = "" if name == "lab" else f" --name {name}"
    picture.say(f"[dim]next:[/] flannelctl lab ping{named}  [dim]or[/] status, bench, exec n1 ip route, cut n2, down")


@app.command()
def ping(name: Name = "lab") -> None:
    """Every pod pings every other; fails if one is lost."""
    from pyflannel.lab import picture
    from pyflannel.lab.cluster import Cluster
    from pyflannel.lab.measure import matrix

    if not picture.show_matrix(matrix(Cluster.load(name))):
        raise typer.Exit(1)


@app.command()
def bench(
    seconds: Annotated[int, typer.Option(help="For each run of TCP.", min=1)] = 3,
    rounds: Annotated[int, typer.Option(help="How often each is run, in turns.", min=1)] = 3,
    name: Name = "lab",
) -> None:
    """TCP and RTT from pod to pod, beside the bare underlay in the same run."""
    from pyflannel.lab import picture
    from pyflannel.lab.cluster import Cluster
    from pyflannel.lab.measure import compare

    with picture.console.status("measuring …"):
        bare, pods = compare(Cluster.load(name), seconds, rounds)
    picture.say(picture.speed_table(bare, pods))


# What stands behind NODE is the command's, whatever it looks like.
@app.command("exec", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def execute(
    where: Annotated[str, typer.Argument(help="A node (n1) or a pod (n1p1).")],
    command: Annotated[list[str] | None, typer.Argument(help="The command, with its own options.")] = None,
    name: Name = "lab",
) -> None:
    """Run a command on a node or in a pod. The lab's --name goes before it."""
    from pyflannel.lab.cluster import Cluster
    from pyflannel.lab.shell import LabError

    cluster = Cluster.load(name)
    pod = next((pod for pod in cluster.pods if pod.name == where), None)
    enter = ("ip", "netns", "exec", pod.netns) if pod else cluster.node(where).enter()
    if not command:
        raise LabError(f"which command? flannelctl lab exec {where} ip route")
    os.execvp(enter[0], [*enter, *command])


@app.command()
def cut(node: NodeName, name: Name = "lab") -> None:
    """Pull a node's cable."""
    from pyflannel.lab import faults
    from pyflannel.lab.cluster import Cluster

    cluster = Cluster.load(name)
    faults.cut(cluster, cluster.node(node))


@app.command()
def heal(node: NodeName, name: Name = "lab") -> None:
    """Put a node's cable back."""
    from pyflannel.lab import faults
    from pyflannel.lab.cluster import Cluster

    cluster = Cluster.load(name)
    faults.heal(cluster, cluster.node(node))


@app.command()
def cloud(
    remove: Annotated[str, typer.Option(help="Delete this route, as somebody at the console would.")] = "",
    stop: Annotated[str, typer.Option(help="Stop this node's machine, in the cloud's eyes.")] = "",
    start: Annotated[str, typer.Option(help="Start it again.")] = "",
    name: Name = "lab",
) -> None:
    """The emulated cloud's route tables."""
    from pyflannel.lab import picture
    from pyflannel.lab.cluster import Cluster
    from pyflannel.lab.shell import LabError

    cluster = Cluster.load(name)
    if cluster.cloud is None:
        raise LabError(f"this lab's backend is {cluster.plan.backend}, no cloud's: `lab up --backend aws-vpc`")
    if remove:
        cluster.cloud.remove(remove)
    for what, machine in (("stop", stop), ("start", start)):
        if machine:
            cluster.cloud.do(what, machine=cluster.node(machine).name)
    for table, routes in cluster.cloud.state()["tables"].items():
        picture.say(f"[bold]{table}[/]")
        for route in routes:
            picture.say(f"  {route['destination']:<20} {route['target'] or 'nobody of ours':<16} {route['state']}")


@app.command()
def restart(node: NodeName, name: Name = "lab") -> None:
    """Restart a node's flanneld."""
    from pyflannel.lab import picture
    from pyflannel.lab.cluster import Cluster

    cluster = Cluster.load(name)
    found = cluster.node(node)
    found.stop_flanneld()
    found.start_flanneld()
    cluster.save()  # before the wait: it runs, whether it becomes ready or not
    picture.say(f"{node}: ready after {found.wait_ready():.1f} s")


@app.command()
def logs(
    node: NodeName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it is written.")] = False,
    name: Name = "lab",
) -> None:
    """What a node's flanneld says."""
    from pyflannel.lab.cluster import Cluster

    found = Cluster.load(name).node(node)
    if follow:
        os.execvp("tail", ["tail", "-n", "+1", "-f", str(found.path / "log")])
    print(found.log(), end="")


@app.command()
def status(name: Name = "lab") -> None:
    """Nodes, their subnets and devices; fails if one is not ready."""
    from pyflannel.lab import picture
    from pyflannel.lab.cluster import Cluster

    found = picture.states(Cluster.load(name))
    picture.say(picture.state_table(found))
    if not all(state.ready for state in found):
        raise typer.Exit(1)


@app.command()
def down(name: Name = "lab") -> None:
    """End it; leaves nothing, not even what a crash left."""
    from pyflannel.lab.cluster import Cluster, Plan

    Cluster(Plan(name)).down()  # by name alone: whatever its state file says, or lacks


@app.command()
def demo(
    nodes: Nodes = 3,
    backend: Backend = "vxlan",
    dual_stack: DualStack = False,
    store: StoreKind = "local",
    engine: Engine = "auto",
    name: Name = "demo",
) -> None:
    """Up, look, ping, break, see it heal, down."""
    from pyflannel.lab import picture
    from pyflannel.lab.cluster import Plan
    from pyflannel.lab.demo import disturbances
    from pyflannel.lab.measure import matrix

    began = time.monotonic()
    with _clean_end():
        cluster = _up(Plan(name, nodes, 1, backend, ipv6=dual_stack, store=store, engine=engine))
        try:
            picture.say("")
            picture.say(picture.topology(cluster))
            picture.say("\n[bold]Every pod pings every other[/]")
            if not picture.show_matrix(matrix(cluster)):
                raise typer.Exit(1)
            picture.say(f"\n[bold]Breaking things on {cluster.nodes[0].name} by hand[/]")
            for what, milliseconds in disturbances(cluster):
                picture.say(f"{what}: back after [green]{milliseconds:.0f} ms[/]")
        finally:
            cluster.down()
    picture.say(f"\nall of it in {time.monotonic() - began:.1f} s, and nothing left behind")


def _up(plan: Plan) -> Cluster:
    from pyflannel.lab import picture
    from pyflannel.lab.cluster import Cluster

    began = time.monotonic()
    with picture.console.status("…") as spinner:

        def progress(text: str) -> None:
            spinner.update(text)
            picture.say(f"[dim]{time.monotonic() - began:4.1f} s[/]  {text}")

        cluster = Cluster(plan, progress).up()
        progress("up")
    return cluster


@contextmanager
def _clean_end() -> Iterator[None]:
    """Being asked to end, or losing the terminal, is as Ctrl-C: what was begun is taken down."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
