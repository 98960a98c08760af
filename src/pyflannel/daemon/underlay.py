"""This node's place in the underlay: read from the kernel, followed while it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from socket import AF_INET, AF_INET6

from pyflannel.cli.options import Options
from pyflannel.model.errors import ConfigError
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node
from pyflannel.node.choose import Facts, Wish, choose, still, underlay_routes
from pyflannel.table.kernel import Kernel

log = logging.getLogger(__name__)

QUIET_S = 0.05  # Ours to tune: a DHCP renewal or a link flap is a burst of notifications; act once, after it


def wish_of(options: Options, chosen: tuple[str, str] = ("", "")) -> Wish:
    """What the options say about the interface; *chosen*, the store's public addresses, go before theirs."""
    return Wish(
        tuple(options.iface), tuple(options.iface_regex), options.iface_can_reach, chosen[0] or options.public_ip,
        chosen[1] or options.public_ipv6,
    )  # fmt: skip


class Underlay:
    """The node as it is. `touch` says that something changed; `follow` looks, and tells of a node that differs."""

    def __init__(self, kernel: Kernel, wish: Wish, config: NetworkConfig, name: str) -> None:
        self._kernel, self._wish, self._config, self._name = kernel, wish, config, name
        self._touched = asyncio.Event()
        self.devices: tuple[str, ...] = ()
        self.trouble: str | None = None

    def touch(self) -> None:
        self._touched.set()

    def facts(self) -> Facts:
        """Everything the choice depends on, read now."""
        kernel = self._kernel
        links, addresses = tuple(kernel.links()), tuple(kernel.addresses())
        routes = (*kernel.routes(AF_INET), *kernel.routes(AF_INET6))
        return Facts(links, addresses, routes, kernel.route_to)

    def look(self, before: Node | None = None) -> Node:
        """The node now: *before* with its present MTU and routes if it has its addresses still, else chosen anew.
        Raises ConfigError."""
        facts, config = self.facts(), self._config
        node = still(before, facts) if before is not None else None
        if node is None:
            node, why = choose(
                facts, self._wish, config.network is not None, config.ipv6_network is not None, self._name
            )
            shown = " and ".join(str(ip) for ip in (node.public_ip, node.public_ipv6) if ip)
            log.info("traffic between nodes: %s on %s, MTU %d (%s)", shown, node.interface, node.mtu, why)
        networks = [net for net in (config.network, config.ipv6_network) if net is not None]
        return replace(node, routes=underlay_routes(facts, networks, self.devices))

    async def follow(self, node: Node, changed: Callable[[Node], Awaitable[None]]) -> None:
        """Call *changed* with each node that differs from the last, beginning with *node*. Until cancelled."""
        while True:
            await self._touched.wait()
            await asyncio.sleep(QUIET_S)
            self._touched.clear()
            try:
                now = self.look(node)
                trouble = None
            except ConfigError as error:
                now, trouble = node, f"the underlay is gone: {error}"
            except OSError as error:
                now, trouble = node, f"the underlay can't be read: {error}"
                self._touched.set()
            if trouble != self.trouble:
                self.trouble = trouble
                if trouble:
                    log.warning("%s; keeping what there is", trouble)
            if now != node:
                node = now
                await changed(now)
