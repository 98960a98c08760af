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
        queues: int = 1,
        threads: int = 1,
        offload: bool = True,
        buffer: int = 8388608,
    ) -> None:
        """Attach to *device*, bind UDP *port* at each address of *local* (one a family), begin to carry.

        *own* are this node's subnets: only what is for them is let in. *mtu* is the device's, *buffer* each socket's
        (bytes). *queues* above 1 needs a device made with multi_queue, and helps where there are many cores and peers;
        *threads* is 1 for both ways of a queue together, or 2. Without *offload* it goes packet by packet, for a
        device or driver that gets trains wrong. Raises OSError that says what can't be had and the way out, ValueError
        for a text that is none.
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
    """eBPF programs on the TUN device and on the underlay's: they carry what is ordinary, and leave the rest to a
    UserEngine on the same device. Pinned below a folder: they go on when this process ends."""

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
        """Attach to *device* and *underlays*; what is pinned at *pin* is taken over without a gap if it fits, else
        replaced. A folder that is on no bpffs gets one mounted. *xdp* is "auto", "always" or "never": whether packets
        are unwrapped by XDP where the driver has it. Raises OSError, ValueError that say what is wrong."""

    @property
    def features(self) -> dict[str, str]:
        """By what it is attached: {"encap": "tcx", "decap eth0": "xdp native"}."""

    def apply(self, remove: Sequence[str], add: Sequence[tuple[str, str, int]]) -> None:
        """As UserEngine's."""

    def routes(self) -> list[tuple[str, str, int]]:
        """As UserEngine's; those of an earlier run that was taken over, too."""

    def counters(self) -> dict[str, int]:
        """As UserEngine's."""

    def peers(self) -> dict[str, dict[str, int]]:
        """As UserEngine's."""

    def problem(self) -> str | None:
        """What is no longer attached (somebody removed it, a device is gone); None if all is."""

    def close(self, keep: bool) -> None:
        """Let go of it. *keep*: the programs go on; else nothing is left behind."""

    @staticmethod
    def remove(pin: str) -> None:
        """Detach and remove whatever is pinned at *pin*."""

    @staticmethod
    def missing() -> str | None:
        """Why this kernel, or this process in it, can't have it; None if it can."""
