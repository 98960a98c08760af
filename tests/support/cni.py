"""The `flannel` CNI plugin as a runtime calls it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from support.netns import Netns

DEBIANS = "/usr/lib/cni"  # containernetworking-plugins
CONFIG: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "cbr0",
    "type": "flannel",
    "delegate": {"hairpinMode": True, "isDefaultGateway": True},
}


@cache
def plugin() -> Path:
    """The static binary: PYFLANNEL_CNI, else built (seconds)."""
    if given := os.environ.get("PYFLANNEL_CNI"):
        return Path(given)
    tool = Path(__file__).parents[2] / "tools" / "cni-build"
    done = subprocess.run([tool], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"tools/cni-build: {done.stderr}"
    return Path(done.stdout.strip())


@dataclass(frozen=True)
class Answer:
    """What a call came to. `json` is what it printed: a result, or an error with code and msg."""

    code: int
    text: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def ok(self) -> bool:
        return self.code == 0


@dataclass
class Host:
    """A node with the plugin: its namespace, its subnet.env and the plugin's folders below *folder*."""

    netns: Netns
    folder: Path
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = {
            **CONFIG,
            "subnetFile": str(self.subnet_file),
            "dataDir": str(self.data_dir),
            "ipam": {"dataDir": str(self.folder / "ipam")},
            **self.config,
        }

    @property
    def subnet_file(self) -> Path:
        return self.folder / "subnet.env"

    @property
    def data_dir(self) -> Path:
        return self.folder / "state"

    def lease(self, subnet: str = "10.5.72.1/24", subnet6: str = "", network: str = "10.5.0.0/16") -> None:
        """subnet.env as the daemon writes it."""
        lines = [f"FLANNEL_NETWORK={network}", f"FLANNEL_SUBNET={subnet}"]
        lines += ["FLANNEL_IPV6_NETWORK=fd00:5::/48", f"FLANNEL_IPV6_SUBNET={subnet6}"] if subnet6 else []
        self.subnet_file.write_text("\n".join([*lines, "FLANNEL_MTU=1450", "FLANNEL_IPMASQ=true\n"]))

    def popen(
        self, command: str, container: str = "c1", netns: str = "", ifname: str = "eth0", **environment: str
    ) -> subprocess.Popen[str]:
        """A call begun; its config is still to be given."""
        env = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": ifname,
            "CNI_NETNS": f"/run/netns/{netns}" if netns else "", "CNI_PATH": f"{plugin().parent}:{DEBIANS}",
            "PATH": os.environ["PATH"], **environment,
        }  # fmt: skip
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.netns.name}", plugin()],
            env={name: value for name, value in env.items() if value},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(
        self,
        command: str,
        container: str = "c1",
        netns: str = "",
        ifname: str = "eth0",
        stdin: str | None = None,
        config: Mapping[str, Any] | None = None,
        **environment: str,
    ) -> Answer:
        """One call. *config* is merged over the host's; *stdin* stands instead of both."""
        child = self.popen(command, container, netns, ifname, **environment)
        text = json.dumps({**self.config, **(config or {})}) if stdin is None else stdin
        out, err = child.communicate(text, timeout=60)
        return Answer(child.returncode, out, err)


def left(host: Host) -> list[str]:
    """What the plugin and its delegates still keep: state files, addresses of the IPAM, veths (those of a namespace
    that was just removed go a moment later)."""
    for _ in range(40):
        if not host.netns.json("ip -j link show type veth"):
            break
        time.sleep(0.005)
    ipam = host.folder / "ipam" / "cbr0"
    kept = [path.name for path in host.data_dir.iterdir()] if host.data_dir.exists() else []
    kept += [path.name for path in ipam.iterdir() if path.name[0].isdigit()] if ipam.exists() else []
    return kept + [link["ifname"] for link in host.netns.json("ip -j link show type veth")]


SPOKEN = """#!/bin/sh
if [ "$CNI_COMMAND" = VERSION ]; then exit; fi
cat >> {log}; echo "$CNI_COMMAND" >> {log}
{answer}
"""


def speaking(folder: Path, answer: str) -> tuple[Path, str]:
    """A delegate that knows CNI 1.1.0, which none of Debian's does: its log and a CNI_PATH with it."""
    programs, log = folder / "programs", folder / "log"
    programs.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    for name in ("bridge", "host-local"):
        (programs / name).write_text(SPOKEN.format(log=log, answer=answer))
        (programs / name).chmod(0o755)
    return log, str(programs)
