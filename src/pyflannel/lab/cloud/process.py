"""The emulated cloud of a lab: its process, and the door through which tests and commands look and meddle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from pyflannel.lab.cloud.clouds import API_PORT, METADATA
from pyflannel.lab.cloud.server import DOOR
from pyflannel.lab.process import adopt, end
from pyflannel.lab.shell import LabError, batch, sysctls
from pyflannel.table.netns import inside


@dataclass
class CloudProcess:
    """The cloud *kind*, in the namespace `netns`, at `host`. `environment` is what a node's flanneld needs."""

    kind: str
    netns: str
    host: str
    folder: str
    environment: dict[str, str] = field(default_factory=dict)
    pid: int = 0

    def start(self, machines: list[tuple[str, str, str]]) -> None:
        """Start it; returns once it answers. Raises LabError with its words."""
        # A router that tells a host of a shorter way would take itself out of the path.
        sysctls(self.netns, ["net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.br0.send_redirects=0"])
        batch(self.netns, [f"addr add {address}/32 dev lo" for address in METADATA])
        log = Path(self.folder) / "cloud.log"
        with log.open("ab") as errors:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.netns, sys.executable, "-m", "pyflannel.lab.cloud",
                 self.kind, self.host, json.dumps(machines)],
                stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.pid = adopt(process)
        assert process.stdout is not None
        with process.stdout as output:
            line = output.readline()
        if not line:
            words = log.read_text(errors="replace").strip().splitlines()
            raise LabError(f"the emulated {self.kind} ended at its start: {words[-1] if words else 'it said nothing'}")
        self.environment = json.loads(line)

    def stop(self) -> None:
        """End it."""
        pid, self.pid = self.pid, 0
        end(pid, self.netns, signal.SIGTERM)

    # The door

    def state(self) -> dict[str, Any]:
        """Tables, machines, faults."""
        return self._ask("GET", "state", None)

    def routes(self) -> dict[str, str]:
        """The main table: destination → machine."""
        tables = self.state()["tables"]
        return {entry["destination"]: entry["target"] for entry in next(iter(tables.values()))}

    def faults(self, **wanted: Any) -> None:
        """Order trouble: see state.Faults."""
        self._ask("POST", "faults", wanted)

    def do(self, what: str, **data: Any) -> dict[str, Any]:
        """add, remove (table, destination, target), stop, start (machine), quota."""
        return self._ask("POST", what, data)

    def remove(self, destination: str) -> None:
        """Delete a route of the main table, as somebody at the cloud's console would."""
        table = next(iter(self.state()["tables"]))
        self.do("remove", table=table, destination=destination)

    def _ask(self, method: str, what: str, data: dict[str, Any] | None) -> dict[str, Any]:
        connection = HTTPConnection(self.host, API_PORT, timeout=10)
        try:
            with inside(self.netns):
                connection.connect()
            connection.request(method, f"{DOOR}{what}", json.dumps(data) if data is not None else None)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise LabError(f"the emulated {self.kind}: {body.decode(errors='replace')}")
            return dict(json.loads(body))
        except (OSError, HTTPException) as error:
            raise LabError(f"the emulated {self.kind} doesn't answer: {error}") from None
        finally:
            connection.close()
