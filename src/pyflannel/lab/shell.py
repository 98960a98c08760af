"""Running programs for the lab."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from pyflannel.model.errors import FlannelError

PACKAGES = {"ip": "iproute2", "ping": "iputils-ping", "nsenter": "util-linux", "nft": "nftables", "iperf3": "iperf3"}


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


def batch(netns: str, lines: Sequence[str]) -> None:
    """`ip -batch` in *netns*: many commands, one process."""
    run("ip", "-n", netns, "-batch", "-", text="".join(f"{line}\n" for line in lines))


def need(*programs: str) -> None:
    """Raises LabError that names the packages of programs that are missing."""
    missing = sorted({PACKAGES.get(program, program) for program in programs if shutil.which(program) is None})
    if missing:
        raise LabError(f"missing programs: apt install {' '.join(missing)}")
