"""The store's decisions without a store: allocation, ledger, renewal, checkpoint, contact."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest

from pyflannel.model.errors import OutOfSubnets
from pyflannel.model.lease import Added, Lease, LeaseAttrs, Removed, Snapshot, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.store import checkpoint
from pyflannel.store.allocate import allocate, choose, fits
from pyflannel.store.checkpoint import Checkpoint
from pyflannel.store.contract import Contact
from pyflannel.store.ledger import Ledger, LedgerChange
from pyflannel.store.renewal import renew_at, when_gone

CONFIG = NetworkConfig.parse('{"Network":"10.5.0.0/16"}')
DUAL = NetworkConfig.parse('{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48"}')


def net(number: int, length: int = 24) -> Subnets:
    return Subnets(IPv4Network(f"10.5.{number}.0/{length}"))


def lease(number: int, host: int | None = None, data: str | None = None) -> Lease:
    return Lease(net(number), LeaseAttrs(IPv4Address(f"192.168.7.{host or number}"), None, "vxlan", data), 1000.0)


RNG = random.Random(1)


def test_candidates_are_the_first_hundred_free() -> None:
    taken = [net(number) for number in range(1, 40)]
    found = {allocate(CONFIG, taken, random.Random(seed)).ipv4 for seed in range(600)}
    assert found == {IPv4Network(f"10.5.{number}.0/24") for number in range(40, 140)}


def test_other_lengths_and_ranges_within_each_other_are_taken() -> None:
    taken = [Subnets(IPv4Network("10.5.0.0/17")), net(128, 25), Subnets(IPv4Network("10.5.130.0/23")), net(10)]
    found = {str(allocate(CONFIG, taken, random.Random(seed)).ipv4) for seed in range(2000)}
    assert found == {f"10.5.{number}.0/24" for number in [129, *range(132, 231)]}


def test_a_range_at_the_very_end() -> None:
    config = NetworkConfig.parse('{"Network":"255.255.0.0/16"}')
    taken = [Subnets(IPv4Network(f"255.255.{number}.0/24")) for number in range(255)]
    assert str(allocate(config, taken, RNG).ipv4) == "255.255.255.0/24"
    with pytest.raises(OutOfSubnets, match="256 leases"):
        allocate(config, [*taken, Subnets(IPv4Network("255.255.255.0/24"))], RNG)


def test_ipv6_beside_leases_of_ipv4_alone() -> None:
    found = allocate(DUAL, [net(number) for number in range(1, 200)], RNG)
    assert found.ipv6 is not None
    assert found.ipv6.subnet_of(IPv6Network("fd00:5::/48"))


def test_fits() -> None:
    assert fits(CONFIG, net(1))
    assert not fits(CONFIG, net(0))  # before SubnetMin
    assert not fits(CONFIG, net(1, 25))
    assert not fits(CONFIG, Subnets(IPv4Network("10.6.1.0/24")))
    assert not fits(DUAL, net(1))
    assert fits(DUAL, Subnets(IPv4Network("10.5.1.0/24"), IPv6Network("fd00:5:0:1::/64")))
    assert not fits(CONFIG, Subnets(IPv4Network("10.5.1.0/24"), IPv6Network("fd00:5:0:1::/64")))


def test_choices() -> None:
    mine = LeaseAttrs(IPv4Address("192.168.7.9"))
    held = lease(30, 9)
    assert choose(CONFIG, [lease(1), held], [], mine, net(50), RNG).held == held
    assert choose(CONFIG, [lease(1)], [], mine, net(50), RNG).subnets == net(50)
    assert choose(CONFIG, [lease(50, 2)], [], mine, net(50), RNG).subnets != net(50)
    assert choose(CONFIG, [], [net(50)], mine, net(50), RNG).subnets != net(50)
    moved = choose(DUAL, [held], [], mine, None, RNG)
    assert (moved.subnets.ipv4, moved.give_back) == (held.subnets.ipv4, (held,))
    assert choose(DUAL, [lease(1)], [], mine, net(50), RNG).subnets.ipv4 == net(50).ipv4


def test_the_ledger() -> None:
    ledger = Ledger(own=net(1))
    assert not ledger.complete
    assert ledger.apply(Added(lease(3))) == LedgerChange(changed=(lease(3),))
    first = ledger.apply(Snapshot((lease(1), lease(2))))
    assert first == LedgerChange((lease(2),), (lease(3),), "seen", lease(1))
    assert ledger.complete
    assert not ledger.apply(Snapshot((lease(1), lease(2)))), "our own is never removed, nor a peer that didn't change"
    moved = lease(2, data='{"VNI":1}')
    assert ledger.apply(Snapshot((lease(1), moved))).changed == (moved,)
    assert not ledger.apply(Added(moved)), "a renewal"
    assert ledger.apply(Removed(net(77))) == LedgerChange()
    assert ledger.apply(Removed(net(2))) == LedgerChange(removed=(moved,))
    assert ledger.apply(Removed(net(1))) == LedgerChange(own="gone")
    assert ledger.apply(Snapshot(())).own == "gone"
    assert ledger.apply(Added(lease(1))).own_lease == lease(1)
    assert ledger.leases == {}


def test_renewal() -> None:
    ours = Lease(net(1), LeaseAttrs(), 86_400.0)
    assert renew_at(ours, 3600, 0, None) == 82_800
    assert renew_at(ours, 3600, 1, 83_000) == 83_001
    assert renew_at(ours, 3600, 5, 83_000) == 83_016
    assert renew_at(ours, 3600, 50, 83_000) == 83_060
    assert renew_at(Lease(net(1), LeaseAttrs(), None), 3600, 0, None) is None
    assert when_gone(ours, 86_380) == "revoked"
    assert when_gone(ours, 86_400) == "expired"


def test_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "deep/checkpoint.json"
    dual = Lease(Subnets(IPv4Network("10.5.9.0/24"), IPv6Network("fd00::/64")), lease(9).attrs, None)
    saved = Checkpoint('{"Network":"10.5.0.0/16"}', lease(1), (lease(2, data='{"VNI":1}'), dual), 12.5)
    assert checkpoint.load(path) is None
    checkpoint.save(path, saved)
    assert checkpoint.load(path) == saved
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version":2}', '{"version":1,"own":[1]}'])
def test_a_broken_checkpoint_is_none(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c").write_text(text)
    assert checkpoint.load(tmp_path / "c") is None
    assert "can't be used" in caplog.text


def test_contact_speaks_when_something_changes() -> None:
    contact = Contact()
    assert not contact.ok(1)
    assert contact.failed(2, "refused")
    assert not contact.failed(3, "refused")
    assert contact.failed(4, "silent")
    assert (contact.since, contact.trouble) == (2, "silent")
    assert contact.ok(5)
    assert (contact.heard, contact.trouble) == (5, None)
