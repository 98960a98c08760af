"""What a lab is to look like, and which namespaces are its own. Pure values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pyflannel.lab.shell import LabError
from pyflannel.model.rows import ENGINES

STORES = ("local", "etcd")
CLOUDS = ("aws-vpc", "gce", "ali-vpc", "tencent-vpc")
# A lab's patience, in seconds: long enough to be seen, short enough to wait for.
CLOUD_OPTIONS = {"SyncSeconds": 1, "GraceSeconds": 6}
MAX_NODES = 200  # addresses of one link; a bridge takes 1,023 ports
MAX_PODS = 200  # addresses of a node's /24
MIN_MTU = 1280  # the underlay speaks IPv6, too (RFC 8200, section 5)
MAX_MTU = 65_535


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cluster is to look like. MTU in bytes.

    `routed` puts the nodes on two links in turn, joined by a router. `flags` go to every flanneld, `node_flags` to
    the node of that name. `engine` is the udp backend's, or several for the nodes in turn (`kernel,user`). `command`
    stands in for flanneld's own command line (tests; another build of it). `outside` are nodes that the emulated cloud
    of a cloud's backend doesn't have.
    """

    name: str = "lab"
    nodes: int = 3
    pods: int = 1
    backend: str = "vxlan"
    options: dict[str, Any] = field(default_factory=dict)
    ipv4: bool = True
    ipv6: bool = False
    store: str = "local"
    members: int = 1
    mtu: int = 1500
    routed: bool = False
    nftables: bool | None = None
    flags: tuple[str, ...] = ("--ip-masq",)
    node_flags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    engine: str = "auto"
    outside: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises LabError that names what is wrong and what is allowed."""
        # A part of namespaces' names, of paths and of `ip -batch` lines.
        if not re.fullmatch(r"[A-Za-z0-9]{1,8}", self.name):
            raise LabError(f"--name is {self.name}, expected 1 to 8 letters and digits")
        for flag, value, low, high in (
            ("--nodes", self.nodes, 1, MAX_NODES),
            ("--pods", self.pods, 0, MAX_PODS),
            ("--members", self.members, 1, 9),
            ("--mtu", self.mtu, MIN_MTU, MAX_MTU),
        ):
            if not low <= value <= high:
                raise LabError(f"{flag} is {value}, expected {low} to {high}")
        if strangers := sorted(set(self.engines()) - {*ENGINES}):
            raise LabError(
                f"--engine is {', '.join(strangers)}, expected {' or '.join(ENGINES)}, or several with commas"
            )
        if self.store not in STORES:
            raise LabError(f"--store is {self.store}, expected {' or '.join(STORES)}")
        if self.cloud and (self.routed or not self.ipv4):
            raise LabError(
                f"--backend is {self.backend}: its routes carry IPv4, and its network has one router already"
            )
        names = {f"n{number}" for number in range(1, self.nodes + 1)}
        if strangers := sorted(set(self.node_flags) - names):
            raise LabError(f"flags are given for {', '.join(strangers)}, which this lab of {self.nodes} nodes lacks")

    def config(self) -> str:
        """The network config, as JSON."""
        found: dict[str, Any] = {}
        if self.ipv4:
            found["Network"] = "10.244.0.0/16"
        else:
            found["EnableIPv4"] = False
        if self.ipv6:
            found |= {"EnableIPv6": True, "IPv6Network": "fd00:10:244::/48"}
        if self.nftables is not None:
            found["EnableNFTables"] = self.nftables
        extension: dict[str, Any] = {"IPv6": True} if self.backend == "udp" and self.ipv6 else {}
        if self.cloud:
            extension = CLOUD_OPTIONS
        found["Backend"] = {"Type": self.backend, **extension, **self.options}
        return json.dumps(found)

    @property
    def cloud(self) -> bool:
        """Does a cloud's network carry the packets?"""
        return self.backend in CLOUDS

    def engines(self) -> tuple[str, ...]:
        """The nodes' engines, in turn."""
        return tuple(self.engine.split(","))

    # On disk

    def dump(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Plan:
        """What `dump` gave, through JSON."""
        return cls(
            **{
                **data,
                "flags": tuple(data["flags"]),
                "node_flags": {name: tuple(flags) for name, flags in data["node_flags"].items()},
                "command": tuple(data["command"]),
                "outside": tuple(data["outside"]),
            }
        )

    # Ownership

    @property
    def underlay(self) -> str:
        """The namespace of the bridge, and of etcd."""
        return f"{self.name}-net"

    def own(self, namespaces: Iterable[str]) -> list[str]:
        """Those of *namespaces* that a lab of this name makes: by the exact form of their names, so that somebody's
        `lab-web` survives the end of `lab`."""
        form = re.compile(re.escape(self.name) + r"-(net|n[0-9]{1,3}(p[0-9]{1,3})?)")
        return sorted(name for name in namespaces if form.fullmatch(name))
