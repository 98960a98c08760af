"""Breaking things on purpose."""

from __future__ import annotations

import os
import signal

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.node import Node, wait_for
from pyflannel.lab.shell import run


def cut(cluster: Cluster, node: Node) -> None:
    """Pull the node's cable: its port on the underlay's bridge goes down."""
    run("ip", "-n", cluster.underlay, "link", "set", node.port, "down")


def heal(cluster: Cluster, node: Node) -> None:
    """Put the cable back, and wait until packets pass (the kernel takes up to a second)."""
    run("ip", "-n", cluster.underlay, "link", "set", node.port, "up")
    wait_for(lambda: node.exec("ping", "-c1", "-W0.3", node.gateway).returncode == 0, 5)


def freeze(node: Node) -> None:
    """Stop flanneld without ending it: alive for the system, silent for everybody."""
    os.kill(node.pid, signal.SIGSTOP)


def thaw(node: Node) -> None:
    os.kill(node.pid, signal.SIGCONT)
