"""flannelctl leases: who owns which subnet."""

from __future__ import annotations

import json
import sys
import time
from contextlib import aclosing
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pyflannel.cli import render
from pyflannel.cli.goflags import UsageError
from pyflannel.cli.which import Json, choose, chosen, with_store
from pyflannel.model.errors import StoreError
from pyflannel.model.lease import Added, Lease, LeaseAttrs, Snapshot, Subnets

if TYPE_CHECKING:
    from pyflannel.store.contract import Store

A = TypeVar("A", IPv4Address, IPv6Address)

app = typer.Typer(help="Who owns which subnet.", no_args_is_help=True, callback=choose, rich_markup_mode=None)
Which = Annotated[str, typer.Argument(metavar="SUBNET", help="10.5.34.0/24, or an address in it, of either family.")]


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """All leases and reservations."""
    found = with_store(context, lambda store: store.leases())
    dated = _dated(context)
    if as_json:
        print(json.dumps([render.lease_dict(lease, dated) for lease in found], indent=1))
    else:
        render.leases(found, time.time(), dated)


@app.command()
def show(context: typer.Context, subnet: Which, as_json: Json = False) -> None:
    """One lease."""
    lease = _find(with_store(context, lambda store: store.leases()), subnet)
    dated = _dated(context)
    if as_json:
        print(json.dumps(render.lease_dict(lease, dated), indent=1))
    else:
        render.leases([lease], time.time(), dated)


@app.command()
def reserve(
    context: typer.Context,
    subnet: Annotated[str, typer.Argument(help="10.5.34.0/24; of dual stack both, with a comma between.")],
    public_ip: Annotated[str, typer.Option(help="The node's public IPv4 address.")] = "",
    public_ipv6: Annotated[str, typer.Option(help="Its public IPv6 address.")] = "",
    as_json: Json = False,
) -> None:
    """Pin a subnet to a node for ever. The node's live lease on it becomes a reservation."""
    subnets = _subnets(subnet)
    attrs = LeaseAttrs(
        _address(public_ip, "--public-ip", IPv4Address), _address(public_ipv6, "--public-ipv6", IPv6Address)
    )
    if attrs.public_ip is None and attrs.public_ipv6 is None:
        raise UsageError("--public-ip (or --public-ipv6) is missing: the address of the node to reserve for")
    lease = with_store(context, lambda store: store.reserve(subnets, attrs))
    if as_json:
        print(json.dumps(render.lease_dict(lease, _dated(context)), indent=1))
    else:
        print(f"{lease.subnets} is reserved for {lease.attrs.address()}")


@app.command()
def release(
    context: typer.Context,
    subnet: Which,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a lease or reservation. A daemon that lives on it ends, and takes a new one when it's started again."""

    async def work(store: Store) -> Lease:
        lease = _find(await store.leases(), subnet)
        whose = f"{lease.subnets} of {lease.attrs.address()}"
        if not yes and not (sys.stdin.isatty() and typer.confirm(f"release {whose}?", err=True)):
            raise UsageError(f"{whose} is not released: say --yes. If that node is alive, its flanneld ends")
        if not await store.release(lease.subnets):
            raise StoreError(f"{whose} is gone already")
        return lease

    lease = with_store(context, work)
    if as_json:
        print(json.dumps(render.lease_dict(lease, _dated(context)), indent=1))
    else:
        print(f"{lease.subnets} is free")


@app.command()
def watch(context: typer.Context, as_json: Json = False) -> None:
    """What there is, then every change, until interrupted. A store that doesn't answer is waited for."""

    dated = _dated(context)

    def say(word: str, subnets: Subnets, lease: Lease | None) -> None:
        if as_json:
            shown = render.lease_dict(lease, dated) if lease else render.subnets_dict(subnets)
            print(json.dumps({"time": round(time.time(), 3), "event": word, **shown}), flush=True)
        elif lease is not None:
            print(render.event(word, lease, time.time()), flush=True)
        else:
            print(f"{time.strftime('%H:%M:%S')}  {word:8}{subnets}", flush=True)

    async def work(store: Store) -> None:
        await store.leases()  # raises if there is nothing to watch
        known: dict[Subnets, Lease] = {}
        async with aclosing(store.watch()) as events:
            async for event in events:
                if isinstance(event, Snapshot):
                    there = {lease.subnets: lease for lease in event.leases}
                    for subnets in known.keys() - there.keys():
                        say("removed", subnets, None)
                    for subnets, lease in there.items():
                        if subnets not in known:
                            say("there", subnets, lease)
                        elif known[subnets].attrs != lease.attrs:
                            say("changed", subnets, lease)
                    known = there
                elif isinstance(event, Added):
                    old = known.get(event.lease.subnets)
                    same = old is not None and old.attrs == event.lease.attrs
                    say("added" if old is None else "renewed" if same else "changed", event.lease.subnets, event.lease)
                    known[event.lease.subnets] = event.lease
                else:
                    known.pop(event.subnets, None)
                    say("removed", event.subnets, None)

    try:
        with_store(context, work)
    except KeyboardInterrupt:
        return


def _dated(context: typer.Context) -> bool:
    """Whether a listing tells when leases expire. etcd's doesn't: it would be one more request per lease."""
    return chosen(context).store_kind != "etcd"


def _address(text: str, flag: str, kind: type[A]) -> A | None:
    try:
        return kind(text) if text else None
    except ValueError:
        raise UsageError(f'{flag} is "{text}", expected an {kind.__name__[:4]} address') from None


def _find(leases: tuple[Lease, ...], text: str) -> Lease:
    """The lease that *text* names: its subnet (of dual stack either, or both), or an address in it."""
    words = [word.strip() for word in text.split(",")]
    try:
        nets = [ip_network(word) if "/" in word else ip_address(word) for word in words]
    except ValueError as error:
        raise UsageError(f'SUBNET is "{text}", expected a subnet such as 10.5.34.0/24 ({error})') from None
    for lease in leases:
        held = [net for net in (lease.subnets.ipv4, lease.subnets.ipv6) if net is not None]
        if all(net in held or any(_inside(net, subnet) for subnet in held) for net in nets):
            return lease
    raise StoreError(f"there is no lease of {text}: see `flannelctl leases list`")


def _inside(address: IPv4Address | IPv6Address | IPv4Network | IPv6Network, subnet: IPv4Network | IPv6Network) -> bool:
    return isinstance(address, IPv4Address | IPv6Address) and address in subnet


def _subnets(text: str) -> Subnets:
    found: dict[int, IPv4Network | IPv6Network] = {}
    try:
        for word in text.split(","):
            net = ip_network(word.strip())
            if net.version in found:
                raise ValueError("two of one family")
            found[net.version] = net
    except ValueError as error:
        raise UsageError(f'SUBNET is "{text}", expected a subnet such as 10.5.34.0/24 ({error})') from None
    v4, v6 = found.get(4), found.get(6)
    return Subnets(v4 if isinstance(v4, IPv4Network) else None, v6 if isinstance(v6, IPv6Network) else None)
