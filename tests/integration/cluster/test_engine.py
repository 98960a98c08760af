"""The udp backend's packets, one by one: what is on the wire, who gets in, what is answered. Over both engines.

Scapy is the independent judge of every byte.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet, Raw

from pyflannel.cli.status import ask
from pyflannel.lab.cluster import Cluster
from pyflannel.lab.measure import flood
from pyflannel.lab.node import Node, Pod
from pyflannel.model.lease import LeaseAttrs
from pyflannel.table.netns import inside
from support.lab import eventually, lab
from support.streams import arrives_unharmed

pytestmark = pytest.mark.root

PORT = 8285
SO_NO_CHECK = 11
ETH_P_ALL = 3  # before the kernel engine takes the packet out
ENGINES = ["user", "kernel", "kernel,user"]  # of the nodes in turn


@pytest.fixture(scope="module", params=ENGINES)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with lab(backend="udp", engine=request.param, nodes=3) as found:
        yield found


def subnet(node: Node) -> IPv4Network:
    net = ip_network(node.subnet_env()["FLANNEL_SUBNET"], strict=False)
    assert isinstance(net, IPv4Network)
    return net


def counters(node: Node) -> dict[str, int]:
    """Of all parts of the engine together."""
    found: dict[str, int] = {}
    for part in ask(str(node.path / "run/subnet.env"))["engine"]["parts"].values():
        for name, value in part["counters"].items():
            found[name] = found.get(name, 0) + value
    return found


def receiver(pod: Pod, port: int = 7) -> socket.socket:
    with inside(pod.netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((pod.address, port))
        sock.settimeout(3)
        return sock


def sender(netns: str, address: str, port: int = 0) -> socket.socket:
    with inside(netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, port))
        return sock


def inner(cluster: Cluster, payload: bytes = b"hello", **ip: Any) -> Packet:
    """From the second node's pod to the first's."""
    one, two = cluster.pods[:2]
    return IP(**{"src": two.address, "dst": one.address, **ip}) / UDP(sport=1234, dport=7) / Raw(payload)


@pytest.fixture
def from_peer(cluster: Cluster) -> Iterator[Callable[[bytes], None]]:
    """Sends datagrams to the first node from the second one's address; from another port than flannel's, as any
    implementation may."""
    node, peer = cluster.nodes[:2]
    with sender(peer.netns, peer.address) as sock:
        if cluster.plan.engine == "kernel":  # over veth it leaves datagrams with an unfinished checksum to the other
            sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)

        def send(data: bytes) -> None:
            sock.sendto(data, (node.address, PORT))

        yield send


def test_what_is_on_the_wire(cluster: Cluster) -> None:
    """Outer IPv4, UDP 8285 to 8285, and the pod's packet, less one hop."""
    one, two = cluster.pods[:2]
    node, peer = cluster.nodes[:2]
    with inside(peer.netns):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        wire.bind(("e0", ETH_P_ALL))
    with wire, receiver(two) as there, sender(one.netns, one.address, 4321) as sock:
        wire.settimeout(3)
        sock.sendto(b"to be seen", (two.address, 7))
        assert there.recv(100) == b"to be seen"
        while (data := wire.recv(2000))[20:24] != struct.pack(">HH", PORT, PORT):
            pass
    outer = IP(data)
    assert (outer.src, outer.dst, outer[UDP].sport) == (node.address, peer.address, PORT)
    carried = bytes(outer[UDP].payload)
    found = IP(carried)
    want = IP(src=one.address, dst=two.address, ttl=63, id=found.id, flags=found.flags) / UDP(sport=4321, dport=7)
    right = bytes(want / Raw(b"to be seen"))
    if cluster.plan.engine == "kernel" and carried[26:28] != right[26:28]:  # its peer's kernel may finish it
        carried = carried[:26] + right[26:28] + carried[28:]
    assert carried == right, "every field, every checksum"
    assert outer[UDP].len == 8 + len(carried)
    del outer.chksum
    assert bytes(outer)[:20] == data[:20]


def test_a_good_packet_gets_in(cluster: Cluster, from_peer: Callable[[bytes], None]) -> None:
    node, before = cluster.nodes[0], counters(cluster.nodes[0])
    with receiver(cluster.pods[0]) as pod:
        from_peer(bytes(inner(cluster)))
        assert pod.recv(100) == b"hello"
        from_peer(bytes(inner(cluster, options=[IPOption()])))
        assert pod.recv(100) == b"hello"
    after = counters(node)
    assert after["rx_packets"] >= before["rx_packets"] + 2


def IPOption() -> Packet:
    from scapy.layers.inet import IPOption_NOP

    return IPOption_NOP()


BAD: dict[str, tuple[str, Callable[[Cluster], bytes]]] = {
    "the source of a third node": (
        "spoofed_source", lambda cluster: bytes(inner(cluster, src=cluster.pods[2].address))
    ),
    "a source from outside": ("spoofed_source", lambda cluster: bytes(inner(cluster, src="8.8.8.8"))),
    "our own source": ("spoofed_source", lambda cluster: bytes(inner(cluster, src=cluster.pods[0].address))),
    "to a third node": ("not_ours", lambda cluster: bytes(inner(cluster, dst=cluster.pods[2].address))),
    "to the world": ("not_ours", lambda cluster: bytes(inner(cluster, dst="8.8.8.8"))),
    "nothing": ("malformed", lambda cluster: b""),
    "a part of a header": ("malformed", lambda cluster: bytes(inner(cluster))[:19]),
    "truncated": ("malformed", lambda cluster: bytes(inner(cluster))[:-1]),
    "with a tail": ("malformed", lambda cluster: bytes(inner(cluster)) + b"x"),
    "version 5": ("malformed", lambda cluster: b"\x55" + bytes(inner(cluster))[1:]),
    "a header too short": ("malformed", lambda cluster: b"\x44" + bytes(inner(cluster))[1:]),
    "a header longer than all": ("malformed", lambda cluster: b"\x4f" + bytes(inner(cluster))[1:]),
    "a TTL of nought": ("malformed", lambda cluster: bytes(inner(cluster, ttl=0))),
    "a wrong header checksum": ("malformed", lambda cluster: bytes(inner(cluster, chksum=1))),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_who_does_not_belong_does_not_get_in(cluster: Cluster, from_peer: Callable[[bytes], None], what: str) -> None:
    node = cluster.nodes[0]
    reason, build = BAD[what]
    before = counters(node)
    with receiver(cluster.pods[0]) as pod:
        from_peer(build(cluster))
        eventually(lambda: counters(node)[f"drop_{reason}"] > before[f"drop_{reason}"])
        from_peer(bytes(inner(cluster, b"after it")))
        assert pod.recv(100) == b"after it", "and the engine goes on"
    after = counters(node)
    others = {name for name in after if name.startswith("drop_") and after[name] != before[name]}
    assert others == {f"drop_{reason}"}


def test_strangers_are_not_heard(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    before = counters(node)
    with receiver(cluster.pods[0]) as pod, sender(cluster.underlay, "192.168.77.1", PORT) as stranger:
        stranger.sendto(bytes(inner(cluster)), (node.address, PORT))
        eventually(lambda: counters(node)["drop_not_a_peer"] == before["drop_not_a_peer"] + 1)
        pod.settimeout(0.1)
        with pytest.raises(TimeoutError):
            pod.recv(100)


def test_an_unassigned_subnet_is_unreachable_at_once(cluster: Cluster) -> None:
    used = {subnet(node) for node in cluster.nodes}
    free = next(net for net in IPv4Network("10.244.0.0/16").subnets(new_prefix=24) if net not in used)
    done = cluster.pods[0].exec("ping", "-c1", "-W3", str(free[5]))
    assert "Destination Net Unreachable" in done.stdout
    assert f"From {subnet(cluster.nodes[0])[0]}" in done.stdout


def test_each_node_is_one_hop_and_says_so(cluster: Cluster) -> None:
    one, two = cluster.pods[:2]
    answers = [one.exec("ping", "-c1", "-W3", "-n", f"-t{ttl}", two.address).stdout for ttl in (1, 2, 3)]
    assert f"From {subnet(cluster.nodes[0])[1]} icmp_seq=1 Time to live exceeded" in answers[0]
    assert f"From {subnet(cluster.nodes[1])[0]} icmp_seq=1 Time to live exceeded" in answers[1]
    assert f"64 bytes from {two.address}: icmp_seq=1 ttl=62" in answers[2]


def test_a_narrow_path_is_told_with_its_mtu(cluster: Cluster) -> None:
    node, peer = cluster.nodes[0], cluster.nodes[2]
    one, three = cluster.pods[0], cluster.pods[2]
    node(f"ip route add {peer.address} dev e0 mtu lock 1300")
    try:
        time.sleep(1.1)  # the engine looks at a path's MTU once a second
        done = one.exec("ping", "-c3", "-i0.3", "-W2", "-Mdo", "-s1400", three.address)
        assert "Frag needed and DF set (mtu = 1272)" in done.stdout, done.stdout
        assert one.exec("ping", "-c1", "-W2", "-Mdo", f"-s{1272 - 28}", three.address).returncode == 0
        assert one.exec("ping", "-c1", "-W2", "-Mdont", "-s1400", three.address).returncode == 0
    finally:
        node(f"ip route del {peer.address} dev e0")
        one.exec("ip", "route", "flush", "cache")


def test_streams_arrive_as_they_were_sent(cluster: Cluster) -> None:
    """Odd sizes both ways at once, through segmentation and coalescing."""
    for source, target in itertools.permutations(cluster.pods[:2]):
        sizes = [1, 1459, 1460, 7919, 65_537, 3, 1 << 20] * 6
        assert arrives_unharmed(source, target, (size.to_bytes(4, "big") * (size // 4 + 1) for size in sizes))


def test_trains_of_datagrams_arrive_one_by_one(cluster: Cluster) -> None:
    """A pod that sends with UDP_SEGMENT, and a single odd one behind."""
    one, two = cluster.pods[:2]
    data = bytes(range(256)) * 40
    with receiver(two) as pod, sender(one.netns, one.address) as sock:
        sock.setsockopt(17, 103, 700)  # SOL_UDP, UDP_SEGMENT
        sock.sendto(data, (two.address, 7))
        found = [pod.recv(2000) for _ in range(-(-len(data) // 700))]
    assert found == [data[at : at + 700] for at in range(0, len(data), 700)]


def test_fragments_pass(cluster: Cluster) -> None:
    one, two = cluster.pods[:2]
    assert one.exec("ping", "-c2", "-i0.2", "-W2", "-Mdont", "-s9000", two.address).returncode == 0


def test_other_protocols_pass(cluster: Cluster, from_peer: Callable[[bytes], None]) -> None:
    one, two = cluster.pods[:2]
    with inside(one.netns):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)  # SCTP: nobody here speaks it
    with raw:
        raw.settimeout(3)
        from_peer(bytes(IP(src=two.address, dst=one.address, proto=132) / Raw(b"opaque")))
        assert IP(raw.recv(100))[Raw].load == b"opaque"


def test_a_reset_and_wrong_checksums_reach_the_pod_as_they_are(
    cluster: Cluster, from_peer: Callable[[bytes], None]
) -> None:
    one, two = cluster.pods[:2]
    with inside(one.netns):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        raw.settimeout(3)
        cases: list[tuple[str, dict[str, Any]]] = [("R", {}), ("SEC", {}), ("A", {"chksum": 7})]
        for flags, extra in cases:
            packet = IP(src=two.address, dst=one.address) / TCP(sport=5, dport=6, flags=flags, seq=9, **extra)
            from_peer(bytes(packet))
            found = IP(raw.recv(200))
            assert (found[TCP].flags, found[TCP].seq) == (flags, 9)
            if extra:
                assert found[TCP].chksum == 7, "not made right on the way"


def test_strict_reverse_path_filters_let_it_pass(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node("sysctl -qw net.ipv4.conf.all.rp_filter=1")
    try:
        for one, two in itertools.permutations(cluster.pods[:2]):
            assert one.exec("ping", "-c1", "-W2", two.address).returncode == 0
    finally:
        for node in cluster.nodes:
            node("sysctl -qw net.ipv4.conf.all.rp_filter=0")


def test_the_way_to_a_peer_is_the_nodes_own_choice(cluster: Cluster) -> None:
    """By a policy rule, over another device, where nothing of ours is attached at the other end."""
    node, peer = cluster.nodes[:2]
    node(f"ip link add x1 type veth peer name x2 netns {peer.netns}")
    for end, name in ((node, "x1"), (peer, "x2")):
        end(f"ip addr add 192.168.99.{name[1]}/24 dev {name}")
        end(f"ip link set {name} up")
    node("ip route add default via 192.168.99.2 dev x1 table 99")
    node(f"ip rule add to {peer.address} lookup 99")
    try:
        before = int(node("cat /sys/class/net/x1/statistics/tx_packets"))
        done = cluster.pods[0].exec("ping", "-c5", "-i0.1", "-W2", cluster.pods[1].address)
        assert done.returncode == 0
        assert int(node("cat /sys/class/net/x1/statistics/tx_packets")) >= before + 5
    finally:
        node(f"ip rule del to {peer.address} lookup 99")
        node("ip link del x1")
    assert cluster.pods[0].exec("ping", "-c1", "-W2", cluster.pods[1].address).returncode == 0


def test_errors_are_not_answered_with_errors(cluster: Cluster) -> None:
    node, one = cluster.nodes[0], cluster.pods[0]
    used = {subnet(each) for each in cluster.nodes}
    free = next(net for net in IPv4Network("10.244.0.0/16").subnets(new_prefix=24) if net not in used)
    before = counters(node)
    with inside(one.netns):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw:
        packet = IP(src=one.address, dst=str(free[9])) / ICMP(type=3, code=3) / IP(dst=one.address) / UDP()
        raw.sendto(bytes(packet), (str(free[9]), 0))
        eventually(lambda: counters(node)["drop_no_route"] > before["drop_no_route"])
    assert counters(node)["icmp_sent"] == before["icmp_sent"]


def test_peers_come_and_go_while_packets_pass(cluster: Cluster) -> None:
    """A hundred leases come and go; the traffic between two others loses nothing."""
    one, two = cluster.pods[:2]

    async def churn(store: Any) -> None:
        for _ in range(4):
            leases = [
                await store.acquire(LeaseAttrs(IPv4Address(f"203.0.113.{number}")), None) for number in range(1, 26)
            ]
            for lease in leases:
                await store.release(lease.subnets)

    with flood(one, two.address, 0.002) as there, flood(two, one.address, 0.002) as back:
        cluster.with_store(churn)
    assert there.sent > 50
    assert (there.lost, back.lost) == (0, 0)
