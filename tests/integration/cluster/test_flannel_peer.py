"""One node runs a proxy of Go flannel's structure instead of our engine: packets pass both ways."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflannel.lab.cluster import Cluster
from support import naive
from support.lab import lab
from support.streams import arrives_unharmed

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
    for source, target in itertools.permutations(cluster.pods):
        assert arrives_unharmed(source, target, [bytes(range(251)) * 8000])
