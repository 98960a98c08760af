"""Masquerade and forward rules, as flannel's (control-plane reference, 6).

N is the cluster's network, S this node's subnet, of one family. Pod to pod inside N keeps its source, so does outside
traffic that arrives at the node of its pod; pod to outside is masqueraded, but multicast, and so is host to remote pod.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyflannel.model.lease import Subnets
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import IPNetwork
from pyflannel.model.rows import Chain, Family, Rule

Manager = Literal["nftables", "iptables"]
KUBE_PROXY_MARK = (0x4000, 0x4000)  # value, mask: kube-proxy masquerades what bears it
_MULTICAST: dict[Family, str] = {4: "224.0.0.0/4", 6: "ff00::/8"}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Which rules are wanted: --ip-masq, --iptables-forward-rules, --ip-masq-fully-random-disable."""

    masquerade: bool = False
    forward: bool = True
    fully_random: bool = True


def chains(config: NetworkConfig, own: Subnets, traffic: Traffic, manager: Manager) -> tuple[Chain, ...]:
    """The chains wanted, for the families that the config enables."""
    found: list[Chain] = []
    families: tuple[tuple[Family, IPNetwork | None, IPNetwork | None], ...] = (
        (4, config.network, own.ipv4),
        (6, config.ipv6_network, own.ipv6),
    )
    for family, network, subnet in families:
        if network is None or subnet is None:
            continue
        if traffic.masquerade:
            spared = [str(net) for net in config.no_masquerade if net.version == family]
            rules = _masquerade(str(network), str(subnet), _MULTICAST[family], spared, traffic.fully_random)
            found.append(Chain(manager, family, "masquerade", rules))
        if traffic.forward:
            found.append(
                Chain(manager, family, "forward", (Rule("accept", str(network)), Rule("accept", None, str(network))))
            )
    return tuple(found)


def _masquerade(network: str, subnet: str, multicast: str, spared: list[str], fully_random: bool) -> tuple[Rule, ...]:
    return (
        Rule("return", mark=KUBE_PROXY_MARK),
        Rule("return", subnet, network),
        Rule("return", network, subnet),
        Rule("return", f"!{network}", subnet),
        *(Rule("return", network, net) for net in spared),
        Rule("masquerade", network, f"!{multicast}", fully_random=fully_random),
        Rule("masquerade", f"!{network}", network, fully_random=fully_random),
    )
