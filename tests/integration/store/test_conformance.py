"""What every store promises (store/contract.py), proved for each of them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from pyflannel.model.errors import AddressInUse, ConfigError, ConfigMissing, LeaseTaken, OutOfSubnets
from pyflannel.model.lease import LEASE_TTL_S, Added, Lease, Removed, Snapshot, Subnets
from support.stores import CONFIG, Cluster, attrs, attrs6

DUAL = '{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:5::/48", "Backend": {"Type": "vxlan"}}'
SIX = '{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:5::/48", "Backend": {"Type": "vxlan"}}'


def net(text: str) -> Subnets:
    return Subnets(IPv4Network(text))


async def test_a_missing_config_says_how_to_write_one(shared: Cluster) -> None:
    with pytest.raises(ConfigMissing, match="flannelctl config set"):
        await shared.store().network_config()


async def test_a_wrong_config_is_refused_and_changes_nothing(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    with pytest.raises(ConfigError, match="SubnetLen"):
        await store.write_config('{"Network": "10.5.0.0/16", "SubnetLen": 17}')
    assert await store.config_text() == CONFIG


async def test_a_new_node_gets_a_free_subnet(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    lease = await store.acquire(attrs(1), None)
    assert lease.subnets.ipv4 is not None
    assert lease.subnets.ipv4.subnet_of(IPv4Network("10.5.0.0/16"))
    assert lease.subnets.ipv4.prefixlen == 24
    assert lease.expires == shared.clock() + LEASE_TTL_S
    assert [(found.subnets, found.attrs) for found in await store.leases()] == [(lease.subnets, attrs(1))]


async def test_the_same_address_gets_the_same_subnet(shared: Cluster) -> None:
    first, second = shared.store(1), shared.store(2)
    await first.write_config(CONFIG)
    lease = await first.acquire(attrs(1), None)
    again = await second.acquire(attrs(1, '{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}'), net("10.5.99.0/24"))
    assert again.subnets == lease.subnets
    assert [found.attrs.backend_data for found in await first.leases()] == ['{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}']


async def test_the_previous_subnet_is_taken_if_it_is_free(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    assert (await store.acquire(attrs(1), net("10.5.77.0/24"))).subnets == net("10.5.77.0/24")
    assert (await store.acquire(attrs(2), net("10.5.77.0/24"))).subnets != net("10.5.77.0/24")
    assert (await store.acquire(attrs(3), net("10.6.0.0/24"))).subnets != net("10.6.0.0/24")


async def test_fifty_nodes_at_once(shared: Cluster) -> None:
    await shared.store().write_config(CONFIG)
    stores = [shared.store(number % 3) for number in range(50)]  # some with the same luck
    leases = await asyncio.gather(*(store.acquire(attrs(number), None) for number, store in enumerate(stores, 1)))
    assert len({lease.subnets for lease in leases}) == 50
    assert len(await stores[0].leases()) == 50


async def test_fifty_nodes_of_two_families_at_once(shared: Cluster) -> None:
    """Their keys differ as soon as one family does: no subnet of either may be given twice for that."""
    await shared.store().write_config(DUAL)
    stores = [shared.store(number) for number in range(50)]
    leases = await asyncio.gather(*(store.acquire(attrs(number), None) for number, store in enumerate(stores, 1)))
    assert len({lease.subnets.ipv4 for lease in leases}) == 50
    assert len({lease.subnets.ipv6 for lease in leases}) == 50


@pytest.mark.parametrize("tail", ["10.5.7.9-24", "10.5.7.0-024", "x10.5.7.0-24"])
async def test_a_key_spelled_in_another_way(shared: Cluster, tail: str) -> None:
    store, raw = shared.store(), shared.raw()
    await store.write_config(CONFIG)
    await raw.commit({}, {f"{shared.prefix}/subnets/{tail}": '{"PublicIP":"192.168.0.1","PublicIPv6":null}'})
    lease = await store.acquire(attrs(1), None)
    assert (lease.subnets, lease.expires) == (net("10.5.7.0/24"), None), "a reservation put by hand"
    assert await store.renew(lease) == lease
    assert [found.subnets for found in await store.leases()] == [net("10.5.7.0/24")]
    await raw.close()


async def test_out_of_subnets_says_of_which(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config('{"Network": "10.5.0.0/22", "SubnetLen": 24, "Backend": {"Type": "vxlan"}}')
    for number in (1, 2, 3):
        await store.acquire(attrs(number), None)
    with pytest.raises(OutOfSubnets, match=r"no /24 is free from 10\.5\.1\.0 to 10\.5\.3\.0: 3 leases"):
        await store.acquire(attrs(4), None)


async def test_a_lease_that_does_not_fit_is_given_back(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    before = await store.acquire(attrs(1), None)
    await store.write_config('{"Network": "10.77.0.0/16", "Backend": {"Type": "vxlan"}}')
    after = await store.acquire(attrs(1), before.subnets)
    assert after.subnets.ipv4 is not None
    assert after.subnets.ipv4.subnet_of(IPv4Network("10.77.0.0/16"))
    assert [lease.subnets for lease in await store.leases()] == [after.subnets]


async def test_switching_ipv6_on_and_off_keeps_the_ipv4_subnet(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    before = await store.acquire(attrs(1), None)
    await store.write_config(DUAL)
    dual = await store.acquire(attrs(1), before.subnets)
    assert dual.subnets.ipv4 == before.subnets.ipv4
    assert dual.subnets.ipv6 is not None
    await store.write_config(CONFIG)
    assert (await store.acquire(attrs(1), dual.subnets)).subnets == before.subnets
    assert len(await store.leases()) == 1


async def test_nodes_of_ipv6_alone(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(SIX)
    one, two = await store.acquire(attrs6(1), None), await store.acquire(attrs6(2), None)
    assert one.subnets != two.subnets
    assert one.subnets.ipv4 is None
    assert isinstance(one.subnets.ipv6, IPv6Network)
    assert (await store.acquire(attrs6(1), None)).subnets == one.subnets
    assert {lease.subnets for lease in await store.leases()} == {one.subnets, two.subnets}


async def test_what_cannot_be_read_occupies_its_subnet(shared: Cluster) -> None:
    store, raw = shared.store(), shared.raw()
    await store.write_config('{"Network": "10.5.0.0/22", "SubnetLen": 24, "Backend": {"Type": "vxlan"}}')
    await raw.commit({}, {f"{shared.prefix}/subnets/10.5.1.0-24": "{not json", f"{shared.prefix}/subnets/junk": "{}"})
    found = {(await store.acquire(attrs(number), None)).subnets for number in (1, 2)}
    assert found == {net("10.5.2.0/24"), net("10.5.3.0/24")}
    with pytest.raises(OutOfSubnets):
        await store.acquire(attrs(3), None)
    await raw.close()


async def test_recall_finds_what_we_published_before(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    assert await store.recall(attrs(1), None) is None
    await store.acquire(attrs(1, '{"VtepMAC":"02:00:00:00:00:01"}'), None)
    await store.acquire(attrs(2), None)
    recalled = await store.recall(attrs(1), None)
    assert recalled is not None
    assert recalled.attrs.backend_data == '{"VtepMAC":"02:00:00:00:00:01"}'


# Renewal


async def test_a_renewal_lasts_a_day_more(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    lease = await store.acquire(attrs(1), None)
    shared.clock.pass_(1000)
    renewed = await store.renew(lease)
    assert renewed.expires == shared.clock() + LEASE_TTL_S
    moved = await store.renew(renewed, replace(attrs(1), public_ip=IPv4Address("192.168.9.9")))
    assert moved.subnets == lease.subnets
    assert [found.attrs.address() for found in await store.leases()] == ["192.168.9.9"]
    await store.renew(moved)


async def test_a_lease_that_is_gone_is_taken_again_if_free(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    lease = await store.acquire(attrs(1), None)
    await store.release(lease.subnets)
    assert (await store.renew(lease)).subnets == lease.subnets
    assert len(await store.leases()) == 1


async def test_nobody_elses_lease_is_overwritten(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    lease = await store.acquire(attrs(1), None)
    await store.release(lease.subnets)
    await store.acquire(attrs(2), lease.subnets)
    with pytest.raises(LeaseTaken, match=r"leased by 192\.168\.0\.2"):
        await store.renew(lease)
    assert [found.attrs.address() for found in await store.leases()] == ["192.168.0.2"]


# Reservations


async def test_a_reservation_stays_one(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    reserved = await store.reserve(net("10.5.40.0/24"), attrs(4))
    assert reserved.expires is None
    lease = await store.acquire(attrs(4, '{"VNI":1}'), None)
    assert (lease.subnets, lease.expires) == (net("10.5.40.0/24"), None)
    assert (await store.renew(lease)).expires is None
    shared.clock.pass_(10 * LEASE_TTL_S)
    assert await store.leases() == (Lease(net("10.5.40.0/24"), attrs(4, '{"VNI":1}'), None),)


async def test_a_reservation_survives_switching_ipv6_on_and_off(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    await store.reserve(net("10.5.40.0/24"), attrs(4))
    for config in (DUAL, CONFIG):
        await store.write_config(config)
        lease = await store.acquire(attrs(4), None)
        assert (lease.subnets.ipv4, lease.expires) == (net("10.5.40.0/24").ipv4, None)
        assert [found.expires for found in await store.leases()] == [None]


async def test_a_live_lease_becomes_a_reservation_and_keeps_its_data(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    lease = await store.acquire(attrs(1, '{"VNI":1}'), None)
    assert (await store.reserve(lease.subnets, attrs(1))).attrs == attrs(1, '{"VNI":1}')
    with pytest.raises(LeaseTaken, match=r"192\.168\.0\.1"):
        await store.reserve(lease.subnets, attrs(2))
    with pytest.raises(ConfigError, match=r"a /24 from 10\.5\.1\.0 to 10\.5\.255\.0"):
        await store.reserve(net("10.5.40.0/25"), attrs(2))


async def test_release(shared: Cluster) -> None:
    store = shared.store()
    await store.write_config(CONFIG)
    lease = await store.acquire(attrs(1), None)
    assert await store.release(lease.subnets)
    assert not await store.release(lease.subnets)
    assert await store.leases() == ()


# Who is alive


async def test_two_live_nodes_with_one_address(shared: Cluster) -> None:
    one, two = shared.store(), shared.store()
    await one.announce(attrs(1), "alpha", "id-a")
    await one.announce(attrs(1), "alpha", "id-a")
    await two.announce(attrs(2), "beta", "id-b")
    with pytest.raises(AddressInUse, match=r"192\.168\.0\.1 is published by node alpha.*this node is beta"):
        await two.announce(attrs(1), "beta", "id-b")


# The watch


async def test_a_watch_tells_all(shared: Cluster) -> None:
    store, other = shared.store(1), shared.store(2)
    await store.write_config(CONFIG)
    first = await store.acquire(attrs(1), None)
    async with aclosing(store.watch()) as watch, asyncio.timeout(20):
        snapshot = await anext(watch)
        assert isinstance(snapshot, Snapshot)
        assert [lease.subnets for lease in snapshot.leases] == [first.subnets]
        second = await other.acquire(attrs(2), None)
        event = await anext(watch)
        assert isinstance(event, Added)
        assert (event.lease.subnets, event.lease.attrs) == (second.subnets, attrs(2))
        await other.renew(second, attrs(2, '{"VNI":1}'))
        event = await anext(watch)
        assert isinstance(event, Added)
        assert event.lease.attrs == attrs(2, '{"VNI":1}')
        await other.release(second.subnets)
        assert await anext(watch) == Removed(second.subnets)
        assert store.contact.trouble is None


async def test_what_cannot_be_read_is_no_event_and_no_snapshot(shared: Cluster) -> None:
    store, raw = shared.store(), shared.raw()
    await store.write_config(CONFIG)
    async with aclosing(store.watch()) as watch, asyncio.timeout(20):
        await anext(watch)
        await raw.commit({}, {f"{shared.prefix}/subnets/10.5.9.0-24": '{"PublicIP":""}'})
        await raw.commit({}, {f"{shared.prefix}/subnets/hello": "{}"})
        await raw.commit({}, {f"{shared.prefix}/subnets-x/10.5.8.0-24": "{}"})
        lease = await store.acquire(attrs(1), None)
        event = await anext(watch)
        assert isinstance(event, Added)
        assert event.lease.subnets == lease.subnets
    await raw.close()


async def test_all_watchers_see_one_order(shared: Cluster) -> None:
    await shared.store().write_config(CONFIG)
    seen: list[list[object]] = [[] for _ in range(5)]

    async def follow(number: int) -> None:
        async with aclosing(shared.store(number).watch()) as watch:
            async for event in watch:
                if not isinstance(event, Snapshot):
                    seen[number].append(event.lease.subnets if isinstance(event, Added) else event.subnets)
                if len(seen[number]) == 40:
                    return

    tasks = [asyncio.create_task(follow(number)) for number in range(5)]
    await asyncio.sleep(0.3)
    stores = [shared.store(number) for number in range(20)]
    leases = await asyncio.gather(*(store.acquire(attrs(number + 1), None) for number, store in enumerate(stores)))
    await asyncio.gather(*(store.release(lease.subnets) for store, lease in zip(stores, leases, strict=True)))
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
    assert seen[0] == seen[1] == seen[2] == seen[3] == seen[4]
