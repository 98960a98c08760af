"""Our chains in nftables: flannel's names (control-plane reference, 6.3), one transaction a change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pyflannel.model.rows import Chain, Family, Rule
from pyflannel.table.process import run

FAMILIES: tuple[Family, ...] = (4, 6)
_KINDS = {"postrtg": "masquerade", "forward": "forward"}
_WORD: dict[Family, str] = {4: "ip", 6: "ip6"}
_CHAIN = {
    "masquerade": (
        "postrtg",
        "type nat hook postrouting priority 100; policy accept; "
        'comment "chain to manage traffic masquerading by flannel";',
    ),
    "forward": (
        "forward",
        'type filter hook forward priority 0; policy accept; comment "chain to accept flannel traffic";',
    ),
}


class Nftables:
    """nft, run with *prefix* before it (to enter a namespace)."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._prefix = tuple(prefix)

    async def works(self) -> str | None:
        """None if nft and this kernel can do what we need; else why not. Changes nothing."""
        probe = (
            "add table ip flannel-probe\n"
            "add chain ip flannel-probe probe { type nat hook postrouting priority 100; }\n"
            "add rule ip flannel-probe probe ip saddr 192.0.2.0/24 masquerade fully-random\n"
        )
        code, _, errors = await run([*self._prefix, "nft", "--check", "-f", "-"], probe)
        return None if code == 0 else (errors.strip().splitlines() or [f"nft ended with {code}"])[0]

    async def dump(self) -> list[Chain]:
        """Our chains with their rules; one that holds anything we don't write comes with rules that differ."""
        found: list[Chain] = []
        for family in FAMILIES:
            command = [*self._prefix, "nft", "-j", "list", "table", _WORD[family], table_name(family)]
            code, text, _ = await run(command)
            if code == 0:
                found += decode(family, json.loads(text)["nftables"])
        return found

    async def apply(self, remove: Sequence[Chain], write: Sequence[Chain]) -> str | None:
        """All in one transaction, without a moment between old and new. None, or nft's words."""
        emptied = set()
        if remove:
            kept = [chain for chain in await self.dump() if chain not in remove] + list(write)
            families = {chain.family for chain in remove} - {chain.family for chain in kept}
            emptied = {family for family in families if not await self._others(family)}
        code, _, errors = await run([*self._prefix, "nft", "-f", "-"], encode(remove, write, emptied))
        return None if code == 0 else errors.strip() or f"nft ended with {code}"

    async def _others(self, family: Family) -> bool:
        """True if our table holds chains that aren't ours."""
        _, text, _ = await run([*self._prefix, "nft", "-j", "list", "table", _WORD[family], table_name(family)])
        items = json.loads(text)["nftables"] if text else []
        return any("chain" in item and item["chain"]["name"] not in _KINDS for item in items)


def table_name(family: Family) -> str:
    return f"flannel-ipv{family}"


def encode(remove: Sequence[Chain], write: Sequence[Chain], emptied: set[Family]) -> str:
    """The transaction as nft reads it. Tables of the families in *emptied* go altogether. Pure."""
    lines: list[str] = []
    for chain in write:
        table = f"{_WORD[chain.family]} {table_name(chain.family)}"
        name, head = _CHAIN[chain.kind]
        lines.append(f'add table {table} {{ comment "rules for {table_name(chain.family)}"; }}')
        lines.append(f"add chain {table} {name} {{ {head} }}")
        lines.append(f"flush chain {table} {name}")
        lines += [f"add rule {table} {name} {rule_text(rule, chain.family)}" for rule in chain.rules]
    for chain in remove:
        if chain.family not in emptied:
            table, name = f"{_WORD[chain.family]} {table_name(chain.family)}", _CHAIN[chain.kind][0]
            lines += [f"flush chain {table} {name}", f"delete chain {table} {name}"]
    lines += [f"delete table {_WORD[family]} {table_name(family)}" for family in sorted(emptied)]
    return "".join(f"{line}\n" for line in lines)


def rule_text(rule: Rule, family: Family) -> str:
    """One rule as nft reads it. Pure."""
    words: list[str] = []
    if rule.mark is not None:
        value, mask = rule.mark
        words.append(f"meta mark & {mask:#x} == {value:#x}")
    for side, net in (("saddr", rule.source), ("daddr", rule.destination)):
        if net is not None:
            operator = "!= " if net.startswith("!") else ""
            words.append(f"{_WORD[family]} {side} {operator}{net.removeprefix('!')}")
    words.append(rule.verdict)
    words += ["fully-random"] if rule.fully_random else []
    return " ".join(words)


def decode(family: Family, items: Sequence[dict[str, Any]]) -> list[Chain]:
    """Our chains in what `nft -j list table` prints. Pure."""
    rules: dict[str, list[Rule]] = {}
    broken: set[str] = set()
    for item in items:
        if "chain" in item and item["chain"]["name"] in _KINDS:
            rules[item["chain"]["name"]] = []
            if "hook" not in item["chain"]:
                broken.add(item["chain"]["name"])  # a chain of this name without a hook does nothing
        elif "rule" in item and item["rule"]["chain"] in rules:
            rule = _rule(item["rule"]["expr"])
            # None: written by somebody else. A rule that we never want makes the chain differ.
            rules[item["rule"]["chain"]].append(rule or Rule("accept", "foreign"))
    return [
        Chain("nftables", family, _KINDS[name], (Rule("accept", "no hook"),) if name in broken else tuple(found))  # type: ignore[arg-type]
        for name, found in rules.items()
    ]


def _rule(expressions: Sequence[dict[str, Any]]) -> Rule | None:
    source = destination = mark = None
    for expression in expressions:
        match expression:
            case {"match": {"op": op, "left": {"payload": {"field": field}}, "right": right}} if op in ("==", "!="):
                net = _network(right)
                if net is None:
                    return None
                net = f"!{net}" if op == "!=" else net
                source, destination = (net, destination) if field == "saddr" else (source, net)
            case {"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, int(mask)]}, "right": int(value)}}:
                mark = (value, mask)
            case {"return": None}:
                return Rule("return", source, destination, mark)
            case {"accept": None}:
                return Rule("accept", source, destination, mark)
            case {"masquerade": options}:
                flags = (options or {}).get("flags", [])
                random = flags == "fully-random" or flags == ["fully-random"]
                return Rule("masquerade", source, destination, mark, random) if random or not flags else None
            case _:
                return None
    return None


def _network(value: Any) -> str | None:
    match value:
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return f"{address}/{length}"
    return None
