"""Running programs for the lab, to their end."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from pyflannel.model.errors import FlannelError
from pyflannel.table.netns import inside

# Debian's packages, where they aren't called as the program.
PACKAGES = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "ping": "iputils-ping",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "nft": "nftables",
    "etcd": "etcd-server",
}
NAMESPACES = Path("/run/netns")


class LabError(FlannelError):
    """Something of the lab's could not be set up or found."""


def run(*command: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run *command*, given *text*. Raises LabError with its words if it fails and *check*."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed: apt install {PACKAGES.get(command[0], command[0])}") from None
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done


def batch(netns: str, lines: Sequence[str], *, force: bool = False) -> None:
    """`ip -batch` in *netns* ("": where we are): many commands, one process. With *force* past those that fail.
    Raises LabError with the lines that failed."""
    where = ["-n", netns] if netns else []
    text = "".join(f"{line}\n" for line in lines)
    done = run("ip", *where, *(["-force"] if force else []), "-batch", "-", text=text, check=False)
    if done.returncode != 0 and not force:
        words = done.stderr.strip()
        number = words.rpartition("Command failed -:")[2]
        failed = lines[int(number) - 1] if number.isdigit() else "…"
        raise LabError(f"{netns or 'this machine'}: ip {failed}: {words.splitlines()[0] if words else 'failed'}")


def sysctls(netns: str, settings: Iterable[str]) -> None:
    """Write *settings*, as `net.ipv4.ip_forward=1`, in *netns*; no process. Raises LabError."""
    try:
        with inside(netns):  # /proc/sys/net shows the namespace of the thread that opens it
            for setting in settings:
                name, _, value = setting.partition("=")
                Path("/proc/sys", name.replace(".", "/")).write_text(value)
    except OSError as error:
        raise LabError(f"{netns}: {error.filename or netns} can't be written: {error.strerror}") from None


def namespaces() -> list[str]:
    """What `ip netns` lists."""
    return sorted(path.name for path in NAMESPACES.iterdir()) if NAMESPACES.exists() else []


def need(*programs: str) -> None:
    """Raises LabError that names the packages of programs that are missing."""
    missing = sorted({PACKAGES.get(program, program) for program in programs if shutil.which(program) is None})
    if missing:
        raise LabError(f"missing programs: apt install {' '.join(missing)}")


def need_root() -> None:
    """Raises LabError unless we are root."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and needs root: sudo flannelctl lab …")
