"""A TCP stream between two pods, compared at its ends."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterable

from pyflannel.lab.node import Pod
from pyflannel.table.netns import inside


def arrives_unharmed(source: Pod, target: Pod, chunks: Iterable[bytes]) -> bool:
    """Does *target* receive exactly what *source* sends, write by write?"""
    with inside(target.netns):
        server = socket.create_server((target.address, 9))
    sent, received = hashlib.sha256(), hashlib.sha256()

    def collect() -> None:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(1 << 16):
                received.update(data)

    thread = threading.Thread(target=collect)
    thread.start()
    with inside(source.netns):
        client = socket.create_connection((target.address, 9), timeout=5)
    with server, client:
        for chunk in chunks:
            sent.update(chunk)
            client.sendall(chunk)
        client.shutdown(socket.SHUT_WR)
        thread.join(20)
    return received.digest() == sent.digest()
