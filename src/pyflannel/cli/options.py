"""flanneld's options: flannel v0.28's flags and FLANNELD_* variables, and a few of ours.

FLAGS is the one list of them: the parser, the help and docs/reference/flags.md are made from it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyflannel.model.errors import ConfigError, FlannelError

Kind = Literal["text", "texts", "int", "bool"]
Status = Literal["done", "accepted", "not yet", "ours"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `status`: done as in flannel; accepted but without effect; not yet; ours (flannel has none)."""

    name: str
    kind: Kind
    default: Any
    help: str
    status: Status = "done"
    note: str = ""


FLAGS: tuple[Flag, ...] = (
    Flag("etcd-endpoints", "text", "http://127.0.0.1:4001,http://127.0.0.1:2379", "etcd endpoints, a comma list"),
    Flag("etcd-prefix", "text", "/coreos.com/network", "prefix of the keys in the store"),
    Flag("etcd-keyfile", "text", "", "client key for etcd (PEM)"),
    Flag("etcd-certfile", "text", "", "client certificate for etcd (PEM)"),
    Flag("etcd-cafile", "text", "", "CA that etcd's certificate is checked against", note="honoured alone, too"),
    Flag("etcd-username", "text", "", "user for etcd"),
    Flag("etcd-password", "text", "", "password for etcd", note="never logged"),
    Flag("iface", "texts", (), "interface (name or address) for traffic between nodes; several are tried in order"),
    Flag("iface-regex", "texts", (), "the same by a regular expression; tried after --iface"),
    Flag("iface-can-reach", "text", "", "the interface that leads to this address; tried last"),
    Flag("subnet-file", "text", "/run/flannel/subnet.env", "file with this node's subnet and MTU"),
    Flag("public-ip", "text", "", "IPv4 address by which other nodes reach this one"),
    Flag("public-ipv6", "text", "", "IPv6 address by which other nodes reach this one"),
    Flag("subnet-lease-renew-margin", "int", 60, "minutes before its end at which the lease is renewed (1 to 1439)"),
    Flag("ip-masq", "bool", False, "masquerade traffic that leaves the network"),
    Flag("ip-masq-fully-random-disable", "bool", False, "masquerade without fully random ports"),
    Flag("kube-subnet-mgr", "bool", False, "Kubernetes as the store", "not yet"),
    Flag("kube-api-url", "text", "", "URL of the Kubernetes API", "not yet"),
    Flag("kube-annotation-prefix", "text", "flannel.alpha.coreos.com", "prefix of the node annotations", "not yet"),
    Flag("kubeconfig-file", "text", "", "kubeconfig", "not yet"),
    Flag("version", "bool", False, "print the version and exit"),
    Flag("healthz-ip", "text", "0.0.0.0", "address of the health server"),
    Flag("healthz-port", "int", 0, "port of the health server; 0: none"),
    Flag(
        "iptables-resync", "int", 5, "seconds between looks at iptables; 0: never", note="0 is a busy loop in flannel"
    ),
    Flag("iptables-forward-rules", "bool", True, "accept forwarded traffic of the network"),
    Flag("ip-blackhole-route", "bool", False, "a blackhole route for this node's subnet"),
    Flag("net-config-path", "text", "/etc/kube-flannel/net-conf.json", "network config in Kubernetes mode", "not yet"),
    Flag("set-node-network-unavailable", "bool", True, "mark the node when ready", "not yet"),
    Flag("v", "int", 0, "verbosity: 1 and more log details"),
    Flag("vmodule", "text", "", "verbosity by file", "accepted", "for Go's source files"),
    Flag("log_backtrace_at", "text", "", "stack trace at a log line", "accepted", "for Go's source files"),
    Flag("store", "text", "auto", "etcd, local, or auto: etcd if any --etcd- option is given, else local", "ours"),
    Flag("local-store", "text", "/var/lib/flannel/store.db", "file of the embedded store", "ours"),
    Flag("state-dir", "text", "/var/lib/flannel", "folder for what survives a reboot: checkpoint, identity", "ours"),
    Flag("node-name", "text", "", "this node's name in messages; by default NODE_NAME or the host's", "ours"),
    Flag("log-format", "text", "text", "text or json", "ours"),
    Flag("resync", "int", 60, "seconds between full comparisons with the kernel", "ours"),
)
BY_NAME = {flag.name: flag for flag in FLAGS}
_TRUE = frozenset(["1", "t", "T", "TRUE", "true", "True"])
_FALSE = frozenset(["0", "f", "F", "FALSE", "false", "False"])


class UsageError(FlannelError):
    """A flag or variable is wrong."""


class HelpAsked(FlannelError):
    """-h or --help."""


@dataclass(frozen=True, slots=True)
class Options:
    """All options by name, with - as _ ; and which were given."""

    values: Mapping[str, Any]
    given: frozenset[str]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name.replace("_", "-")]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def store_kind(self) -> str:
        """etcd, local or kubernetes, after --store=auto is decided."""
        if self.values["store"] != "auto":
            return str(self.values["store"])
        if self.values["kube-subnet-mgr"]:
            return "kubernetes"
        return "etcd" if any(name.startswith("etcd-") for name in self.given) else "local"

    def redacted(self) -> str:
        """What was given, for the log: no password."""
        shown = {name: "(hidden)" if name == "etcd-password" else self.values[name] for name in sorted(self.given)}
        return " ".join(f"{name}={value}" for name, value in shown.items()) or "all by default"


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Go's flag syntax; the command line wins over FLANNELD_* variables. Raises UsageError, HelpAsked."""
    values: dict[str, Any] = {flag.name: flag.default for flag in FLAGS}
    given: set[str] = set()
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--" or not word.startswith("-") or word == "-":
            break
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name in ("h", "help"):
            raise HelpAsked
        flag = BY_NAME.get(name)
        if flag is None:
            raise UsageError(f"unknown flag -{name}: see flanneld --help")
        if not equals:
            if flag.kind == "bool":
                value = "true"
            elif not words:
                raise UsageError(f"flag -{name} needs a value")
            else:
                value = words.pop(0)
        _put(values, flag, value, f"flag -{name}", append=name in given)
        given.add(name)
    for flag in FLAGS:
        variable = "FLANNELD_" + flag.name.upper().replace("-", "_")
        text = environment.get(variable, "")
        if text and flag.name not in given and flag.name != "version":
            _put(values, flag, text, f"variable {variable}", append=False)
            given.add(flag.name)
    _check(values)
    if not values["node-name"]:
        values["node-name"] = environment.get("NODE_NAME") or socket.gethostname()
    return Options(values, frozenset(given))


def _put(values: dict[str, Any], flag: Flag, text: str, where: str, append: bool) -> None:
    try:
        match flag.kind:
            case "text":
                values[flag.name] = text
            case "texts":
                values[flag.name] = (*values[flag.name], text) if append else (text,)
            case "int":
                values[flag.name] = _integer(text)
            case "bool":
                if text not in _TRUE | _FALSE:
                    raise ValueError
                values[flag.name] = text in _TRUE
    except ValueError:
        wanted = "true or false" if flag.kind == "bool" else "a whole number"
        raise UsageError(f'{where} is "{text}", expected {wanted}') from None


def _integer(text: str) -> int:
    """Go's literals: 0x, 0o, 0b, a leading 0 for octal, underscores."""
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdecimal():
        return int(text, 8)
    return int(text, 0)


def _check(values: Mapping[str, Any]) -> None:
    def expect(name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise UsageError(str(ConfigError("options", f"--{name}", values[name], wanted)))

    expect("subnet-lease-renew-margin", 1 <= values["subnet-lease-renew-margin"] <= 1439, "1 to 1439 minutes")
    expect("iptables-resync", values["iptables-resync"] >= 0, "seconds, or 0 for never")
    expect("resync", values["resync"] >= 1, "at least 1 second")
    expect("healthz-port", values["healthz-port"] <= 65535, "a port, or 0 for none")
    expect("store", values["store"] in ("auto", "etcd", "local", "kubernetes"), "auto, etcd or local")
    expect("log-format", values["log-format"] in ("text", "json"), "text or json")


def usage() -> str:
    """The help text."""
    lines = ["Usage: flanneld [flags]", ""]
    for flag in FLAGS:
        default = f" (default {flag.default})" if flag.default not in ("", (), False) else ""
        status = {"not yet": " [not in this version]", "accepted": " [no effect]"}.get(flag.status, "")
        lines.append(f"  -{flag.name}\n        {flag.help}{default}{status}")
    lines += ["", "Each can be set as FLANNELD_<NAME>, with _ for -; the command line wins."]
    return "\n".join(lines)


def state_dir(options: Options) -> Path:
    return Path(options.values["state-dir"])
