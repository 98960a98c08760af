"""Which lease of several is ours to go on with, and which IPv4 subnet is kept when IPv6 comes or goes."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.store.allocate import Choice, choose

FOUR = NetworkConfig.parse('{"Network":"10.5.0.0/16"}')
DUAL = NetworkConfig.parse('{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48"}')
ME = LeaseAttrs(IPv4Address("192.168.7.9"))


def subnets(number: int, six: int | None = None) -> Subnets:
    return Subnets(IPv4Network(f"10.5.{number}.0/24"), None if six is None else IPv6Network(f"fd00:5:0:{six:x}::/64"))


def lease(number: int, six: int | None = None, host: int = 9, expires: float | None = 1000.0) -> Lease:
    return Lease(subnets(number, six), LeaseAttrs(IPv4Address(f"192.168.7.{host}")), expires)


def chosen(config: NetworkConfig, leases: list[Lease], previous: Subnets | None) -> Choice:
    return choose(config, leases, [], ME, previous, random.Random(1))


def test_a_reservation_made_while_we_ran_does_not_move_our_pods() -> None:
    reserved = lease(3, expires=None)
    assert chosen(FOUR, [reserved, lease(40)], subnets(40)).held == lease(40)
    assert chosen(FOUR, [reserved, lease(40)], None).held == reserved
    assert chosen(FOUR, [reserved], subnets(40)).held == reserved


def test_the_ipv4_subnet_is_kept_whichever_way_ipv6_is_switched() -> None:
    on = chosen(DUAL, [lease(40)], subnets(40))
    assert (on.subnets.ipv4, on.held, on.give_back) == (subnets(40).ipv4, None, (lease(40),))
    off = chosen(FOUR, [lease(40, 7)], subnets(40, 7))
    assert (off.subnets, off.give_back) == (subnets(40), (lease(40, 7),))


def test_an_ipv4_subnet_that_two_nodes_hold_is_not_kept() -> None:
    """Two Go nodes that start at once in dual stack can have one IPv4 subnet under two keys."""
    change = chosen(FOUR, [lease(40, 7), lease(40, 8, host=2)], subnets(40, 7))
    assert change.subnets != subnets(40)
    assert change.give_back == (lease(40, 7),)


def test_what_does_not_fit_any_more_goes_all_of_it() -> None:
    old = [lease(40), lease(41)]
    config = NetworkConfig.parse('{"Network":"10.77.0.0/16"}')
    change = chosen(config, [*old, lease(42, host=2)], subnets(40))
    assert change.give_back == tuple(old)
    assert change.subnets.ipv4 is not None
    assert change.subnets.ipv4.subnet_of(IPv4Network("10.77.0.0/16"))


def test_ipv6_alone_keeps_nothing_of_ipv4() -> None:
    config = NetworkConfig.parse('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48"}')
    assert chosen(config, [lease(40, 7)], subnets(40, 7)).subnets.ipv4 is None
