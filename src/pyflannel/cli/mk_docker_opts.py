"""mk-docker-opts: Docker's options from subnet.env, as flannel's script writes them (control-plane reference, 5.4)."""

from __future__ import annotations

import getopt
import os
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import ip_interface
from pathlib import Path

from pyflannel.wire import subnet_env

USAGE = """mk-docker-opts [-f FLANNEL-ENV-FILE] [-d DOCKER-ENV-FILE] [-i] [-c] [-m] [-k COMBINED-KEY]

Generate Docker daemon options based on flannel env file
OPTIONS:
  -f  Path to flannel env file. Defaults to /run/flannel/subnet.env
  -d  Path to Docker env file to write to. Defaults to /run/docker_opts.env
  -i  Output each Docker option as individual var. e.g. DOCKER_OPT_MTU=1500
  -c  Output combined Docker options into DOCKER_OPTS var
  -k  Set the combined options key to this value (default DOCKER_OPTS=)
  -m  Do not output --ip-masq (useful for older Docker version)
"""


def compose(
    env: Mapping[str, str], *, individual: bool, combined: bool, key: str, masquerade: bool, preset: str
) -> str:
    """The text of the options file. *preset* is the combined variable's value so far. Raises ValueError."""
    options: dict[str, str] = {}
    if subnet := env.get("FLANNEL_SUBNET"):
        options["DOCKER_OPT_BIP"] = f"--bip={subnet}"
    if masquerade and (ipmasq := env.get("FLANNEL_IPMASQ")):
        if ipmasq not in ("true", "false"):
            raise ValueError(f"Invalid value of FLANNEL_IPMASQ: {ipmasq}")
        # Whoever masquerades, the other must not.
        options["DOCKER_OPT_IPMASQ"] = f"--ip-masq={'false' if ipmasq == 'true' else 'true'}"
    if mtu := env.get("FLANNEL_MTU"):
        options["DOCKER_OPT_MTU"] = f"--mtu={mtu}"
    lines = [f'{name}="{value}"' for name, value in sorted(options.items())] if individual else []
    if combined:
        values = "".join(f" {value}" for _, value in sorted(options.items()))
        lines.append(f'{key}="{preset + " " if preset else ""}{values}"')
    return "".join(f"{line}\n" for line in lines)


def conflict(subnet: str, routes: str) -> str | None:
    """The route that leads the node's own subnet elsewhere, in what `ip route show` prints."""
    net = str(ip_interface(subnet).network)
    return next((line for line in routes.splitlines() if net in line and " via " in line), None)


def main() -> None:
    """Exit codes: 0 written; 1 wrong options, wrong input, or a conflicting route."""
    try:
        given, _ = getopt.getopt(sys.argv[1:], "f:d:icmk:h?")
    except getopt.GetoptError:
        given = [("-h", "")]
    options = dict(given)
    if "-h" in options or "-?" in options:
        print(USAGE, file=sys.stderr)
        sys.exit(1)
    source, target = options.get("-f", "/run/flannel/subnet.env"), options.get("-d", "/run/docker_opts.env")
    key = options.get("-k", "DOCKER_OPTS")
    both = not ("-i" in options or "-c" in options)
    try:
        env = subnet_env.decode(Path(source).read_text())
    except OSError:
        env = {}
    try:
        text = compose(
            env, individual=both or "-i" in options, combined=both or "-c" in options, key=key,
            masquerade="-m" not in options, preset=os.environ.get(key, ""),
        )  # fmt: skip
        Path(target).write_text(text)
    except (ValueError, OSError) as error:
        print(f"mk-docker-opts: {error}", file=sys.stderr)
        sys.exit(1)
    if subnet := env.get("FLANNEL_SUBNET"):
        shown = subprocess.run(["ip", "route", "show"], capture_output=True, text=True, check=False).stdout
        if line := conflict(subnet, shown):
            print(f"mk-docker-opts: {subnet} is routed elsewhere: {line}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
