"""A peer as Go flannel's proxy is built: one packet a call, no offloads, TTL decremented at both ends. Run as a program.

naive.py DEVICE LOCAL PORT MTU ADDRESS NETWORK PEER_SUBNET PEER
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


def main(device: str, local: str, port: str, mtu: str, address: str, network: str, subnet: str, peer: str) -> None:
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    for command in (
        f"link set {device} mtu {mtu} up", f"addr add {address}/32 dev {device}", f"route add {network} dev {device}"
    ):  # fmt: skip
        subprocess.run(["ip", *command.split()], check=True)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((local, int(port)))
    sock.setblocking(False)
    print("up", flush=True)
    while True:
        ready, _, _ = select.select([tun, sock.fileno()], [], [])
        if tun in ready:
            packet = bytearray(os.read(tun, int(mtu)))
            inside = len(packet) >= 20 and IPv4Address(bytes(packet[16:20])) in IPv4Network(subnet)
            if inside and one_hop(packet):
                sock.sendto(packet, (peer, int(port)))
        if sock.fileno() in ready:
            packet = bytearray(sock.recv(int(mtu)))
            if len(packet) >= 20 and one_hop(packet):
                os.write(tun, packet)


def one_hop(packet: bytearray) -> bool:
    """Decrement the TTL and mend the checksum by it (RFC 1624); False if the packet ends here."""
    packet[8] = (packet[8] - 1) & 255
    total = (packet[10] << 8 | packet[11]) + 0x100
    total = (total & 0xFFFF) + (total >> 16)
    packet[10:12] = total.to_bytes(2, "big")
    return packet[8] != 0


if __name__ == "__main__":
    main(*sys.argv[1:])
