"""Real etcd processes: for `lab up --store etcd`, and for tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyflannel.model.errors import FlannelError

READY_S = 15.0


@dataclass
class EtcdMember:
    """One etcd process. `prefix` is put before its command line (to run it in a namespace)."""

    name: str
    folder: Path
    host: str
    client_port: int
    peer_port: int
    cluster: str
    scheme: str = "http"
    options: Sequence[str] = ()
    prefix: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    logged: int = field(default=0, repr=False)  # bytes in the log before this start

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://{self.host}:{self.client_port}"

    def start(self) -> None:
        """Start it, or start it again on its data."""
        program = shutil.which("etcd")
        if program is None:
            raise FlannelError("etcd is not installed: apt install etcd-server")
        self.folder.mkdir(parents=True, exist_ok=True)
        peer = f"http://{self.host}:{self.peer_port}"
        command = [
            *self.prefix, program, "--name", self.name, "--data-dir", str(self.folder / "data"),
            "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", self.cluster, "--initial-cluster-state", "new", *self.options,
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.logged = log.tell()
            self.process = subprocess.Popen(
                command,
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """As if the plug were pulled."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def freeze(self) -> None:
        """Alive for TCP, dead for everybody."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)


class EtcdCluster:
    """*size* members below *folder*, at *host* on free ports (or from *port* on)."""

    def __init__(
        self,
        folder: Path,
        size: int = 1,
        host: str = "127.0.0.1",
        port: int = 0,
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
        scheme: str = "http",
    ) -> None:
        ports = list(range(port, port + 2 * size)) if port else free_ports(host, 2 * size)
        pairs = [(f"m{at}", ports[2 * at], ports[2 * at + 1]) for at in range(size)]
        cluster = ",".join(f"{name}=http://{host}:{peer}" for name, _, peer in pairs)
        self.members = [
            EtcdMember(name, folder / name, host, client, peer, cluster, scheme, options, prefix)
            for name, client, peer in pairs
        ]

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def start(self) -> None:
        """Start all members and wait until they listen."""
        for member in self.members:
            member.start()
        deadline = time.monotonic() + READY_S
        for member in self.members:
            while not self._listens(member):
                if member.process is not None and member.process.poll() is not None:
                    raise FlannelError(f"etcd ended at its start: see {member.folder / 'log'}")
                if time.monotonic() > deadline:
                    raise FlannelError(f"etcd doesn't listen after {READY_S:.0f} s: see {member.folder / 'log'}")
                time.sleep(0.02)

    def _listens(self, member: EtcdMember) -> bool:
        """From its log: it may listen in another namespace."""
        try:
            text = (member.folder / "log").read_bytes()[member.logged :]
        except OSError:
            return False
        return b"ready to serve client requests" in text

    def stop(self) -> None:
        for member in self.members:
            member.thaw()
            member.kill()

    def __enter__(self) -> EtcdCluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_ports(host: str, count: int) -> list[int]:
    """*count* TCP ports that nobody listens on now."""
    sockets = [socket.create_server((host, 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
