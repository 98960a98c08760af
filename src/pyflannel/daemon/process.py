"""flanneld's process: its store, kernel and servers, and the signals that end it."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import cast

from pyflannel.cli.options import Options
from pyflannel.cli.stores import open_store
from pyflannel.daemon import control, systemd
from pyflannel.daemon.flanneld import Flanneld
from pyflannel.model.rows import EngineChoice
from pyflannel.table.engine import Engines
from pyflannel.table.kernel import Kernel

log = logging.getLogger(__name__)


async def run(options: Options) -> None:
    """Run until a signal asks to stop; then everything in the kernel stays. Raises FlannelError or Revoked, in a
    group."""
    store = open_store(options)
    kernel = Kernel()
    engines = Engines(Path(options.subnet_file).with_suffix(".bpf"), cast(EngineChoice, options.udp_engine))
    daemon = Flanneld(options, store, kernel, engines)
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None

    def stop(number: signal.Signals) -> None:
        log.info("%s: stopping; devices, routes and rules stay, traffic goes on", number.name)
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)  # a second one ends us at once
        systemd.notify("STOPPING=1")
        main.cancel()

    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop, each)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(systemd.signs_of_life())
            if options.healthz_port > 0:
                from pyflannel.daemon.http import serve

                ip, port = options.healthz_ip, options.healthz_port
                group.create_task(serve(ip, port, daemon.health.problems, daemon.status))
            group.create_task(control.serve(Path(options.subnet_file).with_suffix(".sock"), daemon.status))
            group.create_task(daemon.run())
    finally:
        await store.close()
        engines.close()
        kernel.close()
