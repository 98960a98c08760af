"""One node runs a proxy of Go flannel's structure instead of our engine: packets pass both ways."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyflannel.lab.cluster import Cluster
from pyflannel.table.netns import inside
from support import naive
from support.lab import lab

pytestmark = pytest.mark.root


@pytest.fixture(params=["user", "kernel"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The second node's daemon and device are gone; the proxy is in their place."""
    with lab(backend="udp", engine=request.param) as found:
        ours, theirs = found.nodes
        subnets = [node.subnet_env()["FLANNEL_SUBNET"].replace(".1/", ".0/") for node in (ours, theirs)]
        theirs.stop_flanneld()
        theirs("ip link del flannel0")
        theirs.exec("rm", "-rf", "/run/flannel/subnet.bpf")
        program = [
            sys.executable, str(Path(naive.__file__)), "flannel0", theirs.address, "8285", "1472",
            subnets[1].split("/")[0], "10.244.0.0/16", subnets[0], ours.address,
        ]  # fmt: skip
        with subprocess.Popen([*theirs.enter(), *program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield found
            process.kill()


def test_packets_of_every_size_pass(cluster: Cluster) -> None:
    one, two = cluster.pods
    for source, target in ((one, two), (two, one)):
        for size in (0, 1, 500, 1472 - 28):
            done = source.exec("ping", "-c1", "-W2", "-Mdo", f"-s{size}", target.address)
            assert done.returncode == 0, done.stdout
        assert source.exec("ping", "-c1", "-W2", "-Mdont", "-s5000", target.address).returncode == 0


def test_streams_pass_unharmed(cluster: Cluster) -> None:
    """Super-packets are cut into what such a proxy takes, with every checksum finished."""
    one, two = cluster.pods
    data = bytes(range(251)) * 8000
    for source, target in ((one, two), (two, one)):
        with inside(target.netns):
            server = socket.create_server((target.address, 9))
        found = hashlib.sha256()

        def collect(server: socket.socket = server, found: Any = found) -> None:
            connection, _ = server.accept()
            with connection:
                while part := connection.recv(1 << 16):
                    found.update(part)

        thread = threading.Thread(target=collect)
        thread.start()
        with inside(source.netns):
            client = socket.create_connection((target.address, 9), timeout=5)
        with server, client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            thread.join(20)
        assert found.digest() == hashlib.sha256(data).digest()
