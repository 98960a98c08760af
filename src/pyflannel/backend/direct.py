"""Is a peer on our own link? flannel's decision for DirectRouting (backends reference, 1.8), as a pure look-up."""

from __future__ import annotations

from collections.abc import Iterable

from pyflannel.model.node import IPAddress, UnderlayRoute


class Direct:
    """The underlay's routes, by longest prefix."""

    def __init__(self, routes: Iterable[UnderlayRoute]) -> None:
        self._routes: dict[tuple[int, int], dict[int, UnderlayRoute]] = {}
        for route in routes:
            net = route.destination
            level = self._routes.setdefault((net.version, net.prefixlen), {})
            level.setdefault(int(net.network_address), route)  # the first has the better metric
        self._levels = sorted(self._routes, key=lambda level: -level[1])

    def device(self, ip: IPAddress) -> str | None:
        """The device on whose own link *ip* lies; None if a gateway is between, or no route leads there."""
        for version, length in self._levels:
            if version != ip.version:
                continue
            shift = ip.max_prefixlen - length
            route = self._routes[version, length].get(int(ip) >> shift << shift)
            if route is not None:
                return route.device if route.on_link else None
        return None
