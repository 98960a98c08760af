"""The lease store on any KeyValue database: flannel's keys, values and rules. What it promises: contract.py."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from pyflannel.model.errors import AddressInUse, ConfigError, ConfigMissing, LeaseTaken, StoreError
from pyflannel.model.fields import Fields, compact
from pyflannel.model.lease import LEASE_TTL_S, Added, Lease, LeaseAttrs, LeaseEvent, Removed, Snapshot, Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.store.allocate import choose, fits
from pyflannel.store.contract import PRESENCE_TTL_S, Contact
from pyflannel.store.keys import decode_key, decode_value, encode_key, encode_value
from pyflannel.store.keyvalue import Compacted, Entry, Gone, KeyValue

log = logging.getLogger(__name__)

RACES = 50  # Ours to tune: 50 nodes that start at once and always collide all get through
RACE_PAUSE_S = 0.005  # after the first lost race, at most; twice that after each further one, up to 1 s
BACKOFF_FIRST_S, BACKOFF_LAST_S = 0.1, 5.0  # flannel's


class KeyedStore:
    """Leases in a KeyValue database under *prefix*. Clocks, chance and sleep are given."""

    def __init__(
        self,
        database: KeyValue,
        prefix: str,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        # As flannel joins paths: without a slash in front unless one is given.
        clean = "/".join(part for part in prefix.split("/") if part)
        self._db, self._prefix = database, f"/{clean}" if prefix.startswith("/") else clean
        self._clock, self._monotonic, self._sleep = clock, monotonic, sleep
        self._rng = rng or random.Random()
        self.contact = Contact()
        self._read: dict[str, tuple[Entry, Lease]] = {}  # by key: a lease is read once, however often it's listed

    @property
    def name(self) -> str:
        return f"{self._db.name}, {self._prefix}"

    @property
    def _config_key(self) -> str:
        return f"{self._prefix}/config"

    @property
    def _subnets(self) -> str:
        return f"{self._prefix}/subnets/"

    # The config

    async def network_config(self) -> NetworkConfig:
        text = await self.config_text()
        if text is None:
            raise ConfigMissing(
                f"{self.name} holds no network config: write one with "
                """`flannelctl config set - <<< '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'`"""
            )
        return NetworkConfig.parse(text, f"{self.name}/config")

    async def config_text(self) -> str | None:
        entry = await self._db.get(self._config_key)
        return None if entry is None else entry.value

    async def write_config(self, text: str) -> None:
        NetworkConfig.parse(text)
        for _ in range(RACES):
            entry = await self._db.get(self._config_key)
            if await self._db.commit({self._config_key: entry.revision if entry else 0}, {self._config_key: text}):
                return
        raise StoreError(f"{self.name}: the config is being changed by others all the time; try again")

    # Leases

    async def leases(self) -> tuple[Lease, ...]:
        entries, _ = await self._db.entries(self._subnets)
        return tuple(lease for entry in entries if (lease := self._lease(entry)) is not None)

    async def recall(self, attrs: LeaseAttrs, previous: Subnets | None) -> Lease | None:
        ours = [lease for lease in await self.leases() if lease.attrs.same_node(attrs)]
        return next((lease for lease in ours if lease.subnets == previous), ours[0] if ours else None)

    async def acquire(self, attrs: LeaseAttrs, previous: Subnets | None) -> Lease:
        for lost in range(RACES):
            config = await self.network_config()
            entries, revision = await self._db.entries(self._subnets)
            found = [(entry, decode_key(entry.key), self._lease(entry)) for entry in entries]
            place = {lease: entry for entry, _, lease in found if lease is not None}
            unreadable = [subnets for _, subnets, lease in found if lease is None and subnets is not None]
            choice = choose(config, list(place), unreadable, attrs, previous, self._rng)
            key = self._subnets + encode_key(choice.subnets)
            # Found by lease, not by key: what people put by hand may be spelled in another way than ours.
            before = [*([choice.held] if choice.held else []), *choice.give_back]
            when = {key: 0} | {place[lease].key: place[lease].revision for lease in before}
            delete = [old for old in when if old != key]
            kept = [lease for lease in before if lease == choice.held or lease.subnets.ipv4 == choice.subnets.ipv4]
            forever = any(not place[lease].mortal for lease in kept)  # switching IPv6 on or off ends no reservation
            ttl_s = None if forever else LEASE_TTL_S
            guard = None if choice.held else self._guard(choice.subnets, revision)
            if await self._db.commit(when, {key: encode_value(attrs)}, delete, ttl_s, guard):
                if choice.give_back and delete:
                    log.info("gave back %s", ", ".join(str(lease.subnets) for lease in choice.give_back))
                return Lease(choice.subnets, attrs, None if forever else self._clock() + LEASE_TTL_S)
            await self._pause(lost)
        raise StoreError(f"{self.name}: lost {RACES} races for a subnet in a row; try again")

    async def renew(self, lease: Lease, attrs: LeaseAttrs | None = None) -> Lease:
        key = self._subnets + encode_key(lease.subnets)
        attrs = attrs or lease.attrs
        for lost in range(RACES):
            entry = await self._db.get(key)
            guard = None
            if entry is None:
                guard = await self._refuse_if_taken(lease)
            else:
                held = self._lease(entry)
                if held is None or not (held.attrs.same_node(lease.attrs) or held.attrs.same_node(attrs)):
                    raise self._taken(lease.subnets, held)
            forever = not entry.mortal if entry else lease.expires is None
            when = {key: entry.revision if entry else 0}
            if await self._db.commit(when, {key: encode_value(attrs)}, (), None if forever else LEASE_TTL_S, guard):
                return Lease(lease.subnets, attrs, None if forever else self._clock() + LEASE_TTL_S)
            await self._pause(lost)
        raise StoreError(f"{self.name}: lost {RACES} races for {lease.subnets} in a row; try again")

    async def release(self, subnets: Subnets) -> bool:
        key = self._subnets + encode_key(subnets)
        while (entry := await self._db.get(key)) is not None:
            if await self._db.commit({key: entry.revision}, None, [key]):
                return True
        return False

    async def reserve(self, subnets: Subnets, attrs: LeaseAttrs) -> Lease:
        config = await self.network_config()
        if not fits(config, subnets):
            raise ConfigError("reservation", "subnet", str(subnets), f"one that a node can have: {_shape(config)}")
        key = self._subnets + encode_key(subnets)
        for lost in range(RACES):
            entry = await self._db.get(key)
            held = self._lease(entry) if entry else None
            guard = None
            if entry is None:
                guard = await self._refuse_if_taken(Lease(subnets, attrs))
            elif held is None or not held.attrs.same_node(attrs):
                raise self._taken(subnets, held)
            published = held.attrs if held else attrs
            when = {key: entry.revision if entry else 0}
            if await self._db.commit(when, {key: encode_value(published)}, (), None, guard):
                return Lease(subnets, published, None)
            await self._pause(lost)
        raise StoreError(f"{self.name}: lost {RACES} races for {subnets} in a row; try again")

    async def _refuse_if_taken(self, lease: Lease) -> tuple[str, int] | None:
        """Raises LeaseTaken if somebody's subnets overlap *lease*'s; the guard under which that stays so."""
        entries, revision = await self._db.entries(self._subnets)
        for entry in entries:
            other = decode_key(entry.key)
            if other is not None and other.overlaps(lease.subnets):
                raise self._taken(lease.subnets, self._lease(entry))
        return self._guard(lease.subnets, revision)

    def _guard(self, subnets: Subnets, revision: int) -> tuple[str, int] | None:
        """What makes a new key safe beside its own absence. A key of one family is its subnet: nobody else can make
        it. With two families, others may take one of them under another key: then there must be no new key at all."""
        return None if subnets.ipv4 is None or subnets.ipv6 is None else (self._subnets, revision)

    async def _pause(self, lost: int) -> None:
        """Let others through after *lost* + 1 races: those that start together mustn't meet again and again."""
        await self._sleep(self._rng.uniform(0, min(RACE_PAUSE_S * 2**lost, 1.0)))

    def _taken(self, subnets: Subnets, holder: Lease | None) -> LeaseTaken:
        if holder is None:
            return LeaseTaken(f"{subnets} is held by a lease that can't be read: see `flannelctl leases list`")
        whose = f"{holder.subnets} is" if holder.subnets != subnets else "it is"
        return LeaseTaken(
            f"{subnets} is not this node's: {whose} leased by {holder.attrs.address()}. If that node is gone: "
            f"`flannelctl leases release {holder.subnets.ipv4 or holder.subnets.ipv6}`"
        )

    # Who is alive

    async def announce(self, attrs: LeaseAttrs, name: str, ident: str) -> None:
        key = f"{self._prefix}/nodes/{attrs.address()}"
        mine = compact({"Name": name, "ID": ident})
        for _ in range(RACES):
            entry = await self._db.get(key)
            if entry is not None:
                fields = Fields.parse(entry.value, key)
                if fields.text("ID", "") != ident:
                    other = fields.text("Name", "unknown")
                    raise AddressInUse(
                        f"{attrs.address()} is published by node {other}, which is alive; this node is {name}. Give "
                        "each node an address of its own: --iface, --public-ip (behind one NAT all have the same)"
                    )
                if entry.value == mine and await self._db.prolong(key, PRESENCE_TTL_S):
                    return
            when = {key: entry.revision if entry else 0}
            if await self._db.commit(when, {key: mine}, (), PRESENCE_TTL_S):
                return

    async def chosen_addresses(self) -> tuple[str, str]:
        return "", ""

    async def network_is_up(self) -> None:
        """Nobody waits for it here."""

    # The watch

    async def watch(self) -> AsyncGenerator[LeaseEvent, None]:
        revision: int | None = None
        pause_s = BACKOFF_FIRST_S
        while True:
            try:
                if revision is None:
                    entries, revision = await self._db.entries(self._subnets)
                    self._heard()
                    yield Snapshot(tuple(lease for entry in entries if (lease := self._lease(entry)) is not None))
                async for batch in self._db.watch(self._subnets, revision + 1):
                    self._heard()
                    pause_s = BACKOFF_FIRST_S
                    for item in batch:
                        event = self._event(item)
                        if event is not None:
                            yield event
                        # Not the response's header: that is the store's present, which may be ahead of the batch.
                        revision = item.revision
            except Compacted:
                log.info("the store no longer keeps the changes since revision %d: reading all leases", revision)
                revision = None
            except StoreError as error:
                if self.contact.failed(self._monotonic(), str(error)):
                    log.warning("store: %s; traffic goes on, retrying", error)
                await self._sleep(pause_s * self._rng.uniform(0.8, 1.2))
                pause_s = min(pause_s * 2, BACKOFF_LAST_S)

    def _heard(self) -> None:
        if self.contact.ok(self._monotonic()):
            log.info("store: %s answers again", self._db.name)

    def _event(self, item: Entry | Gone) -> LeaseEvent | None:
        if isinstance(item, Entry):
            lease = self._lease(item)
            return None if lease is None else Added(lease)
        self._read.pop(item.key, None)
        subnets = decode_key(item.key)
        return None if subnets is None else Removed(subnets)

    def _lease(self, entry: Entry) -> Lease | None:
        """The lease in *entry*; None (and a line in the log) if it can't be read."""
        known = self._read.get(entry.key)
        if known is not None and known[0] == entry:
            return known[1]
        lease = self._decode(entry)
        if lease is not None:
            self._read[entry.key] = (entry, lease)
        return lease

    def _decode(self, entry: Entry) -> Lease | None:
        subnets = decode_key(entry.key)
        if subnets is None:
            log.warning("%s: no subnet's key; left alone", entry.key)
            return None
        try:
            attrs = decode_value(entry.value, entry.key)
        except ConfigError as error:
            log.warning("a lease can't be read, its subnet counts as taken: %s", error)
            return None
        expires = None
        if entry.mortal:
            expires = entry.expires if entry.expires is not None else self._clock() + LEASE_TTL_S
        return Lease(subnets, attrs, expires)

    async def close(self) -> None:
        await self._db.close()


def _shape(config: NetworkConfig) -> str:
    parts: Sequence[str] = [
        *([f"a /{config.subnet_len} from {config.subnet_min} to {config.subnet_max}"] if config.network else []),
        *(
            [f"a /{config.ipv6_subnet_len} from {config.ipv6_subnet_min} to {config.ipv6_subnet_max}"]
            if config.ipv6_network
            else []
        ),
    ]
    return " and ".join(parts)
