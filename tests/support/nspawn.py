"""A real systemd as PID 1, in a container over this machine's /usr, on a test's own network namespace.

systemd-nspawn leaves its groups below /sys/fs/cgroup on hosts without systemd: they are removed here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

PATIENCE_S = 60
ROOT = Path(__file__).parents[2]
# What a minimal boot doesn't need, or can't have here.
MASKED = (
    "systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket",
    "systemd-journald-audit.socket", "systemd-logind.service", "systemd-udevd.service", "systemd-networkd.service",
    "systemd-resolved.service", "getty.target", "console-getty.service", "dev-hugepages.mount",
    "sys-kernel-debug.mount",
)  # fmt: skip
FINALE = """[Unit]
After={unit}
[Service]
Type=oneshot
ExecStart=/bin/bash /check
ExecStopPost=/bin/systemctl --force --force poweroff
StandardOutput=append:/check.log
StandardError=inherit
"""


class Machine:
    """A root folder to boot. Units go in by `unit`, files by `write`; `boot` runs a script and gives what it said."""

    def __init__(self, root: Path, netns: str) -> None:
        self.root, self._netns = root, netns
        for name in ("usr", "etc/systemd/system/multi-user.target.wants", "var", "run", "tmp", "proc", "sys", "dev",
                     "opt/pyflannel/bin"):  # fmt: skip
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        self.write("etc/os-release", Path("/etc/os-release").read_text())
        self.write("etc/machine-id", "")
        self.write("etc/passwd", f"{'root'}:x:0:0::/:/bin/bash\n")
        self.write("etc/group", "root:x:0:\n")
        for name in MASKED:
            self.path("etc/systemd/system", name).symlink_to("/dev/null")
        self.path("etc/systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")

    def path(self, *names: str) -> Path:
        """A path of the machine, as the host sees it."""
        return self.root.joinpath(*names)

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """A file of the machine."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def unit(self, source: Path) -> None:
        """Install and enable *source* as it is."""
        self.write(f"etc/systemd/system/{source.name}", source.read_text())
        drop_in = "[Service]\nStandardOutput=append:/unit.log\nStandardError=inherit\n"  # there is no journal here
        self.write(f"etc/systemd/system/{source.name}.d/log.conf", drop_in)
        self.path("etc/systemd/system/multi-user.target.wants", source.name).symlink_to(f"../{source.name}")

    def program(self, name: str, module: str) -> None:
        """/opt/pyflannel/bin/*name*: our *module*, by this Python, which may live in a home that units can't see."""
        self.write(
            f"opt/pyflannel/bin/{name}",
            "#!/bin/sh\n"
            "export PYTHONHOME=/opt/python LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1\n"
            "export PYTHONPATH=/opt/src:/opt/site\n"
            f'exec /opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor} -m {module} "$@"\n',
            0o755,
        )

    def boot(self, script: str, after: str) -> str:
        """Boot, run the bash *script* once the unit *after* has started, power off. What the script wrote."""
        self.write("check", script)
        self.write("etc/systemd/system/finale.service", FINALE.format(unit=after))
        self.path("etc/systemd/system/multi-user.target.wants/finale.service").symlink_to("../finale.service")
        before = _groups()
        command = [
            "systemd-nspawn", f"--directory={self.root}", "--bind-ro=/usr", f"--bind-ro={sys.base_prefix}:/opt/python",
            f"--bind-ro={ROOT / 'src'}:/opt/src", f"--bind-ro={sysconfig.get_path('purelib')}:/opt/site", "--boot",
            "--register=no", "--keep-unit", f"--network-namespace-path=/run/netns/{self._netns}", "--console=pipe", "--capability=CAP_NET_ADMIN",
        ]  # fmt: skip
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0"}
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=environment,
                timeout=PATIENCE_S, check=False,
            )  # fmt: skip
            console = done.stdout + done.stderr
        except subprocess.TimeoutExpired as late:
            console = (late.stdout or b"").decode(errors="replace") + f"\nno end within {PATIENCE_S} s"
        finally:
            for group in sorted(_groups() - before, key=lambda path: -len(path.parts)):
                group.rmdir()
        log = self.path("check.log")
        assert log.exists(), console
        return log.read_text() + "== log\n" + self.path("unit.log").read_text()


def _groups() -> set[Path]:
    return {path for top in ("systemd", "unified") for path in Path("/sys/fs/cgroup", top).glob("**/") if path.is_dir()}
