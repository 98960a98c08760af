"""Allocation against its naive twin: walk the range a subnet at a time, as flannel does."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflannel.model.errors import OutOfSubnets
from pyflannel.model.lease import Lease, LeaseAttrs, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.store.allocate import CANDIDATES, allocate, choose, fits


def config(length: int, six: bool) -> NetworkConfig:
    """A network of 32 to 1,024 subnets, at the very end of the address space: nothing may run over it."""
    part = ',"EnableIPv6":true,"IPv6Network":"ffff:ffff:ffff:ff00::/56"' if six else ""
    return NetworkConfig.parse(f'{{"Network":"255.255.240.0/20","SubnetLen":{length}{part}}}')


configs = st.builds(config, st.integers(25, 30), st.booleans())
networks4 = st.builds(
    lambda at, length: IPv4Network((int(IPv4Address("255.255.240.0")) + at, length), strict=False),
    st.integers(0, 4095),
    st.integers(21, 31),
)
networks6 = st.builds(
    lambda at, length: IPv6Network(((0xFFFFFFFFFFFFFF00 + at) << 64, length), strict=False),
    st.integers(0, 255),
    st.integers(57, 70),
)
everything = st.one_of(
    st.builds(Subnets, networks4), st.builds(Subnets, st.none(), networks6), st.builds(Subnets, networks4, networks6)
)
takens = st.lists(everything, max_size=40)


def free4(config: NetworkConfig, taken: list[Subnets]) -> list[IPv4Network]:
    """The naive twin."""
    assert config.network is not None
    nets = list(config.network.subnets(new_prefix=config.subnet_len))[1:]
    used = [subnets.ipv4 for subnets in taken if subnets.ipv4 is not None]
    return [net for net in nets if not any(net.overlaps(other) for other in used)]


def free6(config: NetworkConfig, taken: list[Subnets]) -> list[IPv6Network]:
    assert config.ipv6_network is not None
    nets = list(config.ipv6_network.subnets(new_prefix=config.ipv6_subnet_len))[1:]
    used = [subnets.ipv6 for subnets in taken if subnets.ipv6 is not None]
    return [net for net in nets if not any(net.overlaps(other) for other in used)]


@given(configs, takens, st.integers())
def test_one_of_the_first_hundred_free_ones(config: NetworkConfig, taken: list[Subnets], seed: int) -> None:
    left4 = free4(config, taken)[:CANDIDATES]
    left6 = free6(config, taken)[:CANDIDATES] if config.ipv6_network else None
    if not left4 or left6 == []:
        with pytest.raises(OutOfSubnets):
            allocate(config, taken, random.Random(seed))
        return
    found = allocate(config, taken, random.Random(seed))
    assert found.ipv4 in left4
    assert found.ipv6 is None if left6 is None else found.ipv6 in left6
    assert fits(config, found)
    assert not any(found.overlaps(other) for other in taken)


@pytest.mark.parametrize("six", [False, True])
def test_a_network_is_handed_out_to_the_last_subnet(six: bool) -> None:
    cluster = config(26, six)
    rng, room = random.Random(0), 63
    taken: list[Subnets] = []
    for _ in range(room):
        taken.append(allocate(cluster, taken, rng))
    assert len({subnets.ipv4 for subnets in taken}) == room
    with pytest.raises(OutOfSubnets):
        allocate(cluster, taken, rng)


attrs = st.builds(lambda host: LeaseAttrs(IPv4Address(f"192.168.7.{host}")), st.integers(1, 4))
leases = st.lists(st.builds(Lease, everything, attrs, st.none() | st.just(1000.0)), max_size=12)


@given(configs, leases, st.lists(everything, max_size=3), attrs, st.none() | everything, st.integers())
def test_a_choice_takes_nobody_elses(
    config: NetworkConfig, leases: list[Lease], unreadable: list[Subnets], me: LeaseAttrs, previous: Subnets | None,
    seed: int,
) -> None:  # fmt: skip
    try:
        choice = choose(config, leases, unreadable, me, previous, random.Random(seed))
    except OutOfSubnets:
        return
    assert fits(config, choice.subnets)
    assert all(lease.attrs.same_node(me) for lease in choice.give_back)
    if choice.held is not None:
        assert choice.held in leases
        assert choice.held.attrs.same_node(me)
        assert choice.held.subnets == choice.subnets
        return
    others = [lease.subnets for lease in leases if not lease.attrs.same_node(me)]
    assert not any(choice.subnets.overlaps(other) for other in [*others, *unreadable])


def test_a_hundred_candidates_among_five_thousand_leases_are_found_without_a_walk() -> None:
    """Comparing each candidate with each lease would be half a million comparisons; a walk of the range as many."""
    big = NetworkConfig.parse(
        '{"Network":"10.0.0.0/8","SubnetLen":28,"EnableIPv6":true,"IPv6Network":"fd00::/8","IPv6SubnetLen":126}'
    )
    assert big.subnet_min is not None
    assert big.ipv6_subnet_min is not None
    first4, first6 = int(big.subnet_min), int(big.ipv6_subnet_min)
    taken = [
        Subnets(IPv4Network((first4 + 16 * number, 28)), IPv6Network((first6 + 4 * number, 126)))
        for number in range(5000)
    ]
    taken.append(Subnets(IPv4Network("10.64.0.0/10"), IPv6Network("fd80::/9")))  # half the range in one
    found = allocate(big, taken, random.Random(1))
    assert found.ipv4 is not None
    assert found.ipv6 is not None
    assert 0 <= (int(found.ipv4.network_address) - first4) // 16 - 5000 < CANDIDATES
    assert 0 <= (int(found.ipv6.network_address) - first6) // 4 - 5000 < CANDIDATES
