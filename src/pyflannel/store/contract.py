"""What every store promises. `tests/store/` proves it for each of them.

Rule 1: a lease that can't be read still occupies its subnet: forgetting one gives it to two nodes.
Rule 2: nobody's lease but our own is ever overwritten or deleted (an operator's `release` excepted): every write
        is conditional on what was read.
Rule 3: "no data" is never a snapshot. An event that can't be understood is logged and skipped.
Rule 4: a watch loses nothing: what can't be followed event by event is answered by a new, complete Snapshot.
Rule 5: no call hangs: each has a deadline and ends in StoreUnreachable.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from pyflannel.model.lease import Lease, LeaseAttrs, LeaseEvent, Subnets
from pyflannel.model.network import NetworkConfig

PRESENCE_TTL_S = 60  # Ours to tune: how long a node that fell silent still counts as alive


class Store(Protocol):
    """One cluster's leases. Any method may raise StoreUnreachable; those that read the config, ConfigError."""

    @property
    def name(self) -> str:
        """What people call it in logs, without secrets: `etcd at https://10.0.0.5:2379, /coreos.com/network`."""
        ...

    async def network_config(self) -> NetworkConfig:
        """The cluster's config as it is now. Raises ConfigMissing, ConfigError."""
        ...

    async def config_text(self) -> str | None:
        """The config's text as it stands in the store; None if there is none."""
        ...

    async def write_config(self, text: str) -> None:
        """Put *text* (checked first: ConfigError) as the cluster's config. For the operator's tool."""
        ...

    async def leases(self) -> tuple[Lease, ...]:
        """Every live lease, reservations included."""
        ...

    async def recall(self, attrs: LeaseAttrs, previous: Subnets | None) -> Lease | None:
        """The lease this node holds from an earlier run: same public address, or on its *previous* subnet and
        published by the same node. Reads only. Lets a backend keep what peers know of it (its VTEP's MAC)."""
        ...

    async def acquire(self, attrs: LeaseAttrs, previous: Subnets | None) -> Lease:
        """Take a lease and publish *attrs* in it, valid for LEASE_TTL_S (a reservation: for ever).

        In this order: our own lease by public address, if it fits the config (if not, it is given back; the IPv4
        subnet is kept where only the IPv6 part has to change); the *previous* subnet, if free or reserved for us;
        a reservation for us; a free one at random among the first 100. Races are retried with a fresh listing.
        Raises OutOfSubnets, ConfigError; LeasePending where subnets are given by others, who haven't yet.
        """
        ...

    async def renew(self, lease: Lease, attrs: LeaseAttrs | None = None) -> Lease:
        """Publish *lease* again with a fresh TTL (a reservation stays one), with *attrs* instead of its own if given
        (our address or MAC changed). Only if the key still holds a lease of the node that *lease*.attrs names, or is
        gone while nobody else has taken the subnet: otherwise raises LeaseTaken naming the holder."""
        ...

    async def announce(self, attrs: LeaseAttrs, name: str, ident: str) -> None:
        """Say that the node called *name* lives at *attrs*' public address; to be repeated within PRESENCE_TTL_S.
        *ident* is what tells it from a clone. Raises AddressInUse, naming both, if another node says so."""
        ...

    async def chosen_addresses(self) -> tuple[str, str]:
        """The public addresses (IPv4, IPv6) that the cluster's administrator chose for this node in the store, for
        --public-ip and --public-ipv6; "" for none."""
        ...

    async def network_is_up(self) -> None:
        """Say that this node's pods can be reached, to whoever waits for that. To be repeated until it succeeds."""
        ...

    def watch(self) -> AsyncGenerator[LeaseEvent, None]:
        """First a Snapshot, then each change; a new Snapshot whenever continuity was lost. Our own lease's events
        are among them. Never ends by itself and never raises StoreError: it reconnects with backoff (and says so
        through `contact`)."""
        ...

    @property
    def contact(self) -> Contact:
        """Is the store being heard, since when, and why not."""
        ...

    async def release(self, subnets: Subnets) -> bool:
        """Delete the lease (or reservation) on *subnets*. True if there was one. For the operator's tool."""
        ...

    async def reserve(self, subnets: Subnets, attrs: LeaseAttrs) -> Lease:
        """Pin *subnets* to the node with *attrs*' public address, for ever. A live lease of that very node becomes
        a reservation and keeps its data; anybody else's raises LeaseTaken."""
        ...

    async def close(self) -> None:
        """Let go of connections and files. Leases stay."""
        ...


class Contact:
    """When the store was last heard, and the present trouble if there is one. Held by a store, read by health.

    Times are of the monotonic clock, in seconds.
    """

    __slots__ = ("heard", "since", "trouble")

    def __init__(self) -> None:
        self.heard: float | None = None
        self.since: float | None = None
        self.trouble: str | None = None

    def ok(self, now: float) -> bool:
        """Note that the store answered. True if that ends a trouble."""
        ended, self.trouble, self.since, self.heard = self.trouble is not None, None, None, now
        return ended

    def failed(self, now: float, why: str) -> bool:
        """Note that it did not answer. True if the trouble is new or of another kind (worth a log line)."""
        new = self.trouble != why
        self.since = now if self.trouble is None else self.since
        self.trouble = why
        return new
