"""The user-space engine by itself, between two namespaces: its Python class, what it carries, how it ends."""

from __future__ import annotations

import errno
import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pyflannel_engine import UserEngine

from support.engines import DEVICE, PORT, Host
from support.lab import eventually
from support.netns import inside

pytestmark = pytest.mark.root

Pair = Callable[..., tuple[Host, Host]]
WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a thread each way": {"threads": 2},
    "two queues": {"queues": 2},
    "packet by packet": {"offload": False},
}
UDP_SEGMENT = 103  # linux/udp.h


def udp(host: Host, address: str, port: int = 0) -> socket.socket:
    with inside(host.netns.name):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, port))
        sock.settimeout(3)
        return sock


def six(host: Host) -> str:
    return f"fd05:{host.number}::1"


@contextmanager
def digest_of(host: Host, address: str) -> Iterator[Callable[[], str]]:
    """A server of one connection; at its end, the digest of what came."""
    with inside(host.netns.name):
        server = socket.create_server((address, 9), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    server.settimeout(10)
    found = hashlib.sha256()

    def collect() -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            while data := connection.recv(1 << 16):
                found.update(data)

    thread = threading.Thread(target=collect)
    thread.start()

    def wait() -> str:
        thread.join(30)
        return found.hexdigest()

    with server:
        yield wait
        thread.join(30)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_stream_arrives_whole(pair: Pair, way: str, family: str) -> None:
    one, two = pair(**WAYS[way])
    address = two.pod if family == "IPv4" else six(two)
    sent = hashlib.sha256()
    with digest_of(two, address) as received:
        with inside(one.netns.name):
            client = socket.create_connection((address, 9), timeout=10)
        with client:
            for size in [1, 1399, 1400, 7919, 65_537, 3, 1 << 20] * 4:
                data = size.to_bytes(4, "big") * (size // 4 + 1)
                sent.update(data)
                client.sendall(data)
        assert received() == sent.hexdigest()
    mine, theirs = one.engines[0].counters(), two.engines[0].counters()
    assert mine["tx_bytes"] > 4 << 20
    assert not [name for name in theirs if name.startswith("drop_") and name != "drop_no_route" and theirs[name]]


@pytest.mark.parametrize("way", WAYS)
def test_datagrams_of_all_sizes_arrive_each_for_itself(pair: Pair, way: str) -> None:
    one, two = pair(**WAYS[way])
    sizes = [64] * 40 + [1, 0, 1400, 1400, 700] + list(range(60, 70))
    if way != "two queues":  # fragments know no ports: they may take the other one
        sizes += [5000, 7, 65_000, 8]
    for source, target in ((one.pod, two.pod), (six(one), six(two))):
        with udp(two, target, 7) as there, udp(one, source) as sock:
            for number, size in enumerate(sizes):
                sock.sendto(bytes([number]) * size, (target, 7))
            assert [there.recv(70_000) for _ in sizes] == [bytes([at]) * size for at, size in enumerate(sizes)]


@pytest.mark.parametrize("way", WAYS)
def test_a_train_arrives_as_its_datagrams(pair: Pair, way: str) -> None:
    one, two = pair(**WAYS[way])
    data = bytes(range(256)) * 40
    with udp(two, two.pod, 7) as there, udp(one, one.pod) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 700)
        sock.sendto(data, (two.pod, 7))
        found = [there.recv(2000) for _ in range(-(-len(data) // 700))]
    assert found == [data[at : at + 700] for at in range(0, len(data), 700)]


def test_what_it_can_do_is_told(pair: Pair) -> None:
    one, _ = pair()
    assert set(one.engines[0].features) == {"vnet_hdr", "tso", "uso", "udp_gso", "udp_gro"}
    assert one.engines[0].features["vnet_hdr"]
    two, _ = pair(offload=False)
    assert set(two.engines[0].features.values()) == {False}


def test_every_packet_is_counted_with_its_peer(pair: Pair) -> None:
    one, two = pair()
    with udp(two, two.pod, 7) as there, udp(one, one.pod) as sock:
        for _ in range(10):
            sock.sendto(b"x" * 100, (two.pod, 7))
            there.recv(200)
    engine, want = one.engines[0], {"tx_packets": 10, "tx_bytes": 1280, "rx_packets": 0, "rx_bytes": 0, "drops": 0}
    eventually(lambda: engine.peers()["10.5.2.0/24"] == want)  # counted when the call that sent it is back
    received = two.engines[0].peers()["10.5.1.0/24"]
    assert (received["rx_packets"], received["rx_bytes"]) == (10, 1280)
    assert one.engines[0].counters()["tx_packets"] == 10


def test_a_change_with_a_wrong_value_changes_nothing(pair: Pair) -> None:
    one, two = pair()
    engine = one.engines[0]
    before = engine.routes()
    assert sorted(before) == sorted(two.routes())
    good = ("10.5.3.0/24", "192.168.7.3", PORT)
    wrong: list[tuple[list[str], list[tuple[str, str, int]], str]] = [
        ([], [good, ("10.5.4.1/24", "192.168.7.4", PORT)], "10.5.4.1/24"),
        ([], [good, ("10.5.4.0/24", "here", PORT)], "here"),
        ([], [good, ("10.5.4.0/24", "fd00:7::4", PORT)], "fd00:7::4"),
        (["10.5.2.0/24", "all"], [good], "all"),
    ]
    for remove, add, named in wrong:
        with pytest.raises(ValueError, match=named):
            engine.apply(remove, add)
        assert engine.routes() == before
    engine.apply(["10.5.2.0/24"], [good])
    assert sorted(engine.routes()) == sorted([good, two.routes()[1]])


def test_the_longest_prefix_has_the_packet(pair: Pair) -> None:
    one, two = pair()
    one.engines[0].apply([], [("10.5.0.0/16", "192.168.7.9", PORT), ("10.5.2.128/25", "192.168.7.9", PORT)])
    with udp(two, two.pod, 7) as there, udp(one, one.pod) as sock:
        sock.sendto(b"to the /24", (two.pod, 7))
        assert there.recv(100) == b"to the /24"
    eventually(lambda: one.engines[0].peers()["10.5.2.0/24"]["tx_packets"] == 1)


def answer_to(host: Host, address: str) -> int:
    """The errno by which the kernel tells of an ICMP error to a datagram for *address*."""
    with udp(host, host.pod) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        sock.sendto(b"anybody?", (address, 7))
        try:
            sock.recv(100)
        except OSError as error:
            return error.errno or 0
        return 0


def test_what_has_no_peer_is_unreachable(pair: Pair) -> None:
    one, two = pair()
    one.engines[0].apply(["10.5.2.0/24"], [])
    assert answer_to(one, two.pod) == errno.ENETUNREACH
    counters = one.engines[0].counters()
    assert counters["drop_no_route"] >= 1
    eventually(lambda: one.engines[0].counters()["icmp_sent"] >= 1)


def test_whose_endpoint_is_unreachable_is_too(pair: Pair) -> None:
    one, two = pair()
    one.netns("ip route add unreachable 192.168.99.9")
    one.engines[0].apply([], [("10.5.9.0/24", "192.168.99.9", PORT)])
    assert answer_to(one, "10.5.9.1") == errno.EHOSTUNREACH
    assert one.engines[0].peers()["10.5.9.0/24"]["drops"] == 1
    with udp(two, two.pod, 7) as there, udp(one, one.pod) as sock:
        sock.sendto(b"the others aren't", (two.pod, 7))
        assert there.recv(100) == b"the others aren't"


def test_a_path_that_narrows_is_told_of(pair: Pair) -> None:
    """Before it has looked at the path anew: the train is refused, its datagrams are sent one by one."""
    one, two = pair()
    for host in (one, two):
        host.netns("ip link set e0 mtu 1300")
    with udp(one, one.pod) as sock, udp(two, two.pod, 7) as there:
        sock.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: may be fragmented
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1400)
        data = bytes(range(250)) * 28
        sock.sendto(data, (two.pod, 7))
        assert b"".join(there.recv(2000) for _ in range(5)) == data
    with udp(one, one.pod) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 10, 2)  # don't fragment
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)

        def told() -> bool:
            sock.settimeout(0.3)
            try:
                sock.sendto(b"x" * 1400, (two.pod, 7))
                sock.recv(10)
            except TimeoutError:
                return False
            except OSError as error:
                return error.errno == errno.EMSGSIZE
            return False

        eventually(told)
        sock.connect((two.pod, 7))
        assert sock.getsockopt(socket.IPPROTO_IP, 14) == 1300 - 28  # IP_MTU


def test_noise_is_counted_and_the_next_packet_passes(pair: Pair) -> None:
    """Datagrams of nonsense, from the peer and in trains; none gets through, none is forgotten."""
    one, two = pair()
    two.engines[0].close()
    before = one.engines[0].counters()
    noise = [bytes((at * 7 + n) & 255 for at in range(n)) for n in range(200)]
    packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 29, 1, 0, 64, 17, 0, bytes([10, 5, 2, 1]), bytes([10, 5, 1, 1]))
    total = sum(struct.unpack(">10H", packet))
    check = 0xFFFF - (total % 0xFFFF)
    good = packet[:10] + struct.pack(">H", check) + packet[12:] + struct.pack(">HHHH", 5, 7, 9, 0) + b"x"
    with udp(one, one.pod, 7) as there, udp(two, two.underlay, PORT) as sock:
        for data in noise:
            sock.sendto(data, (one.underlay, PORT))
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 90)
        sock.sendto(b"\x45" * 900, (one.underlay, PORT))
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        sock.sendto(good, (one.underlay, PORT))
        assert there.recv(10) == b"x"
    after = one.engines[0].counters()
    drops = {name: after[name] - before[name] for name in after if name.startswith("drop_")}
    assert drops["drop_malformed"] == len(noise) + 10
    assert after["rx_packets"] == before["rx_packets"] + 1


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a device that isn't there": ({"device": "flannel9"}, OSError, r"flannel9: make it first"),
    "a device that is no TUN": ({"device": "e0"}, OSError, "e0: it is no TUN device"),
    "an address of another host": ({"local": ["192.168.7.2"]}, OSError, "192.168.7.2:8285 is no address of this host"),
    "an address that is none": ({"local": ["here"]}, ValueError, "here"),
    "a subnet that is none": ({"own": ["10.5.1.1/24"]}, ValueError, "10.5.1.1/24"),
    "queues of a device that has one": ({"queues": 2}, OSError, "make it with multi_queue"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_had_is_said(hosts: tuple[Host, Host], what: str) -> None:
    one, _ = hosts
    change, kind, said = REFUSED[what]
    values: dict[str, Any] = {"device": DEVICE, "local": [one.underlay], "own": ["10.5.1.0/24"], **change}
    with inside(one.netns.name), pytest.raises(kind, match=said):
        UserEngine(values.pop("device"), values.pop("local"), PORT, values.pop("own"), mtu=1452, **values)
    assert "flannel9" not in one.netns("ip link"), "and nothing was made"


def test_two_at_once_are_refused(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    first = one.start()
    with pytest.raises(OSError, match="another process holds it") as error:
        one.start()
    assert error.value.errno == errno.EBUSY
    first.close()
    with udp(one, one.underlay, PORT), pytest.raises(OSError, match="is taken") as error:
        one.start()
    assert error.value.errno == errno.EADDRINUSE
    one.start()


@pytest.mark.parametrize("threads", [1, 2])
def test_it_ends_when_it_is_told_or_the_device_goes(hosts: tuple[Host, Host], threads: int) -> None:
    one, two = hosts
    closed, bereft = one.start(threads=threads), two.start(threads=threads)
    assert closed.problem() is None
    closed.close()
    closed.close()
    assert closed.problem() == "it was closed"
    assert DEVICE in one.netns("ip link"), "the device stays"
    two.netns(f"ip link del {DEVICE}")
    eventually(lambda: bereft.problem() == "the TUN device is gone")
    bereft.close()
    with udp(two, two.underlay, PORT):
        pass  # the port is free again


def test_a_device_that_is_down_for_a_while_is_no_trouble(pair: Pair) -> None:
    one, two = pair()
    for host in (one, two):
        host.netns(f"ip link set {DEVICE} down")
    with udp(two, two.underlay) as sock:
        sock.sendto(b"\x45", (one.underlay, PORT))
    for host in (one, two):
        host.netns(f"ip link set {DEVICE} up")
        host.netns(f"ip route replace 10.5.0.0/16 dev {DEVICE} src {host.pod}")
    with udp(two, two.pod, 7) as there, udp(one, one.pod) as sock:
        sock.sendto(b"again", (two.pod, 7))
        assert there.recv(10) == b"again"
    assert [host.engines[0].problem() for host in (one, two)] == [None, None]


def test_traffic_loses_nothing_while_peers_come_and_go(pair: Pair) -> None:
    one, two = pair()
    many = [(f"10.{number}.0.0/24", f"192.168.7.{number % 200 + 20}", PORT) for number in range(100, 200)]
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            one.engines[0].apply([], many)
            one.engines[0].apply([net for net, _, _ in many], two.routes())

    thread = threading.Thread(target=churn)
    with udp(two, two.pod, 7) as there, udp(one, one.pod) as sock:
        thread.start()
        try:
            for number in range(2000):
                data = number.to_bytes(2, "big")
                sock.sendto(data, (two.pod, 7))
                assert there.recv(10) == data
        finally:
            over.set()
            thread.join()
    eventually(lambda: one.engines[0].peers()["10.5.2.0/24"]["tx_packets"] == 2000)
