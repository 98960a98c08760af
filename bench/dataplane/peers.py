"""Other people's user-space tunnels, from Debian: wireguard-go, tinc, nebula, fastd.

Each with an MTU as large as fits, and as fast as its manual lets it be while it stays what it is: tinc and fastd
without encryption. wireguard-go and nebula always encrypt.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from bench.dataplane.ours import two_nodes
from bench.dataplane.programs import Programs
from bench.dataplane.world import MTU, Way, each_way, start, subnet, tunnel

from pyflannel.lab.cluster import Cluster, Plan
from pyflannel.lab.node import Node
from pyflannel.lab.shell import run

UDP = 28  # bytes: outer IPv4 and UDP


def lacking(**packages: str) -> str | None:
    """What to install, given the package of each program that is needed; None if all are there."""
    missing = [package for program, package in packages.items() if shutil.which(program.replace("_", "-")) is None]
    return f"apt-get install --no-install-recommends {' '.join(missing)}" if missing else None


class Peer:
    """What these have in common: they begin with a lab that gives subnets and no data plane."""

    def plan(self, name: str) -> Plan:
        return two_nodes(name, "alloc")


@dataclass(frozen=True, slots=True)
class WireguardGo(Peer):
    """WireGuard in user space."""

    name: str = "wggo"
    label: str = "wireguard-go"

    def missing(self) -> str | None:
        return lacking(wireguard_go="wireguard-go", wg="wireguard-tools")

    def build(self, cluster: Cluster, programs: Programs) -> Way:
        keys = {node.name: run("wg", "genkey").stdout for node in cluster.nodes}

        def begin(node: Node, peer: Node) -> int:
            # Its control socket is called as the device, which is wg0 on both nodes.
            (node.path / "wireguard").mkdir()
            node.exec("mkdir", "-p", "/run/wireguard", check=True)
            node.exec("mount", "--bind", str(node.path / "wireguard"), "/run/wireguard", check=True)
            (node.path / "wg.key").write_text(keys[node.name])
            return start(node, "wireguard-go", "-f", "wg0")

        way = tunnel(cluster, "wg0", MTU - UDP - 32 - 20, begin)  # as its own: 32 of WireGuard's, room for IPv6
        for node, peer in each_way(cluster):
            public = run("wg", "pubkey", text=keys[peer.name]).stdout.strip()
            node(f"wg set wg0 private-key {node.path}/wg.key listen-port 51820")
            node(f"wg set wg0 peer {public} allowed-ips {subnet(peer)} endpoint {peer.address}:51820")
        return way


TINC = """\
Name = {node.name}
ConnectTo = {peer.name}
Interface = tinc0
Mode = router
AddressFamily = ipv4
ProcessPriority = normal
"""
TINC_HOST = """\
Address = {node.address}
Subnet = {subnet}
Cipher = none
Digest = none
Compression = 0
{key}"""


@dataclass(frozen=True, slots=True)
class Tinc(Peer):
    """tinc 1.0, packets neither encrypted nor authenticated."""

    name: str = "tinc"
    label: str = "tinc (no cipher)"

    def missing(self) -> str | None:
        return lacking(tincd="tinc", openssl="openssl")

    def build(self, cluster: Cluster, programs: Programs) -> Way:
        public = {}
        for node in cluster.nodes:
            hosts = node.path / "tinc/hosts"
            hosts.mkdir(parents=True)
            key = hosts.parent / "rsa_key.priv"
            run("openssl", "genrsa", "-traditional", "-out", str(key), "2048")
            public[node.name] = run("openssl", "rsa", "-in", str(key), "-RSAPublicKey_out").stdout
        for node, peer in each_way(cluster):
            folder = node.path / "tinc"
            (folder / "tinc.conf").write_text(TINC.format(node=node, peer=peer))
            for host in (node, peer):
                text = TINC_HOST.format(node=host, subnet=subnet(host), key=public[host.name])
                (folder / "hosts" / host.name).write_text(text)

        def begin(node: Node, peer: Node) -> int:
            folder = node.path / "tinc"
            return start(node, "tincd", "-D", "-d1", "-c", str(folder), f"--pidfile={folder}/pid")

        # It carries an Ethernet header and a sequence number.
        return tunnel(cluster, "tinc0", MTU - UDP - 14 - 4, begin)


NEBULA = """\
pki: {{ca: {folder}/ca.crt, cert: {folder}/{node.name}.crt, key: {folder}/{node.name}.key}}
static_host_map: {{"{there}": ["{peer.address}:4242"]}}
lighthouse: {{am_lighthouse: false}}
listen: {{host: {node.address}, port: 4242, read_buffer: 10485760, write_buffer: 10485760}}
punchy: {{punch: false}}
cipher: aes
tun:
  dev: nebula0
  mtu: {mtu}
  tx_queue: 1000
  unsafe_routes: [{{route: {subnet}, via: {there}, mtu: {mtu}}}]
logging: {{level: warning, format: text}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"""


@dataclass(frozen=True, slots=True)
class Nebula(Peer):
    """nebula, AES-GCM."""

    name: str = "nebula"
    label: str = "nebula (AES)"

    def missing(self) -> str | None:
        return lacking(nebula="nebula", nebula_cert="nebula")

    def build(self, cluster: Cluster, programs: Programs) -> Way:
        folder = cluster.folder / "nebula"
        folder.mkdir()
        own = {node.name: f"10.99.0.{number}" for number, node in enumerate(cluster.nodes, 1)}
        ca = (f"{folder}/ca.crt", f"{folder}/ca.key")
        run("nebula-cert", "ca", "-name", "bench", "-out-crt", ca[0], "-out-key", ca[1])
        for node in cluster.nodes:
            out = f"{folder}/{node.name}"
            run(
                "nebula-cert", "sign", "-ca-crt", ca[0], "-ca-key", ca[1], "-name", node.name,
                "-ip", f"{own[node.name]}/24", "-subnets", subnet(node),
                "-out-crt", f"{out}.crt", "-out-key", f"{out}.key",
            )  # fmt: skip
        mtu = MTU - UDP - 16 - 16  # its header, and the cipher's tag

        def begin(node: Node, peer: Node) -> int:
            config = folder / f"{node.name}.yml"
            there, network = own[peer.name], subnet(peer)
            config.write_text(NEBULA.format(folder=folder, node=node, peer=peer, there=there, subnet=network, mtu=mtu))
            return start(node, "nebula", "-config", str(config))

        return tunnel(cluster, "nebula0", mtu, begin)


FASTD = """\
log level info;
mode tun;
interface "fastd0";
bind {node.address}:10000;
method "null";
mtu {mtu};
secret "{secret}";
peer "{peer.name}" {{ key "{public}"; remote {peer.address}:10000; }}
"""


@dataclass(frozen=True, slots=True)
class Fastd(Peer):
    """fastd, method null: the peer is authenticated, packets are as they are."""

    name: str = "fastd"
    label: str = "fastd (null)"

    def missing(self) -> str | None:
        return lacking(fastd="fastd")

    def build(self, cluster: Cluster, programs: Programs) -> Way:
        keys = {}
        for node in cluster.nodes:
            said = run("fastd", "--generate-key").stdout.split()
            keys[node.name] = (said[said.index("Secret:") + 1], said[said.index("Public:") + 1])
        mtu = MTU - UDP - 1  # its header

        def begin(node: Node, peer: Node) -> int:
            config = node.path / "fastd.conf"
            secret, public = keys[node.name][0], keys[peer.name][1]
            config.write_text(FASTD.format(node=node, peer=peer, mtu=mtu, secret=secret, public=public))
            return start(node, "fastd", "--config", str(config))

        return tunnel(cluster, "fastd0", mtu, begin)
