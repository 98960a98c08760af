"""flannelctl status and flannelctl engine: what this node's flanneld says of itself, over its socket."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pyflannel.model.errors import FlannelError

DEADLINE_S = 5.0
SubnetFile = Annotated[str, typer.Option(help="The daemon's --subnet-file: its socket is beside it.")]
AsJson = Annotated[bool, typer.Option("--json", help="All of it, as JSON.")]
_DEFAULT = "/run/flannel/subnet.env"


def ask(subnet_file: str) -> dict[str, Any]:
    """The status of the daemon that writes *subnet_file*. Raises FlannelError that says why there is none."""
    path = Path(subnet_file).with_suffix(".sock")
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE_S)
            sock.connect(str(path))
            found: dict[str, Any] = json.loads(b"".join(iter(lambda: sock.recv(1 << 16), b"")))
            return found
    except (FileNotFoundError, ConnectionRefusedError):
        raise FlannelError(
            f"no flanneld runs here (nobody listens at {path}): start it, or give its --subnet-file"
        ) from None
    except PermissionError:
        raise FlannelError(f"{path} may not be opened: it is root's") from None
    except TimeoutError:
        raise FlannelError(f"flanneld doesn't answer at {path} within {DEADLINE_S:.0f} s: see its log") from None
    except ValueError:
        raise FlannelError(f"what answers at {path} is no flanneld") from None


def status(subnet_file: SubnetFile = _DEFAULT, as_json: AsJson = False) -> None:
    """What this node's flanneld has, and what troubles it; fails if it isn't ready."""
    found = ask(subnet_file)
    print(json.dumps(found, indent=1) if as_json else "\n".join(lines(found)))
    if not found["ready"]:
        raise typer.Exit(1)


def engine(subnet_file: SubnetFile = _DEFAULT, as_json: AsJson = False) -> None:
    """The udp backend's packet engine: its parts, packets by peer, drops by reason."""
    found = ask(subnet_file)
    engine = found.get("engine")
    if engine is None:
        kind = found.get("backend", {}).get("type", "not started yet")
        raise FlannelError(f"no packet engine runs here: the backend is {kind}, and only udp has one")
    print(json.dumps(engine, indent=1) if as_json else "\n".join(engine_lines(engine)))


def lines(found: dict[str, Any]) -> list[str]:
    """*found* for people, a line a subject."""
    shown = [f"{found['node']}: {'ready' if found['ready'] else 'not ready'}"]
    shown += [f"  trouble   {problem}" for problem in found["problems"]]
    shown.append(f"  store     {found['store']['name']}")
    if "lease" not in found:
        return shown
    expires = found["lease"]["expires"]
    until = f", until {time.strftime('%Y-%m-%d %H:%M', time.localtime(expires))}" if expires else ""
    backend, devices = found["backend"], " ".join(found["backend"]["devices"])
    shown += [
        f"  underlay  {found['address']} on {found['interface']}",
        f"  lease     {found['lease']['subnets']}{until}",
        f"  backend   {backend['type']}{f' on {devices}' if devices else ''}, MTU {backend['mtu']}",
    ]
    if engine := found.get("engine"):
        shown.append(f"  engine    {_kind(engine)}")
    if cloud := found.get("cloud"):
        shown.append(f"  cloud     {cloud['instance']} in {cloud['network']}, route tables {' '.join(cloud['tables'])}")
        shown += [f"  {note['kind']:<9} {note['text']}" for note in cloud["notes"]]
    tables = (f"{name} {table['rows']}" for name, table in found["tables"].items() if table["rows"])
    shown += [f"  peers     {found['peers']}", f"  tables    {', '.join(tables)}"]
    shown += [f"  no way to {subnet}: {why}" for subnet, why in found["unreachable"].items()]
    return shown + [f"  mended    {entry}" for entry in found["disturbances"][-5:]]


def engine_lines(engine: dict[str, Any]) -> list[str]:
    """*engine* of the status for people."""
    shown = [_kind(engine)]
    if engine["problem"]:
        shown.append(f"trouble: {engine['problem']}")
    for name, part in engine["parts"].items():
        abilities = [
            f"{key}: {value}" if isinstance(value, str) else key for key, value in part["features"].items() if value
        ]
        shown += ["", f"{name}: {', '.join(abilities) or 'no offloads'}"]
        shown.append(f"  {'peer':<22}{'sent':>12}{'bytes':>16}{'received':>12}{'bytes':>16}{'dropped':>10}")
        for subnet, peer in sorted(part["peers"].items()):
            shown.append(
                f"  {subnet:<22}{peer['tx_packets']:>12}{peer['tx_bytes']:>16}{peer['rx_packets']:>12}"
                f"{peer['rx_bytes']:>16}{peer['drops']:>10}"
            )
        drops = {key.removeprefix("drop_"): count for key, count in part["counters"].items() if key.startswith("drop_")}
        told = [f"{reason} {count}" for reason, count in drops.items() if count]
        shown.append(f"  dropped: {', '.join(told) or 'nothing'}")
    return shown


def _kind(engine: dict[str, Any]) -> str:
    names = {"kernel": "kernel (eBPF), the user-space one behind it", "user": "user space"}
    why = f": {engine['why']}" if engine["why"] else ""
    return names.get(engine["kind"], "none runs") + why
