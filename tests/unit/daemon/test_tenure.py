"""Our lease: renewed in time, published anew, taken again, or lost; the clock is ours."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from pyflannel.daemon.tenure import Revoked, Tenure
from pyflannel.model.lease import LEASE_TTL_S, Lease
from pyflannel.store.keyed import KeyedStore
from pyflannel.store.local.sqlite import Sqlite
from support.stores import CONFIG, Clock, attrs

MARGIN_S = 3600


class Node:
    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.store = KeyedStore(Sqlite(path / "s.db", self.clock), "/n", clock=self.clock)

    async def start(self) -> Tenure:
        await self.store.write_config(CONFIG)
        lease = await self.store.acquire(attrs(1), None)
        return Tenure(self.store, lease, MARGIN_S, clock=self.clock)


async def settle(tenure: Tenure) -> None:
    """Let it do what is due."""
    task = asyncio.create_task(tenure.keep())
    tenure._wake.set()
    done, _ = await asyncio.wait({task}, timeout=0.3)
    task.cancel()
    if done:
        await task


async def test_it_is_renewed_an_hour_before_its_end(tmp_path: Path) -> None:
    node = Node(tmp_path)
    tenure = await node.start()
    first = tenure.lease.expires
    node.clock.pass_(LEASE_TTL_S - MARGIN_S - 1)
    await settle(tenure)
    assert tenure.lease.expires == first
    node.clock.pass_(2)
    await settle(tenure)
    assert tenure.lease.expires == node.clock() + LEASE_TTL_S
    assert tenure.problems() == []
    await node.store.close()


async def test_changed_attributes_are_published_at_once(tmp_path: Path) -> None:
    node = Node(tmp_path)
    tenure = await node.start()
    moved = replace(attrs(1), public_ip=IPv4Address("192.168.9.9"))
    tenure.publish(moved)
    await settle(tenure)
    assert [lease.attrs for lease in await node.store.leases()] == [moved]
    await node.store.close()


async def test_an_expired_lease_is_taken_again_if_it_is_free(tmp_path: Path) -> None:
    node = Node(tmp_path)
    tenure = await node.start()
    node.clock.pass_(LEASE_TTL_S + 1)
    assert tenure.problems() == [f"the lease of {tenure.lease.subnets} has expired, and the store doesn't renew it"]
    assert await node.store.leases() == ()
    tenure.gone()
    await settle(tenure)
    assert [lease.subnets for lease in await node.store.leases()] == [tenure.lease.subnets]
    assert tenure.problems() == []
    await node.store.close()


async def test_an_expired_lease_that_another_took_is_lost(tmp_path: Path) -> None:
    node = Node(tmp_path)
    tenure = await node.start()
    node.clock.pass_(LEASE_TTL_S + 1)
    await node.store.acquire(attrs(2), tenure.lease.subnets)
    tenure.gone()
    with pytest.raises(Revoked, match=r"leased by 192\.168\.0\.2"):
        await settle(tenure)
    await node.store.close()


async def test_a_lease_taken_away_before_its_time_is_revoked(tmp_path: Path) -> None:
    node = Node(tmp_path)
    tenure = await node.start()
    with pytest.raises(Revoked, match="before its time"):
        tenure.gone()
    await node.store.close()


async def test_what_others_overwrote_is_put_right(tmp_path: Path) -> None:
    node = Node(tmp_path)
    tenure = await node.start()
    tenure.seen(Lease(tenure.lease.subnets, replace(attrs(1), backend_data='{"VNI":9}')))
    await settle(tenure)
    assert [lease.attrs for lease in await node.store.leases()] == [attrs(1)]
    with pytest.raises(Revoked, match=r"given to 192\.168\.0\.2"):
        tenure.seen(Lease(tenure.lease.subnets, attrs(2)))
    await node.store.close()


async def test_a_failed_renewal_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = Node(tmp_path)
    tenure = await node.start()
    node.clock.pass_(LEASE_TTL_S - MARGIN_S + 1)
    await node.store.close()
    (tmp_path / "s.db").rename(tmp_path / "away")
    await settle(tenure)
    assert "can't be renewed" in caplog.text
    (tmp_path / "away").rename(tmp_path / "s.db")
    node.clock.pass_(2)
    await settle(tenure)
    assert tenure.lease.expires == node.clock() + LEASE_TTL_S
    await node.store.close()
