"""The small C programs of the benchmark, compiled when it begins."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pyflannel.lab.shell import LabError, run

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Programs:
    """Where each is."""

    naive: str
    flood: str
    rtt: str


def compiled(folder: Path) -> Programs:
    """Compile them into *folder*. Raises LabError without a compiler, or with its words."""
    if shutil.which("cc") is None:
        raise LabError("the benchmark's own programs are in C and there is no compiler: apt install gcc libc6-dev")
    for name in ("naive", "flood", "rtt"):
        run("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(folder / name), str(HERE / f"{name}.c"))
    return Programs(*(str(folder / name) for name in ("naive", "flood", "rtt")))
