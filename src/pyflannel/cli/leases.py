"""flannelctl leases: who owns which subnet."""

from __future__ import annotations

import json
import sys
import time
from contextlib import aclosing
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Annotated

import typer

from pyflannel.cli import render
from pyflannel.cli.which import Json, choose, with_store
from pyflannel.model.errors import ConfigError, LeaseTaken
from pyflannel.model.lease import Added, Lease, LeaseAttrs, Snapshot, Subnets
from pyflannel.store.contract import Store

app = typer.Typer(help="Who owns which subnet.", no_args_is_help=True, callback=choose)
SubnetText = Annotated[str, typer.Argument(help="10.5.34.0/24; of dual stack both, with a comma between.")]


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """All leases and reservations."""
    found = with_store(context, lambda store: store.leases())
    if as_json:
        print(json.dumps([render.lease_dict(lease) for lease in found], indent=1))
    else:
        render.leases(found, time.time())


@app.command()
def show(context: typer.Context, subnet: SubnetText, as_json: Json = False) -> None:
    """One lease."""
    lease = with_store(context, lambda store: _find(store, _subnets(subnet)))
    if as_json:
        print(json.dumps(render.lease_dict(lease), indent=1))
    else:
        render.leases([lease], time.time())


@app.command()
def reserve(
    context: typer.Context,
    subnet: SubnetText,
    public_ip: Annotated[str, typer.Option(help="The node's public IPv4 address.")] = "",
    public_ipv6: Annotated[str, typer.Option(help="Its public IPv6 address.")] = "",
) -> None:
    """Pin a subnet to a node for ever. The node's live lease on it becomes a reservation."""
    if not (public_ip or public_ipv6):
        raise ConfigError("options", "--public-ip", None, "the address of the node to reserve for")
    try:
        attrs = LeaseAttrs(
            IPv4Address(public_ip) if public_ip else None, IPv6Address(public_ipv6) if public_ipv6 else None
        )
    except ValueError as error:
        raise ConfigError("options", "--public-ip", public_ip or public_ipv6, f"an address ({error})") from None
    lease = with_store(context, lambda store: store.reserve(_subnets(subnet), attrs))
    print(f"{lease.subnets} is reserved for {lease.attrs.address()}")


@app.command()
def release(
    context: typer.Context,
    subnet: SubnetText,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete a lease or reservation. A node that lives on it stops, and takes a new one at its restart."""

    async def work(store: Store) -> Subnets:
        lease = await _find(store, _subnets(subnet))
        if not yes and not (
            sys.stdin.isatty() and typer.confirm(f"release {lease.subnets} of {lease.attrs.address()}?")
        ):
            raise LeaseTaken(f"{lease.subnets} of {lease.attrs.address()} is not released: say --yes")
        await store.release(lease.subnets)
        return lease.subnets

    print(f"{with_store(context, work)} is free")


@app.command()
def watch(context: typer.Context, as_json: Json = False) -> None:
    """What there is, then every change, until interrupted."""

    def say(word: str, subnets: Subnets, lease: Lease | None) -> None:
        if as_json:
            print(
                json.dumps({"event": word, "subnet": str(subnets)} | (render.lease_dict(lease) if lease else {})),
                flush=True,
            )
        else:
            who = f"  {lease.attrs.address()}  {lease.attrs.backend_type}" if lease else ""
            print(f"{time.strftime('%H:%M:%S')}  {word:8}{subnets}{who}", flush=True)

    async def work(store: Store) -> None:
        async with aclosing(store.watch()) as events:
            async for event in events:
                if isinstance(event, Snapshot):
                    for lease in event.leases:
                        say("there", lease.subnets, lease)
                elif isinstance(event, Added):
                    say("added", event.lease.subnets, event.lease)
                else:
                    say("removed", event.subnets, None)

    try:
        with_store(context, work)
    except KeyboardInterrupt:
        return


async def _find(store: Store, subnets: Subnets) -> Lease:
    """The lease on *subnets*; one family is enough to name it."""
    for lease in await store.leases():
        if lease.subnets == subnets or (subnets.ipv4 is not None and lease.subnets.ipv4 == subnets.ipv4):
            return lease
        if subnets.ipv4 is None and lease.subnets.ipv6 == subnets.ipv6:
            return lease
    raise ConfigError("arguments", "SUBNET", str(subnets), "one of `flannelctl leases list`")


def _subnets(text: str) -> Subnets:
    v4, v6 = None, None
    try:
        for word in text.split(","):
            net = ip_network(word.strip())
            v4, v6 = (net, v6) if isinstance(net, IPv4Network) else (v4, net)
        assert v6 is None or isinstance(v6, IPv6Network)
        return Subnets(v4, v6)
    except ValueError as error:
        raise ConfigError("arguments", "SUBNET", text, f"a subnet such as 10.5.34.0/24 ({error})") from None
