"""Minutes of traffic over the udp backend while peers come and go: is anything lost by that?

Three nodes; pings every 2 ms and a TCP stream between two of them, a hundred leases that come and go all the while.
Prints a line an engine; fails if a ping was lost or the stream broke.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from ipaddress import IPv4Address

from pyflannel.lab.cluster import Cluster, Plan
from pyflannel.lab.measure import flood
from pyflannel.model.lease import LeaseAttrs
from pyflannel.store.contract import Store

PEERS = 100


def soak(engine: str, minutes: float) -> bool:
    with Cluster(Plan(name="soak", nodes=3, backend="udp", engine=engine)) as cluster:
        one, two = cluster.pods[:2]
        changes = 0
        until = time.monotonic() + minutes * 60

        async def churn(store: Store) -> None:
            nonlocal changes
            while time.monotonic() < until:
                leases = [
                    await store.acquire(LeaseAttrs(IPv4Address(f"203.0.113.{number}")), None)
                    for number in range(1, PEERS + 1)
                ]
                for lease in leases:
                    await store.release(lease.subnets)
                changes += 2 * PEERS

        server = ["ip", "netns", "exec", two.netns, "iperf3", "-s", "-1"]
        stream = ["ip", "netns", "exec", one.netns, "iperf3", "-c", two.address, "-b", "200M", "-t"]
        with subprocess.Popen(server, stdout=subprocess.DEVNULL) as listener:
            time.sleep(0.5)
            with (
                flood(one, two.address, 0.002) as there,
                flood(two, one.address, 0.002) as back,
                subprocess.Popen([*stream, str(int(minutes * 60))], stdout=subprocess.DEVNULL) as client,
            ):
                cluster.with_store(churn)
                broken = client.wait(30) != 0
            listener.kill()
        lost = there.lost + back.lost
        print(
            f"{engine:8} {minutes:g} min: {changes} peers came or went, {there.sent + back.sent} pings, {lost} lost; "
            f"the stream {'BROKE' if broken else 'went on'}"
        )
        return not (lost or broken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2, help="for each engine")
    minutes = parser.parse_args().minutes
    done = [soak(engine, minutes) for engine in ("kernel", "user", "kernel,user")]
    if not all(done):
        sys.exit(1)


if __name__ == "__main__":
    main()
