"""Kubernetes' own programs, built once by tools/kube-build."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path


@cache
def programs() -> Path:
    """The folder of kube-apiserver and its kin: PYFLANNEL_KUBE, else built (minutes, the first time)."""
    if given := os.environ.get("PYFLANNEL_KUBE"):
        return Path(given)
    tool = Path(__file__).parents[3] / "tools" / "kube-build"
    done = subprocess.run([tool], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"tools/kube-build failed:\n{done.stderr[-3000:]}")
    return Path(done.stdout.splitlines()[-1])
