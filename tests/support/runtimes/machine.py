"""A lab's node as a machine for a container runtime: its network, and folders of its own where runtimes share names."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from pyflannel.lab.node import Node, wait_for

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
GROUPS = (
    "docker",
    "default",
    "libpod_parent",
    "conmon",
    "k8s.io",
    "kubepods",
)  # runtimes' own, in each of cgroup v1's hierarchies


def _groups() -> set[Path]:
    return {
        found
        for name in GROUPS
        for top in Path("/sys/fs/cgroup").glob(f"*/{name}")
        for found in (top, *top.glob("**/"))
    }


_BEFORE = _groups()


class Machine:
    """Commands and daemons on *node*. `mounts` are folders that it has for itself, by where they appear.

    Entered by nsenter: `ip netns exec` would put a fresh /sys in front, and hide the cgroups.
    """

    def __init__(self, node: Node, mounts: tuple[str, ...] = ()) -> None:
        self.node = node
        self.folder = Path(tempfile.mkdtemp(prefix="pfr-", dir="/tmp"))  # short: a socket's path has 107 bytes
        self._mounts = {"/run/flannel": node.path / "run", **{each: self.folder / each[1:] for each in mounts}}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._made: list[Path] = []
        for there, here in self._mounts.items():
            here.mkdir(parents=True, exist_ok=True)
            self._made += [each for each in (Path(there), *Path(there).parents) if not each.exists()]
            Path(there).mkdir(parents=True, exist_ok=True)
        self._net = ["nsenter", f"--net=/run/netns/{node.netns}"]
        self._holder = self._hold()

    def path(self, there: str) -> Path:
        """Where the machine's own folder *there* is on the outside."""
        return self._mounts[there]

    def words(self, *command: str | Path) -> list[str]:
        """*command* as it is to be run on the machine."""
        return [*self._net, f"--mount=/proc/{self._holder.pid}/ns/mnt", *map(str, command)]

    def _hold(self) -> subprocess.Popen[bytes]:
        """Keep one mount namespace for all commands: what one mounts (podman a container's namespace), the next sees."""
        binds = "".join(f"mount --bind {here} {there} && " for there, here in self._mounts.items())
        script = f"{binds}echo held && exec sleep infinity"
        holder = subprocess.Popen(
            [*self._net, "unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        return holder

    def run(self, *command: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = 60) -> str:
        """Its output. Fails the test if it fails."""
        done = subprocess.run(
            self.words(*command), env={"PATH": PATH, **(env or {})},
            capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"
        return done.stdout

    def tried(self, *command: str | Path) -> str:
        """Its output, if it fails too."""
        return subprocess.run(
            self.words(*command), env={"PATH": PATH}, capture_output=True, text=True, check=False, timeout=60
        ).stdout

    def daemon(self, name: str, *command: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start one; it ends with the machine."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.words(*command), env={"PATH": PATH, **(env or {})},
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._daemons.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def off(self) -> None:
        """End the daemons, then whatever they left in this network, then the folders."""
        for process in reversed(self._daemons):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        self._holder.kill()
        self._holder.communicate()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (at := line.split()[1]).startswith(str(self.folder)):
                subprocess.run(["umount", "-l", at], check=False)
        # Of a test that failed: containerd's containers outlive it. (A group that was here before is not the tests'.)
        new = _groups() - _BEFORE
        for group in (each for each in new if "k8s.io" in each.parts):
            for pid in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for group in sorted(new, key=lambda path: -len(path.parts)):
            with suppress(OSError):  # the other machine's, still in use: it is removed with that
                group.rmdir()
        for made in self._made:
            with suppress(OSError):
                made.rmdir()
        wait_for(lambda: shutil.rmtree(self.folder, ignore_errors=True) or not self.folder.exists(), 5)  # type: ignore[func-returns-value]


def image(folder: Path) -> Path:
    """A root filesystem with busybox and nothing else, as a tar; pulled from nowhere."""
    root, tar = folder / "rootfs", folder / "busybox.tar"
    if not tar.exists():
        (root / "bin").mkdir(parents=True)
        (root / "etc").mkdir()
        (root / "etc/answer").write_text("pyflannel\n")
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for name in ("sh", "ip", "ping", "wget", "httpd", "nc", "sleep", "cat"):
            (root / "bin" / name).symlink_to("busybox")
        subprocess.run(["tar", "-C", root, "-cf", tar, "."], check=True)
    return tar


def archive(folder: Path, tag: str) -> Path:
    """`image` under the name *tag*, as `ctr images import` takes (docker's save format)."""
    tar = image(folder)
    layer = tar.read_bytes()
    config = json.dumps(
        {
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sleep", "100000000"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()  # fmt: skip
    (folder / "config.json").write_bytes(config)
    manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    made = folder / "image.tar"
    with tarfile.open(made, "w") as out:
        out.add(folder / "config.json", "config.json")
        out.add(tar, "layer.tar")
        out.add(folder / "manifest.json", "manifest.json")
    return made


def need(*programs: str) -> None:
    """Skip, loudly, without them; in CI they have to be there."""
    missing = [each for each in programs if not shutil.which(each, path=PATH)]
    if missing:
        without(f"needs {', '.join(missing)}: `make runtimes` installs them")


def without(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
