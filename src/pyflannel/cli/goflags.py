"""Go's flag syntax, which flannel's users have in their unit files and manifests (control-plane reference, 1.1, 1.3).

`-name value`, `-name=value`, `--name value`, `--name=value`; a bare bool means true and takes a value only after `=`;
integers as Go writes them; parsing stops at `--` or at the first word that is no flag. Unlike Go's, a wrong flag or
variable is an error to its caller, not a message and exit 0. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pyflannel.model.errors import FlannelError

Kind = Literal["text", "texts", "int", "bool"]
Status = Literal["done", "no effect", "not yet", "ours"]

_TRUE = frozenset(["1", "t", "T", "TRUE", "true", "True"])
_FALSE = frozenset(["0", "f", "F", "FALSE", "false", "False"])
_INTEGER = re.compile(r"[+-]?[0-9][0-9a-zA-Z_]*", re.ASCII)
_OCTAL = re.compile(r"[+-]?0_?[0-7][0-7_]*", re.ASCII)
_INT_BITS = 63  # Go's int on 64-bit machines


class UsageError(FlannelError):
    """A flag or variable is wrong: the message is one line that names it. Exit code 2."""


class HelpAsked(FlannelError):
    """-h or --help was among the flags."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag, as data.

    `status`: done as in flannel; accepted with no effect; not yet in this version (its message says what to use
    instead); ours (flannel has none). `note` tells where we differ from flannel. `low`…`high` bound an integer,
    `choices` lists the words allowed; a `secret` is never shown.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    status: Status = "done"
    note: str = ""
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "FLANNELD_" + self.name.upper().replace("-", "_").replace(".", "_")

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        if self.kind == "bool":
            return "true or false"
        if self.choices:
            return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.kind == "int":
            if self.low is not None and self.high is not None:
                return f"a whole number from {self.low} to {self.high}"
            if self.low is not None:
                return f"a whole number of at least {self.low}"
            return "a whole number" if self.high is None else f"a whole number of at most {self.high}"
        return "text"

    def read(self, text: str, where: str) -> Any:
        """The value that *text* is. Raises UsageError naming *where* it stands."""
        shown = "(hidden)" if self.secret else f'"{text}"'
        wrong = UsageError(f"{where} is {shown}, expected {self.allowed}")
        if self.kind == "bool":
            if text not in _TRUE | _FALSE:
                raise wrong
            return text in _TRUE
        if self.kind == "int":
            number = go_integer(text)
            if number is None or (self.low is not None and number < self.low):
                raise wrong
            if self.high is not None and number > self.high:
                raise wrong
            return number
        if self.choices and text not in self.choices:
            raise wrong
        return text


@dataclass(frozen=True, slots=True)
class Parsed:
    """Values of those flags that were given, and the words after the flags (Go ignores them)."""

    values: Mapping[str, Any]
    rest: tuple[str, ...]


def parse_arguments(flags: Mapping[str, Flag], arguments: Sequence[str]) -> Parsed:
    """Read *arguments*. A repeated flag's last value counts, but "texts" collect. Raises UsageError, HelpAsked."""
    values: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words[0]
        if not word.startswith("-") or word == "-":
            break
        words.pop(0)
        if word == "--":
            break
        name, equals, text = word.removeprefix("-").removeprefix("-").partition("=")
        if name in ("h", "help"):
            raise HelpAsked
        flag = flags.get(name)
        if flag is None:
            raise UsageError(f"unknown flag {word.partition('=')[0]}: see --help")
        if not equals:
            if flag.kind == "bool":
                text = "true"
            elif not words:
                raise UsageError(f"flag --{name} needs a value: {flag.allowed}")
            else:
                text = words.pop(0)
        value = flag.read(text, f"flag --{name}")
        values[name] = (*values.get(name, ()), value) if flag.kind == "texts" else value
    return Parsed(values, tuple(words))


def parse_environment(flags: Mapping[str, Flag], environment: Mapping[str, str]) -> dict[str, Any]:
    """Values of those flags that have a variable; an empty one counts as unset, as in flannel. Raises UsageError."""
    values: dict[str, Any] = {}
    for name, flag in flags.items():
        text = environment.get(flag.variable, "")
        if text:
            value = flag.read(text, f"variable {flag.variable}")
            values[name] = (value,) if flag.kind == "texts" else value
    return values


def go_integer(text: str) -> int | None:
    """The number that *text* is as a Go literal: 0x, 0o, 0b, a leading 0 for octal, underscores. None if it's none."""
    try:
        if _OCTAL.fullmatch(text):
            number = int(text, 8)
        elif _INTEGER.fullmatch(text):
            number = int(text, 0)
        else:
            return None
    except ValueError:
        return None
    return number if -(1 << _INT_BITS) <= number < 1 << _INT_BITS else None
