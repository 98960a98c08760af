"""A JSON object read as flannel reads it (Go's encoding/json), field by field, with errors that name the field.

Key names match in any case and the last of duplicates wins; unknown keys are ignored; null keeps the default
(except for IPv4 values, where it is an error); integers must be plain non-negative literals; bools only
true/false. Source: flannel v0.28's observable behaviour (control-plane reference, 0.1 and 0.2).
"""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface
from typing import Any

from pyflannel.model.errors import ConfigError

DEEPEST = 100  # Ours to tune: what is read here is walked through recursively later
_UNSET: Any = object()
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


class Fields:
    """One JSON object. `source` is what errors call it, `path` the way to it from the top ("Backend.")."""

    def __init__(self, pairs: list[tuple[str, Any]], source: str, path: str = "") -> None:
        self._values = {name.lower(): value for name, value in pairs}
        self._source, self._path = source, path

    @classmethod
    def parse(cls, text: str, source: str) -> Fields:
        """Read *text*, whose top level must be an object (null counts as an empty one)."""
        try:
            value = json.loads(text, object_pairs_hook=_Object, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ConfigError(source, "the text", _excerpt(text), f"a JSON object ({error})") from None
        if text.count("[") + text.count("{") > DEEPEST and _too_deep(value):
            raise ConfigError(source, "the text", _excerpt(text), f"values nested at most {DEEPEST} deep")
        if value is None:
            return cls([], source)
        if not isinstance(value, _Object):
            raise ConfigError(source, "the text", _excerpt(text), "a JSON object")
        return cls(value, source)

    def error(self, name: str, value: Any, expected: str) -> ConfigError:
        """A ConfigError about field *name* of this object."""
        return ConfigError(self._source, self._path + name, value, expected)

    def has(self, name: str) -> bool:
        return name.lower() in self._values

    def says(self, name: str) -> bool:
        """True if *name* is there with a value, null being none."""
        return self._values.get(name.lower()) is not None

    def boolean(self, name: str, default: bool) -> bool:
        value = self._values.get(name.lower())
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def integer(self, name: str, default: int, low: int = 0, high: int = 2**32 - 1) -> int:
        """A plain integer literal within low…high."""
        value = self._values.get(name.lower())
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, _plain(value), f"an integer from {low} to {high}")
        return value

    def text(self, name: str, default: str) -> str:
        value = self._values.get(name.lower())
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(name, _plain(value), "a string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; absent or null is empty."""
        value = self._values.get(name.lower())
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(name, _plain(value), "a list of strings")
        return tuple(value)

    def ipv4(self, name: str) -> IPv4Address | None:
        """An IPv4 address (IPv4-mapped IPv6 is taken too); 0.0.0.0 and absence are None."""
        value = self._values.get(name.lower(), _UNSET)
        if value is _UNSET:
            return None
        try:
            address = ip_address(value) if isinstance(value, str) and "%" not in value else None
        except ValueError:
            address = None
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped
        if address is None:
            raise self.error(name, _plain(value), "an IPv4 address such as 10.5.1.0")
        return address if int(address) else None

    def ipv6(self, name: str) -> IPv6Address | None:
        """An IPv6 address (IPv4 is mapped); "::", null and absence are None."""
        value = self._values.get(name.lower())
        if value is None:
            return None
        try:
            address = ip_address(value) if isinstance(value, str) and "%" not in value else None
        except ValueError:
            address = None
        if isinstance(address, IPv4Address):
            address = IPv6Address(f"::ffff:{address}")
        if address is None:
            raise self.error(name, _plain(value), "an IPv6 address such as fd00:5:1::")
        return address if int(address) else None

    def network4(self, name: str) -> IPv4Network | None:
        """An IPv4 network; host bits are cleared as flannel does; 0.0.0.0/0 and absence are None."""
        net = self._network(name, "an IPv4 network such as 10.5.0.0/16")
        if net is None or isinstance(net, IPv4Network):
            return net
        raise self.error(name, str(net), "an IPv4 network such as 10.5.0.0/16")

    def network6(self, name: str) -> IPv6Network | None:
        """An IPv6 network; an IPv4 one is refused (flannel takes it and computes nonsense)."""
        net = self._network(name, "an IPv6 network such as fd00:5::/48")
        if net is None or isinstance(net, IPv6Network):
            return net
        raise self.error(name, str(net), "an IPv6 network such as fd00:5::/48")

    def _network(self, name: str, expected: str) -> IPv4Network | IPv6Network | None:
        value = self._values.get(name.lower(), _UNSET)
        if value is _UNSET:
            return None
        try:
            prefix_only = isinstance(value, str) and value.partition("/")[2].isdecimal() and "%" not in value
            net = ip_interface(value).network if prefix_only else None
        except ValueError:
            net = None
        if net is None:
            raise self.error(name, _plain(value), expected)
        return net if int(net.network_address) or net.prefixlen else None

    def child(self, name: str) -> Fields | None:
        """The object *name*; None if absent, an empty one for null."""
        value = self._values.get(name.lower(), _UNSET)
        if value is _UNSET:
            return None
        if value is not None and not isinstance(value, _Object):
            raise self.error(name, _plain(value), "an object such as {}")
        return Fields(value or [], self._source, f"{self._path}{name}.")

    def raw(self, name: str) -> str | None:
        """Any value as compact JSON text, keys in their order; None if absent or null. Escapes as Go writes them."""
        value = self._values.get(name.lower())
        return None if value is None else compact(_plain(value))


def compact(value: Any) -> str:
    """JSON without blanks, escaped as Go's encoder does; half a surrogate pair, which no encoding has, as U+FFFD."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return _SURROGATE.sub("\ufffd", text).translate(_ESCAPED)


class _Object(list[tuple[str, Any]]):
    """A JSON object before its keys are folded: duplicates and order kept."""


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            item
            for outer in level
            if isinstance(outer, list)
            for item in ((inner for _, inner in outer) if isinstance(outer, _Object) else outer)
        ]
    return bool(level)


def _plain(value: Any) -> Any:
    if isinstance(value, _Object):
        return {key: _plain(item) for key, item in value}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _excerpt(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
