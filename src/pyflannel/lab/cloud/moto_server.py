"""A real moto server, on the loopback, until standard input ends: `python -m pyflannel.lab.cloud.moto_server PORT`."""

from __future__ import annotations

import os
import sys
import threading


def main() -> None:
    """Serve; whoever started us holds the other end of our standard input, so we end with it."""
    from moto.server import main as serve

    def follow() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
    serve(["-H", "127.0.0.1", "-p", sys.argv[1]])


if __name__ == "__main__":
    main()
