"""flanneld's options: flannel v0.28's flags and FLANNELD_* variables, and a few of ours.

The fields of Options are the one list of them: the parser, the help text and docs/reference/flags.md are made from it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from pyflannel.cli.goflags import Flag, HelpAsked, Kind, Status, UsageError, parse_arguments, parse_environment
from pyflannel.model.rows import ENGINES

T = TypeVar("T")

HIDDEN = "(hidden)"
_KINDS: dict[type, Kind] = {bool: "bool", int: "int", tuple: "texts", str: "text"}
_USERINFO = re.compile(r"//[^/,@]*@")  # http://user:password@host: a secret that doesn't belong there
_GO_FILES = "names flannel's source files"


def _option(
    default: T,
    text: str,
    *,
    status: Status = "done",
    note: str = "",
    low: int | None = None,
    high: int | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
    name: str = "",
) -> T:
    """A field of Options, with its flag."""
    flag = Flag(name, _KINDS[type(default)], default, text, status, note, low, high, choices, secret)
    return field(default=default, metadata={"flag": flag})


@dataclass(frozen=True, slots=True)
class Options:
    """All options by name, with _ for -. `given` holds the flags that were set, `rest` the words after the flags."""

    etcd_endpoints: str = _option(
        "http://127.0.0.1:4001,http://127.0.0.1:2379", "etcd's endpoints, a comma list; the next is used if one fails"
    )
    etcd_prefix: str = _option("/coreos.com/network", "prefix of the keys in the store")
    etcd_keyfile: str = _option("", "client key for etcd (PEM)")
    etcd_certfile: str = _option("", "client certificate for etcd (PEM)")
    etcd_cafile: str = _option(
        "", "CA that etcd's certificate is checked against (PEM)",
        note="flannel ignores it without a client certificate; here it counts alone, too",
    )  # fmt: skip
    etcd_username: str = _option("", "user for etcd")
    etcd_password: str = _option(
        "", "password for etcd; better given by its variable: everybody can read a command line", secret=True,
        note="never logged; flannel logs it",
    )  # fmt: skip
    iface: tuple[str, ...] = _option(
        (), "interface (name or address) for traffic between nodes; may be repeated, tried in order"
    )
    iface_regex: tuple[str, ...] = _option(
        (), "regular expression for addresses, then names, of that interface; may be repeated, tried after --iface",
        note="Python's syntax instead of RE2's; they agree on what is used in practice",
    )  # fmt: skip
    iface_can_reach: str = _option("", "take the interface that leads to this address; tried last")
    subnet_file: str = _option("/run/flannel/subnet.env", "file that tells CNI plugins this node's subnet and MTU")
    public_ip: str = _option("", "IPv4 address by which other nodes reach this one")
    public_ipv6: str = _option("", "IPv6 address by which other nodes reach this one")
    subnet_lease_renew_margin: int = _option(
        60, "minutes before its end at which the lease is renewed", low=1, high=1439
    )
    ip_masq: bool = _option(False, "masquerade what pods send outside the network")
    ip_masq_fully_random_disable: bool = _option(False, "masquerade without fully random ports")
    kube_subnet_mgr: bool = _option(False, "Kubernetes as the store")
    kube_api_url: str = _option("", "URL of the Kubernetes API")
    kube_annotation_prefix: str = _option("flannel.alpha.coreos.com", "prefix of the node annotations")
    kubeconfig_file: str = _option("", "kubeconfig")
    version: bool = _option(False, "print the version to standard error and exit", note="no variable, as in flannel")
    healthz_ip: str = _option("0.0.0.0", "address of the health server")
    healthz_port: int = _option(
        0, "port of the health server: /healthz, /readyz, /status, /metrics; 0: none", high=65535,
        note="/readyz tells the truth in both directions; /status and /metrics are ours",
    )  # fmt: skip
    iptables_resync: int = _option(
        5, "seconds between looks at iptables; 0: never", low=0,
        note="0 is a busy loop in flannel; nftables is watched, whatever this says",
    )  # fmt: skip
    iptables_forward_rules: bool = _option(True, "accept forwarded traffic of the network")
    ip_blackhole_route: bool = _option(False, "keep a blackhole route for this node's own subnet")
    net_config_path: str = _option("/etc/kube-flannel/net-conf.json", "network config in Kubernetes mode")
    set_node_network_unavailable: bool = _option(True, "patch the node's NetworkUnavailable condition")
    v: int = _option(0, "verbosity: 1 or more logs details")
    vmodule: str = _option("", "verbosity by file", status="no effect", note=_GO_FILES)
    log_backtrace_at: str = _option(
        "",
        "stack trace at a log line",
        status="no effect",
        note=_GO_FILES,
        name="log_backtrace_at",
    )
    store: str = _option(
        "auto", "where leases are kept; auto: kubernetes with --kube-subnet-mgr, etcd if any --etcd-… flag or variable "
        "is given, else local", status="ours", choices=("auto", "etcd", "local", "kubernetes"),
    )  # fmt: skip
    local_store: str = _option("/var/lib/flannel/store.db", "file of the embedded store", status="ours")
    state_dir: str = _option(
        "/var/lib/flannel", "folder for what must survive a reboot: checkpoint of the leases, identity", status="ours"
    )
    udp_engine: str = _option(
        "auto", "what carries the udp backend's packets: eBPF in the kernel, or threads of flanneld; auto: the kernel "
        "where it can", status="ours", choices=ENGINES,
    )  # fmt: skip
    node_name: str = _option("", "this node's name in messages; else $NODE_NAME, else the host's name", status="ours")
    log_format: str = _option("text", "form of the logs", status="ours", choices=("text", "json"))
    resync: int = _option(60, "seconds between full comparisons with the kernel", status="ours", low=1)
    given: frozenset[str] = frozenset()
    rest: tuple[str, ...] = ()

    @property
    def store_kind(self) -> str:
        """etcd, local or kubernetes: what --store=auto comes to."""
        if self.store != "auto":
            return self.store
        if self.kube_subnet_mgr:
            return "kubernetes"
        return "etcd" if any(name.startswith("etcd-") for name in self.given) else "local"

    def redacted(self) -> str:
        """What was given, on one line for the log, without secrets."""
        words = []
        for name in sorted(self.given):
            flag, value = BY_NAME[name], getattr(self, _attribute(name))
            shown = HIDDEN if flag.secret else ",".join(value) if flag.kind == "texts" else str(value)
            words.append(f"{name}={_USERINFO.sub(f'//{HIDDEN}@', shown)}")
        if self.rest:  # not shown: a secret may be among them
            words.append(f"(ignored: {len(self.rest)} words after one that is no flag; a bool's value needs a =)")
        return " ".join(words) or "all by default"


def _attribute(name: str) -> str:
    return name.replace("-", "_")


FLAGS: tuple[Flag, ...] = tuple(
    replace(flag, name=flag.name or item.name.replace("_", "-"))
    for item in fields(Options)
    if isinstance(flag := item.metadata.get("flag"), Flag)
)
BY_NAME: dict[str, Flag] = {flag.name: flag for flag in FLAGS}


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """The command line wins over FLANNELD_* variables, those over defaults. Raises UsageError, HelpAsked."""
    parsed = parse_arguments(BY_NAME, arguments)
    if parsed.values.get("version"):
        return Options(version=True)  # whatever else is wrong
    unset = {name: flag for name, flag in BY_NAME.items() if name not in parsed.values and name != "version"}
    given: dict[str, Any] = {**parse_environment(unset, environment), **parsed.values}
    values = {_attribute(name): value for name, value in given.items()}
    values["node_name"] = values.get("node_name") or environment.get("NODE_NAME") or socket.gethostname()
    options = Options(**values, given=frozenset(given), rest=parsed.rest)
    if options.kube_subnet_mgr and options.store not in ("auto", "kubernetes"):
        raise UsageError(f"--kube-subnet-mgr and --store={options.store} contradict each other: give one of them")
    return options


def usage() -> str:
    """The help text."""
    lines = ["Usage: flanneld [flags]", "", "Keeps this host's part of the cluster's container network.", ""]
    states = {"not yet": " [not in this version]", "no effect": " [accepted, no effect]"}
    for flag in FLAGS:
        default = "" if flag.default in ("", (), False) else f" (default {str(flag.default).lower()})"
        allowed = f": {flag.allowed}" if flag.choices or flag.low is not None else ""
        value = "" if flag.kind == "bool" else " " + {"int": "N"}.get(flag.kind, "TEXT")
        lines += [f"  --{flag.name}{value}", f"        {flag.help}{allowed}{default}{states.get(flag.status, '')}"]
    lines += ["", "Each can also be set by a variable: --etcd-prefix by FLANNELD_ETCD_PREFIX. The command line wins."]
    return "\n".join(lines)


__all__ = ["BY_NAME", "FLAGS", "HelpAsked", "Options", "UsageError", "parse", "usage"]
