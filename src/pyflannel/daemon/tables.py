"""Which tables this node has, who watches them, and which rows it wants beside its backend's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyflannel.backend.contract import Backend
from pyflannel.cli.options import Options
from pyflannel.daemon.cloud import Cloud
from pyflannel.daemon.underlay import Underlay
from pyflannel.model.lease import Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import IPNetwork
from pyflannel.model.rows import Family, Route, Row
from pyflannel.node.preflight import bridge_netfilter_warning, forwarding_warning
from pyflannel.rules.traffic import Manager, Traffic, chains
from pyflannel.table.contract import Scope, Source, Table
from pyflannel.table.engine import EngineMonitor, EngineRoutesTable, Engines, EngineTable
from pyflannel.table.firewall import FirewallMonitor, FirewallTable, choose_manager
from pyflannel.table.iptables import Iptables
from pyflannel.table.kernel import Kernel
from pyflannel.table.links import LinksTable
from pyflannel.table.monitor import Monitor
from pyflannel.table.nftables import Nftables
from pyflannel.table.rtables import AddressesTable, FdbTable, NeighboursTable, RoutesTable
from pyflannel.table.sysctls import SysctlsTable
from pyflannel.table.tuns import TunsTable

BLACKHOLE_METRIC = 1 << 20  # behind the bridge's own route, which has a better one


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows go. `networks` are the previous run's: what it left there is ours too."""

    kernel: Kernel
    engines: Engines
    underlay: Underlay
    networks: tuple[IPNetwork, ...]
    cloud: Cloud | None = None


@dataclass(frozen=True, slots=True)
class Tables:
    """What a daemon has to keep: its tables, and the rows of ours beside the backend's."""

    manager: Manager
    scope: Scope
    links: LinksTable
    routes: RoutesTable
    every: list[Table[Any]]
    sources: list[Source]
    extra: tuple[Row, ...]


async def open_tables(options: Options, place: Place, config: NetworkConfig, backend: Backend, own: Subnets) -> Tables:
    """Nothing is written yet."""
    kernel, engines = place.kernel, place.engines
    current = [net for net in (config.network, config.ipv6_network) if net is not None]
    families: list[Family] = [4 if net.version == 4 else 6 for net in current]
    manager = await choose_manager(config.nftables, families, Nftables(), Iptables())
    scope = Scope(frozenset(backend.devices), (*current, *place.networks), f"pyflannel {options.subnet_file}")
    links, routes = LinksTable(kernel, scope), RoutesTable(kernel, scope)
    tables: list[Table[Any]] = [
        links,
        TunsTable(kernel, scope),
        EngineTable(engines),
        EngineRoutesTable(engines),
        AddressesTable(kernel, scope),
        SysctlsTable(),
        NeighboursTable(kernel, scope),
        FdbTable(kernel, scope),
        routes,
        FirewallTable(manager),
    ]
    sources: list[Source] = []
    if place.cloud is not None:
        cloud_tables, sources = place.cloud.tables(scope.networks)
        tables += cloud_tables
    traffic = Traffic(options.ip_masq, options.iptables_forward_rules, not options.ip_masq_fully_random_disable)
    extra: list[Row] = list(chains(config, own, traffic, manager))
    if options.ip_blackhole_route:
        extra += [
            Route(net, blackhole=True, metric=BLACKHOLE_METRIC) for net in (own.ipv4, own.ipv6) if net is not None
        ]
    return Tables(manager, scope, links, routes, tables, sources, tuple(extra))


def watchers(options: Options, place: Place, tables: Tables) -> list[Source]:
    """Who watches *tables*."""
    resync_s = options.iptables_resync if tables.manager == "iptables" else 0
    return [
        Monitor(place.kernel, tables.scope, place.underlay.touch),
        FirewallMonitor(resync_s),
        EngineMonitor(place.engines),
        *tables.sources,
    ]


def warnings(config: NetworkConfig, manager: Manager) -> list[str]:
    """What this host lacks, and flanneld doesn't set."""
    families = (config.network is not None, config.ipv6_network is not None)
    found = [forwarding_warning(*families)]
    if manager == "iptables":
        found.append(bridge_netfilter_warning(*families))
    return [warning for warning in found if warning]
