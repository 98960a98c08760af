"""One emulated cloud as a process, in the lab's underlay: `python -m pyflannel.lab.cloud CLOUD HOST MACHINES`.

MACHINES is JSON: a list of [name, IPv4, IPv6]. Once all is up, a line of JSON says what a node's environment must hold.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

from pyflannel.lab.cloud.clouds import API_PORT, METADATA, front
from pyflannel.lab.cloud.router import Router
from pyflannel.lab.cloud.server import Emulator


def main() -> None:
    """Serve until SIGTERM."""
    cloud, host, machines = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    made = front(cloud, [(str(name), str(ipv4), str(ipv6)) for name, ipv4, ipv6 in machines])
    router = Router()
    made.vpc.changed.append(lambda: router.sync(made.vpc.forwarding()))
    router.sync(made.vpc.forwarding())
    with Emulator(made, [(host, API_PORT), *((address, 80) for address in METADATA)]) as emulator:
        print(json.dumps(made.environment(emulator.url)), flush=True)
        over.wait()


if __name__ == "__main__":
    main()
