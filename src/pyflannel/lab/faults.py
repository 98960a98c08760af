"""Breaking things on purpose."""

from __future__ import annotations

import os
import signal

from pyflannel.lab.cluster import Cluster
from pyflannel.lab.node import Node
from pyflannel.lab.shell import run


def cut(cluster: Cluster, node: Node) -> None:
    """Pull the node's cable: its port on the underlay's bridge goes down."""
    run("ip", "-n", cluster.underlay, "link", "set", node.port, "down")


def heal(cluster: Cluster, node: Node) -> None:
    """Put the cable back."""
    run("ip", "-n", cluster.underlay, "link", "set", node.port, "up")


def freeze(node: Node) -> None:
    """Stop flanneld without ending it: alive for the system, silent for everybody."""
    os.kill(node.pid, signal.SIGSTOP)


def thaw(node: Node) -> None:
    os.kill(node.pid, signal.SIGCONT)
