"""Our chains in iptables: flannel's chains, comments and order (control-plane reference, 6.1), one restore a change."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pyflannel.model.rows import Chain, Family, Rule
from pyflannel.table.process import NOT_FOUND, run

FAMILIES: tuple[Family, ...] = (4, 6)
_PROGRAM: dict[Family, str] = {4: "iptables", 6: "ip6tables"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a kind of chain lives: table, the built-in chain that jumps to it, its name, its rules' comment."""

    table: str
    parent: str
    name: str
    comment: str

    @property
    def jump(self) -> str:
        return f'{self.parent} -m comment --comment "{self.comment}" -j {self.name}'


_PLACES = {
    "masquerade": _Place("nat", "POSTROUTING", "FLANNEL-POSTRTG", "flanneld masq"),
    "forward": _Place("filter", "FORWARD", "FLANNEL-FWD", "flanneld forward"),
}
_VERDICT = {"accept": "ACCEPT", "return": "RETURN", "masquerade": "MASQUERADE"}


class Iptables:
    """iptables and ip6tables, run with *prefix* before them (to enter a namespace)."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._prefix = tuple(prefix)

    async def dump(self) -> list[Chain]:
        """Our chains; one to which there is not exactly one jump comes with rules that differ."""
        return [chain for chain, _ in await self._dump()]

    async def _dump(self) -> list[tuple[Chain, int]]:
        found: list[tuple[Chain, int]] = []
        for family in FAMILIES:
            for kind, place in _PLACES.items():
                code, text, _ = await run([*self._prefix, f"{_PROGRAM[family]}-save", "-t", place.table])
                if code == 0 and place.name in text:
                    found.append(decode(text, family, kind))
        return found

    async def kept(self, families: Collection[Family]) -> str | None:
        """Why this host is to stay with iptables: flannel's chains are in it, or it drops what nobody accepts there,
        which no rule of nftables undoes. None: nothing says so."""
        for family in families:
            if any(chain.family == family for chain in await self.dump()):
                return f"flannel's chains are in {_PROGRAM[family]}"
            if await self.drops_forwarded(family):
                return f"{_PROGRAM[family]} drops what its FORWARD chain doesn't accept"
        return None

    async def drops_forwarded(self, family: Family) -> bool:
        """Is the policy of FORWARD to drop? Docker sets it so."""
        code, text, _ = await run([*self._prefix, f"{_PROGRAM[family]}-save", "-t", "filter"])
        return code == 0 and "\n:FORWARD DROP " in text

    async def apply(self, remove: Sequence[Chain], write: Sequence[Chain]) -> dict[Family, str]:
        """One iptables-restore per family. The words of those that failed."""
        jumps = {chain.key: count for chain, count in await self._dump()}
        failed: dict[Family, str] = {}
        for family in FAMILIES:
            text = encode(
                [chain for chain in remove if chain.family == family],
                [chain for chain in write if chain.family == family],
                jumps,
            )
            if text:
                command = [*self._prefix, f"{_PROGRAM[family]}-restore", "--noflush", "--wait", "10"]
                code, _, errors = await run(command, text)
                if code == NOT_FOUND:
                    failed[family] = f"{_PROGRAM[family]} is not installed: apt install iptables, or EnableNFTables"
                elif code != 0:
                    failed[family] = errors.strip() or f"{_PROGRAM[family]}-restore ended with {code}"
        return failed


def encode(remove: Sequence[Chain], write: Sequence[Chain], jumps: dict[tuple[str, int, str], int]) -> str:
    """What iptables-restore reads; *jumps* says how many there are to each chain now. Pure."""
    lines: list[str] = []
    for kind, place in _PLACES.items():
        inner: list[str] = []
        for chain in (chain for chain in write if chain.kind == kind):
            count = jumps.get(chain.key, 0)
            inner.append(f":{place.name} - [0:0]")  # with --noflush: made, or flushed
            inner += [f"-D {place.jump}"] * max(0, count - 1)
            inner += [f"-A {place.name} {rule_text(rule, place.comment)}" for rule in chain.rules]
            inner += [f"-A {place.jump}"] if count == 0 else []
        for chain in (chain for chain in remove if chain.kind == kind):
            inner += [f"-D {place.jump}"] * jumps.get(chain.key, 0)
            inner += [f"-F {place.name}", f"-X {place.name}"]
        if inner:
            lines += [f"*{place.table}", *inner, "COMMIT"]
    return "".join(f"{line}\n" for line in lines)


def rule_text(rule: Rule, comment: str) -> str:
    """One rule as `iptables -S` prints it. Pure."""
    words: list[str] = []
    for option, net in (("-s", rule.source), ("-d", rule.destination)):
        if net is not None:
            words += ["!", option, net[1:]] if net.startswith("!") else [option, net]
    if rule.mark is not None:
        value, mask = rule.mark
        words += ["-m", "mark", "--mark", f"{value:#x}/{mask:#x}"]
    words += ["-m", "comment", "--comment", f'"{comment}"', "-j", _VERDICT[rule.verdict]]
    words += ["--random-fully"] if rule.fully_random else []
    return " ".join(words)


def decode(text: str, family: Family, kind: str) -> tuple[Chain, int]:
    """Our chain of *kind* in what iptables-save prints, and how many jumps lead to it. Pure."""
    place = _PLACES[kind]
    jumps = 0
    rules: list[Rule] = []
    for line in text.splitlines():
        words = shlex.split(line)
        if words[:2] == ["-A", place.name]:
            rules.append(_rule(words[2:]) or Rule("accept", "foreign"))
        elif words[:2] == ["-A", place.parent] and place.name in words:
            jumps += 1
    if jumps != 1:
        rules.append(Rule("accept", f"{jumps} jumps"))  # never wanted: the chain differs, and is written again
    return Chain("iptables", family, kind, tuple(rules)), jumps  # type: ignore[arg-type]  # a key of _PLACES


def _rule(words: list[str]) -> Rule | None:
    source = destination = mark = verdict = None
    random = negated = False
    at = 0
    while at < len(words):
        word = words[at]
        argument = words[at + 1] if at + 1 < len(words) else ""
        step = 2
        if word == "!":
            negated, step = True, 1
        elif word in ("-s", "-d"):
            net = f"!{argument}" if negated else argument
            source, destination = (net, destination) if word == "-s" else (source, net)
            negated = False
        elif word == "--mark":
            value, _, mask = argument.partition("/")
            mark = (int(value, 16), int(mask or "0xffffffff", 16))
        elif word == "-j":
            verdict = next((name for name, target in _VERDICT.items() if target == argument), None)
        elif word == "--random-fully":
            random, step = True, 1
        elif word not in ("-m", "--comment"):
            return None
        at += step
    return None if verdict is None else Rule(verdict, source, destination, mark, random)  # type: ignore[arg-type]
