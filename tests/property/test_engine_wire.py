"""Any run of packets in is the same run of packets out, in order per flow: through the user-space engine and a kernel
that cuts its super-packets again. Scapy builds and reads the packets."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Raw

from support.engines import PORT, Host, cable
from support.netns import inside

pytestmark = pytest.mark.root

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SINK, POD = "sink0", "10.5.1.77"  # what is for the pod goes there, and each packet can be read
LAST = b"the last one"


class Wire:
    """A peer's socket on one side, a pod's device on the other, the engine between."""

    def __init__(self, stack: ExitStack) -> None:
        self.one, self.two = stack.enter_context(cable())
        self.one.prepare()
        with inside(self.one.netns.name):
            self.sink = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self.sink, TUNSETIFF, struct.pack("16sH22x", SINK.encode(), IFF_TUN | IFF_NO_PI))
        stack.callback(os.close, self.sink)
        self.one.netns(f"ip link set {SINK} mtu 1452 txqueuelen 10000 up")
        self.one.netns(f"ip route add {POD} dev {SINK}")
        self.one.netns("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0")
        self.one.start().apply([], self.two.routes())
        self.socket = _socket(self.two)
        stack.callback(self.socket.close)

    def through(self, packets: list[bytes]) -> list[bytes]:
        """*packets* as datagrams; what the pod sees."""
        for data in [*packets, bytes(_ip(9) / UDP(sport=9, dport=9) / Raw(LAST))]:
            self.socket.sendto(data, (self.one.underlay, PORT))
        found: list[bytes] = []
        while select.select([self.sink], [], [], 3)[0]:
            data = os.read(self.sink, 65_536)
            if data.endswith(LAST):
                break
            if data[0] >> 4 == 4:
                found.append(data)
        # The last one is another flow, and may overtake what a batch ends with.
        while select.select([self.sink], [], [], 0.05)[0]:
            found.append(os.read(self.sink, 65_536))
        return [data for data in found if data[0] >> 4 == 4]

    def back(self, packets: list[bytes]) -> list[bytes]:
        """*packets* from the pod; what the peer gets."""
        for data in packets:
            os.write(self.sink, data)
        self.socket.settimeout(3)
        return [self.socket.recv(65_536) for _ in packets]


def _socket(host: Host) -> socket.socket:
    with inside(host.netns.name):
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        found.bind((host.underlay, PORT))
        return found


def _ip(flow: int, **fields: Any) -> IP:
    return IP(**{"src": f"10.5.2.{flow + 1}", "dst": POD, "flags": "DF", **fields})


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with ExitStack() as stack:
        yield Wire(stack)


@st.composite
def runs(draw: st.DrawFn) -> list[bytes]:
    """Packets of some flows, mixed: mostly what may be put together, with all that forbids it strewn in."""
    next_seq: dict[int, int] = defaultdict(lambda: 0xFFFFF000)
    next_id: dict[int, int] = defaultdict(lambda: 65_530)
    found: list[bytes] = []
    for _ in range(draw(st.integers(1, 40))):
        flow = draw(st.integers(0, 3))
        size = draw(st.sampled_from([100, 100, 100, 100, 1400, 99, 1, 0]))
        odd = draw(
            st.sampled_from(["", "", "", "", "", "ttl", "tos", "may be cut", "part", "gap", "flags", "checksum"])
        )
        ip = _ip(flow, id=next_id[flow])
        next_id[flow] = (next_id[flow] + 1) & 0xFFFF
        ip.ttl = 40 if odd == "ttl" else 64
        ip.tos = 3 if odd == "tos" else 0
        if odd == "may be cut":
            ip.flags = 0
        if odd == "part":
            ip.flags = "MF"
            size = -(-size // 8) * 8
        payload = Raw(bytes((len(found) + at) & 255 for at in range(size)))
        if flow % 2:
            packet = ip / UDP(sport=1000 + flow, dport=7) / payload
            if odd == "checksum":
                packet[UDP].chksum = draw(st.sampled_from([0, 1]))
        else:
            if odd == "gap":
                next_seq[flow] += 77
            flags = draw(st.sampled_from(["FA", "S", "R", "AE", "AC", "AU", "PA"])) if odd == "flags" else "A"
            options = [("Timestamp", (draw(st.integers(1, 2)), 5))] if flow else []
            packet = ip / TCP(sport=1000 + flow, dport=7, seq=next_seq[flow], flags=flags, ack=9, options=options)
            packet /= payload
            if odd == "checksum":
                packet[TCP].chksum = 1
            next_seq[flow] = (next_seq[flow] + size) & 0xFFFFFFFF
        found.append(bytes(packet))
    return found


def one_hop_on(data: bytes) -> bytes:
    """As the kernel forwards it. An identification where fragments are forbidden means nothing (RFC 6864)."""
    packet = IP(data)
    packet.ttl -= 1
    if packet.flags.DF:
        packet.id = 0
    del packet.chksum
    return bytes(packet)


def by_flow(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for data in packets:
        found[data[9:10] + data[12:20]].append(data)
    return dict(found)


def anonymous(data: bytes) -> bytes:
    """As `one_hop_on` has it, and its header's checksum is right."""
    packet = IP(data)
    said = packet.chksum
    del packet.chksum
    assert IP(bytes(packet)).chksum == said
    if packet.flags.DF:
        packet.id = 0
    return bytes(packet)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packets=runs())
def test_what_comes_in_goes_out_in_order_per_flow(wire: Wire, packets: list[bytes]) -> None:
    found = wire.through(packets)
    assert by_flow([anonymous(data) for data in found]) == by_flow([one_hop_on(data) for data in packets])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packets=runs())
def test_what_a_pod_sends_is_on_the_wire(wire: Wire, packets: list[bytes]) -> None:
    """Byte for byte, in order: the engine changes nothing of a packet that needs no finishing."""
    turned = []
    for data in packets:
        packet = IP(data)
        packet.src, packet.dst = packet.dst, packet.src
        del packet.chksum
        turned.append(bytes(packet))
    found = wire.back(turned)
    want = [IP(data) for data in turned]
    for packet in want:
        packet.ttl -= 1
        del packet.chksum
    assert found == [bytes(packet) for packet in want]
