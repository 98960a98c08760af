"""Two hosts with an engine each, in this process: what each holds is at its own addresses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from pyflannel_engine import UserEngine

from support.netns import Netns, inside, namespace

PORT = 8285
DEVICE = "flannel0"


@dataclass
class Host:
    """The *number*th: 192.168.7.N and fd00:7::N on the cable, 10.5.N.1 and fd05:N::1 as if of a pod."""

    number: int
    netns: Netns
    engines: list[UserEngine] = field(default_factory=list)

    @property
    def underlay(self) -> str:
        return f"192.168.7.{self.number}"

    @property
    def pod(self) -> str:
        return f"10.5.{self.number}.1"

    def prepare(self, mtu: int = 1452, queues: str = "") -> None:
        """The device and what leads to it, as flanneld makes it."""
        self.netns(f"ip tuntap add {DEVICE} mode tun {queues}")
        self.netns(f"ip link set {DEVICE} mtu {mtu} up")
        self.netns(f"ip addr add 10.5.{self.number}.0/32 dev {DEVICE}")
        self.netns(f"ip addr add {self.pod}/32 dev lo")
        self.netns(f"ip route add 10.5.0.0/16 dev {DEVICE} src {self.pod}")
        self.netns(f"ip -6 addr add fd05:{self.number}::1/128 dev lo nodad")
        self.netns(f"ip -6 route add fd05::/16 dev {DEVICE} src fd05:{self.number}::1")

    def start(self, **options: Any) -> UserEngine:
        """An engine here, with nobody to talk to."""
        local = [self.underlay, f"fd00:7::{self.number}"]
        own = [f"10.5.{self.number}.0/24", f"fd05:{self.number}::/32"]
        with inside(self.netns.name):
            engine = UserEngine(DEVICE, local, PORT, own, **{"mtu": 1452, **options})
        self.engines.append(engine)
        return engine

    def routes(self) -> list[tuple[str, str, int]]:
        """What others are to know of it."""
        return [
            (f"10.5.{self.number}.0/24", self.underlay, PORT),
            (f"fd05:{self.number}::/32", f"fd00:7::{self.number}", PORT),
        ]


@contextmanager
def cable() -> Iterator[tuple[Host, Host]]:
    """Two hosts on one cable, with devices, without engines."""
    with ExitStack() as stack:
        one, two = (Host(number, stack.enter_context(namespace(f"e{number}"))) for number in (1, 2))
        one.netns(f"ip link add e0 type veth peer name e0 netns {two.netns.name}")
        for host in (one, two):
            host.netns(f"ip addr add {host.underlay}/24 dev e0")
            host.netns(f"ip addr add fd00:7::{host.number}/64 dev e0 nodad")
            host.netns("ip link set e0 up")
        try:
            yield one, two
        finally:
            for engine in one.engines + two.engines:
                engine.close()
