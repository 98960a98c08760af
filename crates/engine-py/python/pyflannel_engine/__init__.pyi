"""The packet engine of pyflannel's udp backend.

Both engines carry flannel's udp wire format: an inner IP packet is the payload of one UDP datagram. Subnets are texts
in CIDR form, endpoints texts of addresses.
"""

from collections.abc import Sequence

class UserEngine:
    """Threads of this process, between a TUN device that is there already and UDP sockets. They end with `close`, or
    with the object; the device stays."""

    def __init__(
        self,
        device: str,
        local: Sequence[str],
        port: int,
        own: Sequence[str],
        *,
        mtu: int,
        threads: int = 1,
        buffer: int = 8388608,
    ) -> None:
        """Attach to *device*, bind UDP *port* at each address of *local* (one a family), begin to carry.

        *own* are this node's subnets: only what is for them is let in. *mtu* is the device's, *buffer* each socket's
        (bytes). Raises OSError that says what can't be had and the way out, ValueError for a text that is none.
        """

    @property
    def features(self) -> dict[str, bool]:
        """vnet_hdr, tso, uso (of the TUN), udp_gso, udp_gro (of the sockets): what this kernel lets it do."""

    def apply(self, remove: Sequence[str], add: Sequence[tuple[str, str, int]]) -> None:
        """Forget the subnets *remove*, learn or change *add* (subnet, endpoint, UDP port), all at once; packets don't
        wait. Raises ValueError that names what is wrong, with nothing done."""

    def routes(self) -> list[tuple[str, str, int]]:
        """Every peer: subnet, endpoint, UDP port."""

    def counters(self) -> dict[str, int]:
        """tx_packets, tx_bytes, rx_packets, rx_bytes (of inner packets), icmp_sent, and drop_<reason>: no_route,
        not_a_peer, spoofed_source, not_ours, malformed, too_big, io."""

    def peers(self) -> dict[str, dict[str, int]]:
        """By subnet: tx_packets, tx_bytes, rx_packets, rx_bytes, drops."""

    def problem(self) -> str | None:
        """Why it carries nothing any more (the device is gone, it was closed); None while it does."""

    def close(self) -> None:
        """End it. Once more does nothing."""

class KernelEngine:
    """eBPF programs between a TUN device and the underlay, an accelerator beside `UserEngine`: what they don't take
    goes on to it. They are pinned, and carry on without this process until they are removed."""

    def __init__(
        self,
        device: str,
        underlays: Sequence[str],
        local: Sequence[str],
        port: int,
        own: Sequence[str],
        pin: str,
        *,
        mtu: int,
        xdp: str = "auto",
    ) -> None:
        """Load the programs and attach them: at *device*'s way out, and where datagrams come in, at *underlays*.

        *local* are this node's addresses (sent from the first of each family, accepted at all), *own* its subnets.
        *pin* is a directory: a bpffs is mounted on it if it isn't on one. What an earlier process pinned there is
        taken over, with its peers and without a gap. *xdp*: "auto" (native XDP where it's faster), "always", "never".
        Raises OSError or ValueError that say what can't be had and the way out.
        """

    @property
    def features(self) -> dict[str, str]:
        """"encap" ("tcx" or "clsact"), "decap <device>" ("xdp native", "tcx", "clsact"), "checksums <device>" (who
        finishes inner checksums: "device" or "engine"), "join" (what joins TCP segments at tc: "gro" or "no")."""

    def apply(self, remove: Sequence[str], add: Sequence[tuple[str, str, int]]) -> None:
        """Forget the subnets *remove*, learn or change *add* (subnet, endpoint, UDP port); packets don't wait. Raises
        ValueError that names what is wrong, with nothing done."""

    def routes(self) -> list[tuple[str, str, int]]:
        """Every peer: subnet, endpoint, UDP port."""

    def counters(self) -> dict[str, int]:
        """tx_packets, tx_bytes, rx_packets, rx_bytes (of inner packets), drop_<reason> as the other engine's, and
        passed_tx, passed_rx: what was left to it."""

    def peers(self) -> dict[str, dict[str, int]]:
        """By subnet: tx_packets, tx_bytes, rx_packets, rx_bytes, drops."""

    def problem(self) -> str | None:
        """Why it carries nothing any more, or not at every device (one is gone, it was closed); None while it does."""

    def close(self, keep: bool) -> None:
        """End this object. With *keep* the programs go on, else they are removed. Once more does nothing."""

    @staticmethod
    def remove(pin: str) -> None:
        """Detach and remove whatever is pinned at *pin*, and the directory. Nothing there is no error."""

    @staticmethod
    def missing() -> str | None:
        """Why this kernel or this process can't have the kernel engine, in plain words; None if it can."""
