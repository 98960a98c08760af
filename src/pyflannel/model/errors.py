"""Errors, by whose fault they are: the operator's, the store's, this kernel's (or cloud's)."""

from __future__ import annotations

from typing import Any


class FlannelError(Exception):
    """Root of every error that is raised on purpose."""


class ConfigError(FlannelError):
    """The operator's input is wrong: names the place, the field, the value and what is allowed.

    >>> str(ConfigError("net-conf.json", "SubnetLen", 16, "more than 16 (the Network's prefix) and at most 30"))
    'net-conf.json: SubnetLen is 16, expected more than 16 (the Network's prefix) and at most 30'
    """

    def __init__(self, source: str, field: str, value: Any, expected: str) -> None:
        if isinstance(value, bool):
            shown = str(value).lower()  # as in JSON
        else:
            shown = f'"{value}"' if isinstance(value, str) else "missing" if value is None else str(value)
        super().__init__(f"{source}: {field} is {shown}, expected {expected}")
        self.source, self.field, self.value, self.expected = source, field, value, expected


class StoreError(FlannelError):
    """The store could not do what was asked. Retrying later may help."""


class StoreUnreachable(StoreError):
    """No endpoint of the store answers (in time), or none lets us in."""


class ConfigMissing(StoreError):
    """The store holds no network config yet; the message says how to write one."""


class LeasePending(StoreError):
    """The cluster hasn't given this node a subnet yet; the message says who gives it, and what that needs."""


class OutOfSubnets(StoreError):
    """Every subnet of the range is leased; the message says how many and which range."""


class LeaseTaken(StoreError):
    """The subnet we ask for, or held, belongs to another node; the message names it."""


class AddressInUse(StoreError):
    """Another live node has published the public address that this node would publish; names both."""


class Unreachable(FlannelError):
    """A backend can't reach this peer: says why, and the way out."""


class TableError(FlannelError):
    """This kernel (or cloud) refused a row: the row, and the errno if there is one."""

    def __init__(self, row: object, reason: str, errno: int | None = None) -> None:
        super().__init__(f"{row}: {reason}")
        self.row, self.reason, self.errno = row, reason, errno
